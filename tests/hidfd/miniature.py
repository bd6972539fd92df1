"""A tiny world: a 3-class teacher on 28-px noise images, and a trial over it that takes a second."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from hidfd.config.schema import TrialConfig
from hidfd.networks.build import build_backbone

SMALL_GENERATOR = {"networks": "light", "image_size_pixels": 28, "width": 4, "latent_dim": 8}

METHODS: dict[str, dict[str, Any]] = {
    "dafl": {"method": "dafl", "dafl": SMALL_GENERATOR},
    "cmi": {
        "method": "cmi",
        "cmi": SMALL_GENERATOR
        | {"round_images": 32, "synthesis_batch_images": 8, "synthesis_steps": 3, "embedding_width": 6, "negatives": 4},
    },
    "dfnd": {"method": "dfnd"},
}
"""Method -> the values that make a miniature of it."""


def build_world(root: Path) -> Path:
    """Fill a folder with `candidates/`, `validation/<class>/` and `teacher.safetensors` (28 px, grey, 3 classes)."""
    draws = np.random.default_rng(0)
    for part, count in (("candidates", 150), ("validation", 30)):
        for i in range(count):
            label = i % 3
            image = draws.normal(40, 25, (28, 28))
            image[label * 9 : label * 9 + 9] += 150
            folder = root / part / (f"class{label}" if part == "validation" else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    torch.manual_seed(0)
    teacher = build_backbone("resnet8", num_classes=3, channels=1, width=4)
    teacher.classifier.bias.data += torch.tensor([0.01, 0.0, 0.008])  # so that every class is some image's argmax
    safetensors.torch.save_file(teacher.state_dict(), root / "teacher.safetensors")
    return root


def miniature(world: Path) -> TrialConfig:
    """Return a whole trial in miniature: three GAN steps, four student steps."""
    return TrialConfig.model_validate(
        {
            "data": {
                "num_classes": 3,
                "channels": 1,
                "image_size_pixels": 28,
                "candidates": {"path": str(world / "candidates")},
                "validation": {"path": str(world / "validation")},
            },
            "teacher": {
                "architecture": "resnet8",
                "width": 4,
                "checkpoint": {"path": str(world / "teacher.safetensors")},
                "mean": [0.3],
                "std": [0.3],
            },
            "collection": {"num_images": 24, "holdout_images": 110, "mode": "random"},
            "generation": {
                "networks": "light",
                "image_size_pixels": 28,
                "width": 4,
                "latent_dim": 8,
                "target_images": 48,
                "batch_images": 8,
                "adam_beta1": 0.5,
                "integration": {"hidden_width": 16},
                "smoothing": {"update_images": 16},
                "ema": {"half_life_images": 100, "start_images": 0, "ramp": 0.5},
                "diff_augment": ["color", "translation", "cutout"],
                "statistics_batches": 2,
                "grid_every_images": 16,
                "proxies_every_images": 24,
            },
            "synthesis": {"num_images": 40},
            "distillation": {
                "architecture": "resnet8",
                "width": 4,
                "target_images": 64,
                "batch_images": 16,
                "measure_every_images": 32,
                "schedule": "cosine",
            },
            "log_every_images": 16,
            "checkpoint_every_seconds": 0.001,
        }
    )

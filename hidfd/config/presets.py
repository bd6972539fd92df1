"""Presets of a study file: values that replace the defaults and are replaced by the file's own. Torch-free."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"precision": "bf16"},
    "quick": {
        "generation": {
            "networks": "light",
            "image_size_pixels": 28,
            "width": 32,
            "target_images": 20_000,  # 625 steps
            "batch_images": 32,
            "generator_learning_rate": 1e-3,
            "discriminator_learning_rate": 1e-3,
            "adam_beta1": 0.5,
            "ema": {"half_life_images": 20_000, "start_images": 0, "ramp": 0.05},
            "smoothing": {"update_images": 2_500},
            "diff_augment": ["color", "translation"],  # cutout costs a short training more than it gives
            "grid_every_images": 4_000,
            "proxies_every_images": 20_000,
        },
        "collection": {"num_images": 100, "holdout_images": 1_000, "mode": "random"},
        "synthesis": {"num_images": 3_000},
        "distillation": {
            "architecture": "resnet8",
            "feature_weight": 10.0,  # the MSE over all elements is small: with a weight of 1, 600 steps do not converge
            "target_images": 38_400,  # 1,200 steps
            "batch_images": 32,
            "learning_rate": 0.2,  # the best of 0.05 and 0.2 for the hybrid and for real images alone
            "schedule": "cosine",
            "measure_every_images": 9_600,
            "crop_scale_min": 0.5,
            "crop_fraction_synthetic": 0.0,
            "mix": "cutmix",
            "view_bank": 4_000,  # few views that are seen several times beat as many as there are steps for
        },
        "dafl": {"networks": "light", "image_size_pixels": 28, "width": 32, "latent_dim": 128},
        "cmi": {
            "networks": "light",
            "image_size_pixels": 28,
            "width": 32,
            "latent_dim": 128,
            "generator_learning_rate": 5e-3,  # five times the published one for half the steps, as of `generation`
            "round_images": 6_400,
            "synthesis_batch_images": 64,
            "synthesis_steps": 100,
            "negatives": 512,
        },
        "log_every_images": 1_600,
        "checkpoint_every_seconds": 20.0,
    },
}
"""Name of a preset -> its values; the paper's hyperparameters are the defaults of the fields."""

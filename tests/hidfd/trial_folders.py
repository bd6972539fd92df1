"""Trial folders as `hidfd.report.folder` leaves them, with numbers of a plausible size and nothing computed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from hidfd.config.paths import with_values
from hidfd.config.presets import PRESETS
from hidfd.config.schema import TrialConfig

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SECONDS = {"candidates": 2.3, "teacher": 0.1, "collection": 3.5, "generation": 61.0, "synthesis": 2.1}


def make_trial_folder(
    folder: Path, *, until: str = "evaluation", labels: bool = True, generator: bool = True, agreement: float = 0.86
) -> Path:
    """Make the folder of a trial of the quick preset, built up to one stage.

    Args:
        until: the last stage that it reached.
        labels: whether it had a validation split.
        generator: whether it had synthetic images.
        agreement: of its student.
    """
    config = quick_config(labels=labels, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = {"name": folder.name, "trial": config.model_dump(mode="json", exclude={"preset"})}
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    roles = ["candidates", "validation"] if labels else ["candidates"]
    roles += [
        "teacher",
        "collection",
        *(["generation", "synthesis"] if generator else []),
        "distillation",
        "evaluation",
    ]
    roles = roles[: roles.index(until) + 1]
    manifest = {
        "name": folder.name,
        "stages": [_stage(role, number) for number, role in enumerate(roles)],
        "device": "cpu, 1 thread, fp32",
        "versions": {"hidfd": "0.1.0", "torch": "2.15.0"},
        "git_commit": None,
        "command": "python -m hidfd run studies/quickstart.yaml",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = _result(agreement, labels="evaluation" in roles and labels, generator="generation" in roles)
    if "evaluation" not in roles:
        result |= {key: None for key in result if key.startswith(("agreement", "kl", "student", "deployed"))}
    (folder / "result.json").write_text(json.dumps(result))
    rows = [row for role in roles for row in _curves(role, agreement)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _draw(folder, "generation" in roles)
    return folder


def quick_config(*, labels: bool = True, generator: bool = True, **values: Any) -> TrialConfig:
    """Return the quick preset over materials that are known by their hash alone."""
    data = {
        "num_classes": 10,
        "class_names": NAMES,
        "channels": 1,
        "image_size_pixels": 28,
        "candidates": {"sha256": "a" * 64},
        "candidates_in_domain": True,
        "validation": {"sha256": "b" * 64} if labels else None,
    }
    teacher = {"architecture": "resnet14", "checkpoint": {"sha256": "c" * 64}, "mean": [0.29], "std": [0.35]}
    config = TrialConfig.model_validate(PRESETS["quick"] | {"data": data, "teacher": teacher})
    return with_values(config, values if generator else {"synthesis.num_images": 0, **values})


def _stage(role: str, number: int) -> dict[str, Any]:
    metas: dict[str, dict[str, Any]] = {
        "teacher": {"num_parameters": 174_970},
        "collection": {"num_candidates": 4000, "checked_against_test": False},
        "synthesis": {"num_images": 4000},
    }
    name = "import" if role in ("candidates", "validation") else role
    reused = number < 3
    return {
        "name": name,
        "role": role,
        "digest": f"{number:064x}",
        "reused": reused,
        "seconds": SECONDS.get(role, 25.0),
        "meta": metas.get(role, {}),
    }


def _result(agreement: float, *, labels: bool, generator: bool) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    per_class = np.clip(agreement + draws.normal(0, 0.08, 10), 0, 1).tolist()
    confusion = (np.eye(10, dtype=int) * 150 + draws.integers(0, 12, (10, 10))).tolist()
    proxies = {
        "confidence": 0.77,
        "effective_classes": 9.6,
        "label_agreement": 0.71,
        "teacher_deviation": 0.0104,
        "density": 0.83,
        "coverage": 0.51,
        "memorisation": 0.021,
        "memorisation_standard_error": 0.008,
        "memorisation_pixels": 0.004,
        "memorisation_pixels_standard_error": 0.007,
    }
    return {
        "agreement": agreement,
        "agreement_standard_error": 0.011,
        "agreement_classes": 10,
        "agreement_per_class": [None, *per_class[1:]],
        "agreement_reference": agreement,
        "kl_to_teacher": 0.41,
        "validation_images": 2000 if labels else None,
        "validation_accuracy": agreement - 0.02 if labels else None,
        "validation_per_class": per_class if labels else None,
        "validation_confusion": confusion if labels else None,
        "validation_calibration_error": 0.05 if labels else None,
        "teacher_validation_accuracy": 0.92 if labels else None,
        "class_histogram_collection": [8, 13, 14, 11, 12, 10, 8, 12, 9, 3],
        "class_histogram_synthetic": [390, 368, 577, 360, 415, 391, 298, 537, 386, 278] if generator else None,
        "generator": proxies if generator else None,
        "student_parameters": 77_754,
        "deployed_parameters": 91_322,
        "teacher_parameters": 174_970,
        "num_collected": 100,
        "num_synthetic": 4000 if generator else 0,
        "real_share": 0.2 if generator else 1.0,
        "in_domain": True,
        "class_names": list(NAMES),
    }


def _curves(role: str, agreement: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if role == "generation":
        terms = ("hinge_d", "hinge_g", "adc_d", "adc_g", "trans", "blend", "reg", "score_real", "score_fake")
        for images in range(3200, 32_001, 3200):
            row = {f"generation/{term}": 2 + 3 * math.exp(-images / (5e3 + 1e3 * i)) for i, term in enumerate(terms)}
            rows.append({"stage": role, "images": images, "seconds": images / 550, **row})
            if images % 16_000 == 0:
                found = {"effective_classes": 9.2, "memorisation": 0.02, "memorisation_standard_error": 0.01}
                rows.append({"stage": role, "images": images, **{f"generation/{k}": v for k, v in found.items()}})
    if role == "distillation":
        for images in range(3200, 38_401, 3200):
            loss = 0.28 + math.exp(-images / 6e3)
            row = {"distillation/feature": loss, "distillation/total": loss, "distillation/batch_agreement": 0.75}
            rows.append({"stage": role, "images": images, "seconds": images / 900, **row})
            if images % 9600 == 0:
                value = agreement * (1 - 0.2 * math.exp(-images / 1e4))
                rows.append({"stage": role, "images": images, "distillation/agreement": value})
    return rows


def _draw(folder: Path, generator: bool) -> None:
    draws = np.random.default_rng(1)
    for name in ("real", "synthetic", "neighbours") if generator else ("real",):
        (folder / "pictures").mkdir(exist_ok=True)
        size = (56, 224) if name == "neighbours" else (280, 280)
        Image.fromarray(draws.integers(0, 255, size, dtype=np.uint8)).save(folder / "pictures" / f"{name}.png")
    (folder / "samples").mkdir(exist_ok=True)
    for images in range(8000, 48_001, 8000) if generator else ():
        grid = Image.fromarray(draws.integers(0, 255, (280, 224), dtype=np.uint8))
        grid.save(folder / "samples" / f"generation-{images:012d}.png")

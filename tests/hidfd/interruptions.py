"""Trials that are stopped or killed in the middle of a stage, and what they have left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Artifact, Store
from hidfd.trial import TrialResult

FILES = {"teacher": "weights.safetensors", "generation": "generator.safetensors", "distillation": "student.safetensors"}
"""Stages that train -> the file with the weights."""


class Stopper(Observer):
    """An observer that asks to stop after a stage has reported its progress some times."""

    def __init__(self, stage: str, intervals: int) -> None:
        self.stage, self.left = stage, intervals
        self.finished: list[str] = []

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        if stage.name == self.stage:
            self.left -= 1
            self.stop_reason = "the test asked" if self.left <= 0 else None

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        self.finished.append(stage.name)


class Killer(Stopper):
    """An observer that ends the process without a chance to save, as far as a test can."""

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        super().advanced(stage, images, target_images, metrics)
        if self.stop_reason is not None:
            raise KeyboardInterrupt


def with_own_teacher(config: TrialConfig, world: Path, **training: Any) -> TrialConfig:
    """Return the trial with a teacher of its own training, of 64 images unless `training` says otherwise.

    So short a training gives every image one class, which is accepted here.
    """
    train = {"images": {"path": str(world / "validation")}, "target_images": 64, "batch_images": 16, **training}
    teacher = {"architecture": "resnet8", "width": 4, "train": train, "accept": True}
    return TrialConfig.model_validate(config.model_dump() | {"teacher": teacher})


def artifact(result: TrialResult, store: Store, role: str) -> Artifact:
    return store.get(result.stages[role].name, result.stages[role].digest)


def left_by(result: TrialResult, store: Store, role: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Return the weights, and the curve without its times."""
    made = artifact(result, store, role)
    return safetensors.torch.load_file(made.path(FILES[role])), timeless(made.metrics())


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of metrics without what differs from one run to the next."""
    return [{name: value for name, value in row.items() if name not in ("seconds", "unix_time")} for row in rows]

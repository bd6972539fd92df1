"""The inputs of stages: artifacts of other stages of the trial.

Teacher and collection are opened once, the others at each access.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection, open_collection
from hidfd.data.image_set import open_images
from hidfd.distributed.device import Device
from hidfd.networks.student import Student, load_student
from hidfd.networks.teacher import Teacher, load_judge, load_teacher
from hidfd.pipeline.graph import Stage
from hidfd.store.store import Artifact, Store


class StageInputs:
    """The artifacts that the stages of one trial read.

    Args:
        config: the trial, with the sha256 of every material.
        stages: its stages by role.
        store: the store with the artifacts that have been built.
        device: the device that networks are loaded onto.
    """

    def __init__(self, config: TrialConfig, stages: dict[str, Stage], store: Store, device: Device) -> None:
        self._config, self._stages, self._store, self._device = config, stages, store, device

    def artifact(self, role: str) -> Artifact:
        """Return the artifact of a stage.

        Raises:
            StoreError: it has not been built.
        """
        stage = self._stages[role]
        return self._store.get(stage.name, stage.digest)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, on the device."""
        return load_teacher(self.artifact("teacher"), self._config, self._device)

    @cached_property
    def judge(self) -> Teacher | None:
        """The network that judges synthetic images, on the device; None where they are not judged."""
        return load_judge(self.artifact("judge"), self._config, self._device) if self._config.is_judged else None

    @cached_property
    def collection(self) -> Collection:
        """The collected images and the hold-out."""
        return open_collection(self.artifact("collection"), self.artifact("candidates"))

    @property
    def synthetic(self) -> Tensor | None:
        """The synthetic images, `n_s x c x h x w` uint8; None where none reach the student."""
        if not self._config.uses_synthetic_images:
            return None
        return torch.from_numpy(open_images(self.artifact("synthesis")).pixels)

    @property
    def caches(self) -> dict[str, Path]:
        """Local folders for what is derived from the images that a student learns from, `real` and `synthetic`."""
        roles = {"real": "collection"} | ({"synthetic": "synthesis"} if self._config.uses_synthetic_images else {})
        return {name: self.artifact(role).cache for name, role in roles.items()}

    @property
    def judged(self) -> tuple[Teacher, Tensor] | None:
        """The judge and the synthetic images, for the evaluation; None where they are not judged."""
        judge, synthetic = self.judge, self.synthetic
        return None if judge is None or synthetic is None else (judge, synthetic)

    @property
    def student(self) -> Student:
        """The trained student, on the device."""
        return load_student(self.artifact("distillation"), self._config, self.teacher, self._device)

"""Trainings on a device, and blocks in which the host must not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import hidfd.training.loop
from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import open_images
from hidfd.distributed.device import Device
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.stages.teacher import TeacherTraining
from hidfd.store.store import Store
from hidfd.training.loop import Training
from hidfd.trial import Trial

TERMS = {
    "teacher": {"cross_entropy"},
    "generation": {"hinge_d", "adc_d", "trans", "blend", "hinge_g", "adc_g", "reg"},
    "distillation": {"kl", "ce", "total"},
}
"""Stages that train -> losses that every variant of their steps has, where all weights are above 0."""

SHARES = {"accuracy", "teacher_agreement", "batch_agreement"}
"""Metrics that count argmaxes: one rounding may turn one, so they differ by whole images or not at all."""

PROTOTYPE = "ignore:Synchronization debug mode is a prototype:UserWarning"
"""Filter for torch's warning at the first block in which the host must not wait."""


def training_of(stage: str, config: TrialConfig, store: Store, device: Device) -> tuple[Training, Trial]:
    """Return a training of the stage, and its trial; what comes before it is found in the store or built."""
    trial = Trial(config, store, device, Observer())
    trial.run("collection")
    inputs = trial.inputs
    if stage == "teacher":
        return TeacherTraining(trial.config, open_images(inputs.artifact("teacher_images")), device), trial
    if stage == "generation":
        return AdversarialTraining(trial.config, inputs.collection, inputs.teacher, device), trial
    synthetic = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return StudentTraining(trial.config, inputs.collection, synthetic, inputs.teacher, device), trial


def images_per_step(stage: str, config: TrialConfig) -> int:
    """Return how many images a step of the stage sees."""
    _, batch = config.batches[stage]
    return batch * (config.generation.discriminator_steps if stage == "generation" else 1)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Make it an error, inside the block, that the host waits for the GPU; without one nothing changes."""
    with _sync_debug_mode("error"):
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Allow the host to wait, inside a block in which it must not."""
    with _sync_debug_mode("default"):
        yield


@contextmanager
def no_waiting_between_rows() -> Iterator[None]:
    """Make it an error that a training loop waits other than to read a row of metrics or to write a checkpoint.

    The caller enters `no_waiting` where the loop begins, and `waiting` in the actions of its milestones.
    """

    def allowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            with waiting():
                return function(*arguments)

        return wrapped

    loop = hidfd.training.loop
    with (
        mock.patch.object(loop, "_interval_row", allowed(loop._interval_row)),
        mock.patch.object(loop, "_write_state", allowed(loop._write_state)),
    ):
        yield


@contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)

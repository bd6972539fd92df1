"""Students as functions from pixels to classes: in a store, beside their teacher, or in an exported folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hidfd.config.schema import TrialConfig
from hidfd.export.bundle import labels_of, open_bundle
from hidfd.export.formats import open_network
from hidfd.export.preprocessing import Preprocessing
from hidfd.store.store import Store

BATCH_IMAGES = 64
"""Images that an exported network answers at a time."""


@dataclass(frozen=True)
class ClassAnswers:
    """The answers to a batch of images.

    Attributes:
        classes: `n` int64, the number of the student's class.
        confidences: `n` float32, its softmax probability.
        teacher_classes: `n` int64, those of the teacher; None where there is none.
    """

    classes: NDArray[np.int64]
    confidences: NDArray[np.float32]
    teacher_classes: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Classifier:
    """A student that names the classes of images.

    Attributes:
        labels: names of the classes.
        preprocessing: of the images that it takes.
        has_teacher: whether its teacher is asked as well.
        answer: function of `n x c x h x h` uint8.
    """

    labels: Sequence[str]
    preprocessing: Preprocessing
    has_teacher: bool
    answer: Callable[[NDArray[np.uint8]], ClassAnswers]


def trial_classifier(config: TrialConfig, store: Store, device_name: str) -> Classifier:
    """Return the finished student of a trial, beside its teacher.

    Args:
        config: with the sha256 of every material.
        store: that holds both.
        device_name: `auto`, `cpu` or `cuda`.

    Raises:
        StoreError: the store lacks one of them.
        DeviceError: there is no such device.
    """
    import torch

    from hidfd.distributed.device import resolve_device
    from hidfd.networks.student import student_logits
    from hidfd.pipeline.graph import plan
    from hidfd.pipeline.known_networks import recall_networks
    from hidfd.stages.inputs import StageInputs

    recall_networks(config, store)
    device = resolve_device(device_name, "fp32")
    inputs = StageInputs(config, plan(config), store, device)
    teacher, student = inputs.teacher, inputs.student

    def answer(pixels: NDArray[np.uint8]) -> ClassAnswers:
        images = torch.from_numpy(pixels)
        of_student = _answers(student_logits(student, teacher, images, device).numpy())
        of_teacher = teacher.ask_all(images, device).logits.argmax(dim=1).numpy()
        return ClassAnswers(of_student.classes, of_student.confidences, of_teacher)

    return Classifier(labels_of(config), Preprocessing.of(config.data), True, answer)


def bundle_classifier(folder: Path) -> Classifier:
    """Return the student of an exported folder, on the CPU.

    Raises:
        ConfigError: it is no such folder, or onnxruntime is not installed.
        InputError: it is damaged.
    """
    bundle = open_bundle(folder)
    run = open_network(bundle.network, bundle.format)

    def answer(pixels: NDArray[np.uint8]) -> ClassAnswers:
        parts = [pixels[start : start + BATCH_IMAGES] for start in range(0, len(pixels), BATCH_IMAGES)]
        return _answers(np.concatenate([run(part.astype(np.float32) / np.float32(255)) for part in parts]))

    return Classifier(bundle.labels, bundle.preprocessing, False, answer)


def _answers(logits: NDArray[np.float32]) -> ClassAnswers:
    """Return class and confidence of each row of logits."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return ClassAnswers(logits.argmax(axis=1), shares.max(axis=1))

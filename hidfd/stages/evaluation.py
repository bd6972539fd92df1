"""What a student is worth: agreement on the hold-out, and accuracy on labelled splits. The test labels have one door.

**Source**: METHOD of this project, "choosing and comparing honestly"; the authors' release picks its epoch on the test
split, which nothing here can do: `open_test_labels` is the only reader, and it leaves a record in the store.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hidfd.data.collection import Collection
from hidfd.data.image_set import ImageSet, open_images
from hidfd.distributed.device import Device
from hidfd.metrics.agreement import measure_agreement
from hidfd.metrics.classification import calibration_error, confusion
from hidfd.metrics.generator import MIN_REFERENCE_IMAGES
from hidfd.networks.student import Student, student_logits
from hidfd.networks.teacher import Teacher
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter


def evaluate(
    context: StageContext, student: Student, teacher: Teacher, collection: Collection, validation: Artifact | None
) -> Artifact:
    """Measure a student; the artifact's meta holds the numbers (see `hidfd.trial.TrialResult`)."""
    started, device = time.monotonic(), context.device
    student_says = student_logits(student, teacher, collection.holdout, device)
    teacher_says = teacher.logits_of(collection.holdout, device)
    agreement = measure_agreement(student_says, teacher_says)
    meta: dict[str, Any] = {
        "agreement": agreement.value,
        "agreement_standard_error": agreement.standard_error,
        "agreement_classes": agreement.num_classes,
        "agreement_is_plain_mean": agreement.is_plain,
        "agreement_per_class": agreement.per_class,
        "kl_to_teacher": agreement.kl,
        "agreement_reference": None,
    }
    if int(collection.reference.sum()) >= MIN_REFERENCE_IMAGES:
        chosen = collection.reference
        meta["agreement_reference"] = measure_agreement(student_says[chosen], teacher_says[chosen]).value
    if validation is not None:
        meta |= labelled_measures("validation", open_images(validation), student, teacher, device)
    return context.keep(partial(_write_numbers, "evaluation.json", meta), seconds=time.monotonic() - started)


def labelled_measures(
    split: str, images: ImageSet, student: Student, teacher: Teacher, device: Device
) -> dict[str, Any]:
    """Accuracy (also per class and of the teacher), confusion matrix and calibration error on a labelled split."""
    assert images.labels is not None
    labels = torch.from_numpy(images.labels)
    pixels = torch.from_numpy(images.pixels)
    logits = student_logits(student, teacher, pixels, device)
    matrix = confusion(logits, labels)
    return {
        f"{split}_images": len(labels),
        f"{split}_accuracy": _accuracy(logits, labels),
        f"{split}_per_class": (matrix.diagonal() / matrix.sum(dim=1).clamp(min=1)).tolist(),
        f"{split}_confusion": matrix.tolist(),
        f"{split}_calibration_error": calibration_error(logits, labels),
        f"teacher_{split}_accuracy": _accuracy(teacher.logits_of(pixels, device), labels),
    }


def open_test_labels(context: StageContext, student: Student, teacher: Teacher) -> Artifact:
    """The one door to the test labels. The opening stands in the store with its date, and is not repeated.

    Args:
        context: with the stage that `hidfd.pipeline.graph.test_evaluation_of` gives.
    """
    stage, store = context.stage, context.store
    opened = store.find(stage.name, stage.digest)
    if opened is not None:
        return opened
    labelled = store.get("import", stage.inputs["test"])
    meta = labelled_measures("test", open_images(labelled), student, teacher, context.device)
    return context.keep(partial(_write_numbers, "test.json", meta), consumed=[labelled])


def _write_numbers(name: str, meta: dict[str, Any], writer: ArtifactWriter) -> dict[str, Any]:
    writer.path(name).write_text(json.dumps(meta, indent=1))
    return meta


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()

"""The evaluation of a student: agreement with the teacher on the hold-out, and accuracy on labelled splits.

**Source**: METHOD of this project, "choosing and comparing honestly"; the authors' release picks its epoch on the test
split, which nothing here can do: `run_test_evaluation` alone reads the test labels, and it leaves a record in the
store.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import torch
from torch import Tensor

from hidfd.data.collection import Collection
from hidfd.data.image_set import ImageSet, open_images
from hidfd.data.pixels import resize_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import stream
from hidfd.metrics.agreement import measure_agreement
from hidfd.metrics.answers import Answers
from hidfd.metrics.classification import calibration_error, confusion
from hidfd.metrics.generator import (
    MIN_REFERENCE_IMAGES,
    NEIGHBOURS,
    density_and_coverage,
    frechet_distance,
    kernel_distance,
)
from hidfd.networks.student import Student, student_logits
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.watch import watched
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter

ANSWERS = "answers.json"
"""File of an evaluation with measure -> `Answers`; evaluations of older versions lack it."""

MAX_JUDGED_IMAGES = 2_000
"""Number of images of each kind, at most, that a judge compares: as many as the proxies of a generator."""


def evaluate(
    context: StageContext,
    student: Student,
    teacher: Teacher,
    collection: Collection,
    validation: Artifact | None,
    judged: tuple[Teacher, Tensor] | None = None,
) -> Artifact:
    """Measure a student; the meta of the artifact holds the numbers, `answers.json` the answers to single images.

    Args:
        validation: labelled images to measure the accuracy on; None where the trial has none.
        judged: the judge and the synthetic images, uint8; None where they are not judged.

    Raises:
        Stopped: the observer asked for it.
    """
    started, labelled = time.monotonic(), None if validation is None else open_images(validation)
    total = 2 * (len(collection.holdout) + (0 if labelled is None else len(labelled.pixels)))  # student and teacher
    context.observer.stage_started(context.stage, total)
    with watched(context.observer, context.stage, total, "evaluation"):
        meta, answers = _measures(student, teacher, collection, labelled, context.device)
    if judged is not None:
        with watched(context.observer, context.stage, None, "judging of the synthetic images"):
            meta |= judge_measures(*judged, collection.holdout, context.device)

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        plain = {measure: of_images.to_json() for measure, of_images in answers.items()}
        writer.path(ANSWERS).write_text(json.dumps(plain), encoding="utf-8")
        return _write_numbers("evaluation.json", meta, writer)

    return context.keep(write, seconds=time.monotonic() - started)


def answers_in(evaluation: Artifact) -> dict[str, dict[str, Any]]:
    """Return measure -> `Answers` as plain JSON; nothing where an older version has measured the student."""
    if ANSWERS not in evaluation.files:
        return {}
    found: dict[str, dict[str, Any]] = json.loads(evaluation.path(ANSWERS).read_text(encoding="utf-8"))
    return found


def _content(*arrays: Tensor) -> str:
    """Return the sha256 of what images and groups are compared by: the same for the same images in the same order."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.contiguous().numpy().tobytes())
    return content.hexdigest()


def _measures(
    student: Student, teacher: Teacher, collection: Collection, labelled: ImageSet | None, device: Device
) -> tuple[dict[str, Any], dict[str, Answers]]:
    """Return the numbers, and measure -> whether the student is right, image by image."""
    of_student = student_logits(student, teacher, collection.holdout, device)
    of_teacher = teacher.logits_of(collection.holdout, device)
    agreement = measure_agreement(of_student, of_teacher)
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
        meta["agreement_reference"] = measure_agreement(of_student[chosen], of_teacher[chosen]).value
    answers = {"agreement": Answers.of(_content(collection.holdout, of_teacher.argmax(dim=1)), agreement.hits)}
    if labelled is not None:
        assert labelled.labels is not None
        numbers, is_right = labelled_measures("validation", labelled, student, teacher, device)
        content = _content(torch.from_numpy(labelled.pixels), torch.from_numpy(labelled.labels))
        meta, answers = meta | numbers, answers | {"validation_accuracy": Answers.of(content, (is_right,))}
    return meta, answers


def labelled_measures(
    split: str, images: ImageSet, student: Student, teacher: Teacher, device: Device
) -> tuple[dict[str, Any], tuple[bool, ...]]:
    """Measure accuracy (also per class and the teacher's), confusion matrix and calibration error on a labelled split.

    Args:
        split: `validation` or `test`; the names of the measures begin with it.

    Returns:
        The measures, and whether the student is right, image by image.
    """
    assert images.labels is not None
    labels = torch.from_numpy(images.labels)
    pixels = torch.from_numpy(images.pixels)
    logits = student_logits(student, teacher, pixels, device)
    matrix = confusion(logits, labels)
    measures = {
        f"{split}_images": len(labels),
        f"{split}_accuracy": _accuracy(logits, labels),
        f"{split}_per_class": (matrix.diagonal() / matrix.sum(dim=1).clamp(min=1)).tolist(),
        f"{split}_confusion": matrix.tolist(),
        f"{split}_calibration_error": calibration_error(logits, labels),
        f"teacher_{split}_accuracy": _accuracy(teacher.logits_of(pixels, device), labels),
    }
    return measures, tuple((logits.argmax(dim=1) == labels).tolist())


def judge_measures(judge: Teacher, synthetic: Tensor, holdout: Tensor, device: Device) -> dict[str, Any]:
    """Compare synthetic and held-out images in the features of a judge: FID, KID, density and coverage.

    Args:
        synthetic: `n_s x c x h x h` uint8, of which as many are drawn as there are hold-out images (at most 2,000).
        holdout: `n x c x H x H` uint8, brought to the size of the synthetic ones: else size alone tells them apart.

    Returns:
        Name -> value, each name beginning with `judge_`; only the number of images where they are too few.
    """
    count = min(MAX_JUDGED_IMAGES, len(holdout), len(synthetic))
    measured: dict[str, Any] = {"judge_images": count}
    if count <= NEIGHBOURS:
        return measured
    drawn = torch.randperm(len(synthetic), generator=stream(0, "evaluation", "judge"))[:count]
    fake = judge.ask_all(synthetic[drawn], device).pooled
    real = judge.ask_all(resize_uint8(holdout[:count], synthetic.shape[-1]), device).pooled
    kid, error = kernel_distance(real, fake)
    measured |= {"judge_fid": frechet_distance(real, fake), "judge_kid": kid, "judge_kid_standard_error": error}
    return measured | {f"judge_{name}": value for name, value in density_and_coverage(real, fake).items()}


def run_test_evaluation(context: StageContext, student: Student, teacher: Teacher) -> Artifact:
    """Measure a student on the test labels, once: a second call returns the record of the first, with its date.

    Nothing else reads these labels.

    Args:
        context: with the stage that `hidfd.pipeline.graph.test_evaluation_of` returns.
    """
    stage, store = context.stage, context.store
    found = store.find(stage.name, stage.digest)
    if found is not None:
        return found
    labelled = store.get("import", stage.inputs["test"])

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        """Read the labels only when the record of it can be written."""
        meta, _ = labelled_measures("test", open_images(labelled), student, teacher, context.device)
        return _write_numbers("test.json", meta, writer)

    return context.keep(write, consumed=[labelled])


def _write_numbers(file: str, meta: dict[str, Any], writer: ArtifactWriter) -> dict[str, Any]:
    writer.path(file).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return meta


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()

"""Agreement of a student with its teacher, which needs no labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_CLASS_IMAGES = 10
"""Smallest number of hold-out images with which a class (of the teacher's argmax) counts."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of student and teacher on images that neither was trained on here.

    Attributes:
        value: mean over classes of the share of agreement, 0..1; the plain mean if `is_plain`.
        standard_error: of `value`.
        num_classes: classes that qualified.
        per_class: `K` shares; None where a class has fewer than `MIN_CLASS_IMAGES`.
        kl: mean KL(teacher || student), nats.
        is_plain: fewer than half of the classes qualified.
        hits: whether the student agrees, image by image, for each class that `value` is a mean over; in the order of
            the images, which is the same for all students of one teacher. A single group if `is_plain`.
    """

    value: float
    standard_error: float
    num_classes: int
    per_class: list[float | None]
    kl: float
    is_plain: bool
    hits: tuple[tuple[bool, ...], ...]


def measure_agreement(student_logits: Tensor, teacher_logits: Tensor) -> Agreement:
    """Measure the label-free objective.

    Args:
        student_logits, teacher_logits: `n x K` of the hold-out.

    Returns:
        The mean over the classes with at least 10 images. Its error is sqrt(sum_c p_c (1 - p_c) / n_c) / C with
        p_c = (k + 1) / (n + 2), so that a class without a miss still has an error.

    **Source**: this project.
    """
    num_classes = teacher_logits.shape[1]
    labels = teacher_logits.argmax(dim=1)
    agrees = student_logits.argmax(dim=1) == labels
    counts = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels[agrees], minlength=num_classes)
    kl = F.kl_div(
        F.log_softmax(student_logits, dim=1),
        F.log_softmax(teacher_logits, dim=1),
        reduction="batchmean",
        log_target=True,
    ).item()
    per_class: list[float | None] = []
    groups: list[tuple[bool, ...]] = []
    variance = 0.0
    for label, (count, hit) in enumerate(zip(counts.tolist(), hits.tolist(), strict=True)):
        if count < MIN_CLASS_IMAGES:
            per_class.append(None)
            continue
        per_class.append(hit / count)
        groups.append(tuple(agrees[labels == label].tolist()))
        smoothed = (hit + 1) / (count + 2)
        variance += smoothed * (1 - smoothed) / count
    shares = [share for share in per_class if share is not None]
    if 2 * len(shares) < num_classes:
        n, k = len(labels), int(agrees.sum())
        smoothed = (k + 1) / (n + 2)
        error, hit_or_not = math.sqrt(smoothed * (1 - smoothed) / n), tuple(agrees.tolist())
        return Agreement(k / n, error, len(shares), per_class, kl, True, (hit_or_not,))
    error = math.sqrt(variance) / len(shares)
    return Agreement(sum(shares) / len(shares), error, len(shares), per_class, kl, False, tuple(groups))

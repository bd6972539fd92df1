"""Measures against labels: confusion matrix and calibration error."""

from __future__ import annotations

import torch
from torch import Tensor

CALIBRATION_BINS = 15
"""Number of equal bins of confidence."""


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Confusion matrix, `K x K` int64 counts: rows are labels, columns predictions."""
    num_classes = logits.shape[1]
    cells = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error, 0..1, over 15 equal bins of confidence (Guo et al. 2017)."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    correct = (predicted == labels).float()
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    count = torch.bincount(bins, minlength=CALIBRATION_BINS)
    gap = torch.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return (gap.abs().sum() / count.sum()).item()

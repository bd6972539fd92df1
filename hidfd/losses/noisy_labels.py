"""The noisy-label loss of DFND: the teacher's labels of collected images, seen through an adaptation matrix.

**Source**: Chen et al. 2021, reconstructed from its abstract; docs/method.md says what is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoiseAdaptation(nn.Module):
    """The adaptation matrix Q: `K x K`, rows that sum to 1, Q_jk the chance that a label says k where j is true.

    Args:
        num_classes: K.
        diagonal: of Q at the start, in (0, 1); the rest is spread evenly.
    """

    def __init__(self, num_classes: int, diagonal: float) -> None:
        super().__init__()
        odds = diagonal * (num_classes - 1) / (1 - diagonal)
        self.logits = nn.Parameter(math.log(odds) * torch.eye(num_classes))

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """L_noisy: cross-entropy of Q's s to the teacher's argmax, mean over the batch.

        Args:
            student_logits, teacher_logits: `b x K`; s is the softmax of the student's.
        """
        labels = teacher_logits.argmax(dim=1)
        student = F.log_softmax(student_logits.float(), dim=1)
        noise = F.log_softmax(self.logits.float(), dim=1)[:, labels].T  # `b x K`: log Q_jk of each image's label k
        return -torch.logsumexp(student + noise, dim=1).mean()

    def mean_diagonal(self) -> float:
        """Return the mean of Q's diagonal: the share of labels that are taken as right."""
        return F.softmax(self.logits.detach().float(), dim=1).diagonal().mean().item()

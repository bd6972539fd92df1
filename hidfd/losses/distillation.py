"""Losses of a student: feature alignment, KL to the teacher, cross-entropy to the teacher's argmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hidfd.config.schema import DistillationConfig
from hidfd.networks.student import StudentOutput


def feature_loss(projected: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared error over all elements; a larger teacher map is average-pooled to the student's size.

    Args:
        projected: `b x t x h x w`.
        teacher_map: `b x t x H x W` with H >= h.
    """
    if teacher_map.shape[-1] > projected.shape[-1]:
        teacher_map = F.adaptive_avg_pool2d(teacher_map, projected.shape[-1])
    return F.mse_loss(projected.float(), teacher_map.float())


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of softened predictions, `b x K` each, mean over the batch (Hinton et al. 2015)."""
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def ce_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy to the teacher's argmax of the same view; never to the label that G was asked for."""
    return F.cross_entropy(student_logits.float(), teacher_logits.argmax(dim=1))


def student_losses(
    output: StudentOutput, teacher_map: Tensor, teacher_logits: Tensor, config: DistillationConfig
) -> dict[str, Tensor]:
    """Return every loss term that is switched on, unweighted, and `total`, their weighted sum."""
    terms: dict[str, tuple[float, Tensor]] = {}
    if config.feature_weight > 0:
        assert output.projected is not None, "feature alignment needs the projector"
        terms["feature"] = (config.feature_weight, feature_loss(output.projected, teacher_map))
    if config.kl_weight > 0:
        terms["kl"] = (config.kl_weight, kl_loss(output.logits, teacher_logits, config.kl_temperature))
    if config.ce_weight > 0:
        terms["ce"] = (config.ce_weight, ce_loss(output.logits, teacher_logits))
    losses = {name: loss for name, (_, loss) in terms.items()}
    losses["total"] = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
    return losses

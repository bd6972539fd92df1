"""Losses of images that are made from a teacher alone: those of DAFL, and those of CMI.

**Source**: Chen et al. 2019 (DAFL) and Fang et al. 2021 (CMI); docs/method.md says where each was read.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-8
"""Added to a class's share inside the logarithm of the entropy."""


def one_hot_loss(teacher_logits: Tensor) -> Tensor:
    """L_oh: cross-entropy of the teacher's answers, `b x K`, to their own argmax."""
    return F.cross_entropy(teacher_logits.float(), teacher_logits.argmax(dim=1))


def activation_loss(pooled: Tensor) -> Tensor:
    """L_a: minus the mean absolute feature of the teacher, from `b x t`."""
    return -pooled.float().abs().mean()


def entropy_loss(teacher_logits: Tensor) -> Tensor:
    """L_ie: minus the entropy in nats of the teacher's mean answer over a batch, from `b x K`; at least -log K."""
    shares = F.softmax(teacher_logits.float(), dim=1).mean(dim=0)
    return (shares * torch.log(shares + EPS)).sum()


def statistics_loss(layers: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """L_bn: distance of a batch's statistics from those that a teacher has kept, summed over its batch norms.

    Args:
        layers: input of a batch norm, `b x c x h x w`, and its running mean and variance, `c` each.

    Returns:
        Scalar: 2-norms over the channels of the difference of means and of biased variances.
    """
    distances = []
    for features, mean, variance in layers:
        found, spread = features.float().mean(dim=(0, 2, 3)), features.float().var(dim=(0, 2, 3), correction=0)
        distances += [torch.linalg.vector_norm(found - mean), torch.linalg.vector_norm(spread - variance)]
    return torch.stack(distances).sum()


def class_loss(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """L_cls: cross-entropy of the teacher's answers, `b x K`, to the classes that were asked for, `b` int64."""
    return F.cross_entropy(teacher_logits.float(), labels)


def adversarial_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_adv: minus KL(teacher || student), `b x K` each, mean over the batch; 0 of images on which they disagree."""
    student, teacher = (F.log_softmax(logits.float(), dim=1) for logits in (student_logits, teacher_logits))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return -(divergence * agree).mean()


def contrastive_loss(local: Tensor, whole: Tensor, temperature: float, num_new: int) -> Tensor:
    """L_cr: cross-entropy of finding each image's global view among all by its local one.

    Args:
        local, whole: `n x e` unit vectors of local and global views: first of `num_new` images, then of the bank's.
        temperature: tau, which divides their products.

    Returns:
        Scalar: the mean over the new images plus that over the bank's. No gradient reaches the global views.
    """
    products = local.float() @ whole.detach().float().T / temperature
    losses = F.cross_entropy(products, torch.arange(len(products), device=products.device), reduction="none")
    of_new, of_bank = losses[:num_new].mean(), losses[num_new:]
    return of_new + of_bank.mean() if len(of_bank) else of_new

"""Proxies of a generator, measured in the teacher's feature space before any student is trained.

**Source**: density and coverage after Naeem et al. 2020 (k = 5); memorisation is this project's:
feature integration should keep the generator from memorising the few real images, so that is measured.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEIGHBOURS = 5
"""k of the k-th nearest neighbour, whose distance is the radius of density and coverage."""

MIN_REFERENCE_IMAGES = 100
"""Smallest reference for which memorisation is reported: below it fewer than five images decide the 5 % quantile."""

MEMORISED_QUANTILE = 0.05
"""Quantile of the reference's distances that is the threshold, so the share expected below it without copying."""

MEAN_VIEWS = 640
"""Number of views in a mean of `teacher_deviation`, as published: it only scales the value."""


def confidence_and_entropy(logits: Tensor) -> dict[str, float]:
    """Mean top probability of teacher logits, `n x K`, and exp(entropy) of their argmax shares (1..K)."""
    shares = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]).float() / len(logits)
    entropy = -(shares * torch.log(shares.clamp(min=1e-12))).sum().item()
    return {
        "confidence": logits.softmax(dim=1).amax(dim=1).mean().item(),
        "effective_classes": math.exp(entropy),
    }


def teacher_deviation(logits: Tensor) -> float:
    """Return the standard deviation, over draws, of the teacher's mean probability of a class; mean over the classes.

    Lower is better where augmentations of one set are compared. It is 0 also where all images look alike, so read it
    beside the effective classes.

    Args:
        logits: `n x K` of the teacher, of one view each of n images that were drawn independently.

    **Source**: Wang et al. 2022 (NeurIPS; "T. stddev"): their release takes the deviation of successive means of 640
    answers. Two departures: the expected value of that, sqrt(variance / 640), from n independent answers, instead of
    an estimate from few means; and all answers are of views, where theirs are half of images without the augmentation.
    """
    return (logits.softmax(dim=1).var(dim=0) / MEAN_VIEWS).sqrt().mean().item()


def density_and_coverage(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Density (0 or more, about 1 for equal distributions) and coverage (0..1).

    Args:
        real: `n x t` teacher features of the hold-out.
        fake: `n x t` of as many synthetic images.
    """
    radius = torch.cdist(real, real).kthvalue(NEIGHBOURS + 1, dim=1).values
    inside = torch.cdist(real, fake) < radius.unsqueeze(1)
    return {
        "density": inside.sum(dim=0).float().mean().item() / NEIGHBOURS,
        "coverage": inside.any(dim=1).float().mean().item(),
    }


def memorisation(collected: Tensor, synthetic: Tensor, reference: Tensor) -> tuple[float, float] | None:
    """Share of synthetic images that lie closer to a collected one than 95 % of unseen real images do.

    Args:
        collected, synthetic, reference: `n x d` in one space (teacher features, or pixels); the reference is the
            hold-out images that the selection would have taken.

    Returns:
        The share (0.05 is expected without copying) and its standard error, which includes the quantile's own;
        None with fewer than `MIN_REFERENCE_IMAGES`.
    """
    if len(reference) < MIN_REFERENCE_IMAGES:
        return None
    threshold = torch.cdist(reference, collected).amin(dim=1).quantile(MEMORISED_QUANTILE)
    share = (torch.cdist(synthetic, collected).amin(dim=1) < threshold).float().mean().item()
    variance = share * (1 - share) / len(synthetic)
    variance += MEMORISED_QUANTILE * (1 - MEMORISED_QUANTILE) / len(reference)
    return share, math.sqrt(variance)

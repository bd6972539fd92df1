"""Measures of generators in the features of a network: the teacher's, before any student is trained, or a judge's.

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


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Frechet distance (FID) of two sets of features, as if both were Gaussian: 0 or more, lower is better.

    Few images make it too large, the more so the wider the features: with 2,000 images and 512 features, two sets of
    one distribution are well above 0. So it compares sets of equal size in the same features, and nothing else.

    Args:
        real, fake: `n x t` and `m x t`.

    **Source**: Heusel et al. 2017. Departures: features of a network of the user's instead of Inception's; and the
    trace of the root of C_r C_f is summed from the eigenvalues of the symmetric C_r^(1/2) C_f C_r^(1/2), in float64.
    """
    real, fake = real.double(), fake.double()
    cov_real, cov_fake = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    common = torch.linalg.eigvalsh(root @ cov_fake @ root).clamp(min=0).sqrt().sum()
    means = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    distance: Tensor = means + cov_real.trace() + cov_fake.trace() - 2 * common
    return max(0.0, distance.item())


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Return the kernel distance (KID) of two sets of features, and its standard error: about 0 for one distribution.

    It is the squared MMD with the kernel (x . y / t + 1)^3, without bias, so at times below 0.

    Args:
        real, fake: `n x t` each, n at least 3.

    **Source**: Binkowski et al. 2018; the U-statistic of Gretton et al. 2012 (Eq. 4), without pairs of the i-th real
    and the i-th fake image. Departure: all images at once, not means over subsets; the error is the jackknife's.
    """
    real, fake, n = real.double(), fake.double(), len(real)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    crossed = kernel(real, fake)
    of_pairs = (kernel(real, real) + kernel(fake, fake) - crossed - crossed.T).fill_diagonal_(0)
    of_images = of_pairs.sum(dim=1)
    without_one = (of_pairs.sum() - 2 * of_images) / ((n - 1) * (n - 2))
    error = ((n - 1) * without_one.var(correction=0)).sqrt()
    return (of_pairs.sum() / (n * (n - 1))).item(), error.item()

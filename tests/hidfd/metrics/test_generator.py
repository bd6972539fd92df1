"""Measures of generators, against values that can be computed by hand."""

import pytest
import torch
from torch import Tensor

from hidfd.metrics.generator import MEAN_VIEWS, frechet_distance, kernel_distance, teacher_deviation


def test_teacher_deviation_is_that_of_mean_probabilities_over_draws_of_640_views() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4 * MEAN_VIEWS, 5, generator=draws)
    drawn = torch.randint(len(logits), (2_000, MEAN_VIEWS), generator=draws)
    means = torch.stack([logits[rows].softmax(dim=1).mean(dim=0) for rows in drawn])
    torch.testing.assert_close(teacher_deviation(logits), means.std(dim=0).mean().item(), rtol=0.03, atol=0)


def test_an_unsure_teacher_deviates_less() -> None:
    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    assert teacher_deviation(0.5 * logits) < teacher_deviation(logits) < teacher_deviation(3 * logits)
    assert teacher_deviation(logits[:1].expand(500, 5)) < 1e-6


def gaussian(count: int, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return `count x t` features whose mean and covariance are exactly the given ones."""
    drawn = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn -= drawn.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(drawn.T.cov()), drawn.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_is_the_known_one() -> None:
    mean, shifted = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    variances, others = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 4.0, 9.0], [4.0, 4.0, 0.25]))
    one, other = (rotation @ torch.diag(v) @ rotation.T for v in (variances, others))
    real, fake = gaussian(50, mean, one), gaussian(70, shifted, other)
    # Of covariances with the same axes it is |m1 - m2|^2 + sum (s1 - s2)^2: 5 + 1 + 0 + 2.5^2.
    assert frechet_distance(real, fake) == pytest.approx(12.25)
    assert frechet_distance(fake, real) == pytest.approx(12.25)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_is_sound_with_fewer_images_than_features_and_too_large() -> None:
    draws = torch.Generator().manual_seed(0)
    few, many = ([torch.randn(n, 32, generator=draws) for _ in range(2)] for n in (20, 2_000))
    assert frechet_distance(few[0], few[0]) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(*few) > 10 * frechet_distance(*many) > 0


def test_kernel_distance_is_unbiased_and_knows_its_error() -> None:
    draws = torch.Generator().manual_seed(0)
    same = [kernel_distance(*(torch.randn(40, 8, generator=draws) for _ in range(2))) for _ in range(400)]
    values, errors = (torch.tensor(of_sets) for of_sets in zip(*same, strict=True))
    assert values.mean().abs() < 3 * values.std() / 20  # a biased estimate is positive
    assert values.min() < 0
    assert values.std() < errors.mean() < 2 * values.std()  # too large for equal distributions, by up to root 2


def test_kernel_distance_of_different_sets_has_the_error_of_repeated_draws() -> None:
    draws = torch.Generator().manual_seed(0)
    apart = [
        kernel_distance(torch.randn(60, 8, generator=draws), torch.randn(60, 8, generator=draws) + 1)
        for _ in range(300)
    ]
    values, errors = (torch.tensor(of_sets) for of_sets in zip(*apart, strict=True))
    assert values.mean() > 10 * errors.mean() / 300**0.5
    assert errors.mean() == pytest.approx(values.std().item(), rel=0.15)


def test_kernel_distance_of_three_points_against_three_others_is_the_sum_written_out() -> None:
    real, fake = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]

    def kernel(a: Tensor, b: Tensor) -> float:
        return (a.item() * b.item() + 1) ** 3

    terms = (
        kernel(real[i], real[j]) + kernel(fake[i], fake[j]) - kernel(real[i], fake[j]) - kernel(fake[i], real[j])
        for i, j in pairs
    )
    assert kernel_distance(real, fake)[0] == pytest.approx(sum(terms) / len(pairs))

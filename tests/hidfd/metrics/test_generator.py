"""Measures of generators, against values that can be computed by hand."""

import torch

from hidfd.metrics.generator import MEAN_VIEWS, teacher_deviation


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

"""Measures of students and generators on logits and features whose answer is known."""

import math

import pytest
import torch

from hidfd.metrics.agreement import measure_agreement
from hidfd.metrics.classification import calibration_error, confusion
from hidfd.metrics.generator import confidence_and_entropy, density_and_coverage, memorisation


def logits_of(classes: list[int], num_classes: int) -> torch.Tensor:
    return 10.0 * torch.nn.functional.one_hot(torch.tensor(classes), num_classes).float()


def test_agreement_is_the_mean_over_classes_not_over_images() -> None:
    teacher = logits_of([0] * 30 + [1] * 10, 2)
    student = logits_of([0] * 30 + [0] * 10, 2)
    measured = measure_agreement(student, teacher)
    assert measured.value == pytest.approx(0.5)
    assert measured.per_class == [1.0, 0.0]
    expected = math.sqrt(sum(p * (1 - p) / n for p, n in ((31 / 32, 30), (1 / 12, 10)))) / 2
    assert measured.standard_error == pytest.approx(expected)


def test_agreement_leaves_out_classes_with_fewer_than_ten_images() -> None:
    measured = measure_agreement(logits_of([0] * 20 + [0] * 9, 2), logits_of([0] * 20 + [1] * 9, 2))
    assert (measured.value, measured.num_classes, measured.per_class[1]) == (1.0, 1, None)


def test_agreement_is_the_plain_mean_where_fewer_than_half_of_the_classes_qualify() -> None:
    measured = measure_agreement(logits_of([0] * 12 + [1] * 4, 5), logits_of([0] * 12 + [2] * 4, 5))
    assert measured.is_plain
    assert measured.value == pytest.approx(0.75)
    assert measured.hits == ((True,) * 12 + (False,) * 4,)


def test_agreement_is_the_mean_of_what_it_says_of_single_images() -> None:
    teacher = logits_of([0, 1] * 10 + [2] * 3 + [1], 3)
    student = logits_of([0, 0] * 2 + [0, 1] * 8 + [2] * 3 + [0], 3)
    assert measure_agreement(student, teacher).hits == (
        (True,) * 10,
        (False, False, *(True,) * 8, False),
    ), "without the class of three images"


def test_agreement_of_equal_logits_has_no_divergence() -> None:
    logits = torch.randn(50, 3)
    assert measure_agreement(logits, logits).kl == pytest.approx(0, abs=1e-6)


def test_confusion_counts_labels_in_rows() -> None:
    matrix = confusion(logits_of([0, 1, 1], 2), torch.tensor([0, 0, 1]))
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_calibration_error_of_confident_mistakes_is_one() -> None:
    assert calibration_error(logits_of([0] * 10, 2), torch.ones(10, dtype=torch.int64)) == pytest.approx(1, abs=1e-3)
    assert calibration_error(logits_of([1] * 10, 2), torch.ones(10, dtype=torch.int64)) == pytest.approx(0, abs=1e-3)


def test_effective_classes_counts_uniform_classes() -> None:
    assert confidence_and_entropy(logits_of([0, 1, 2, 0, 1, 2], 4))["effective_classes"] == pytest.approx(3, rel=1e-4)


def test_density_and_coverage_are_near_one_for_the_same_distribution_and_zero_for_a_far_one() -> None:
    draws = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 400, 8, generator=draws)
    near, far = density_and_coverage(real, fake), density_and_coverage(real, fake + 100)
    assert near["density"] == pytest.approx(1, abs=0.15)
    assert near["coverage"] > 0.9
    assert far == {"density": 0.0, "coverage": 0.0}


def test_memorisation_is_five_per_cent_without_copying_and_high_with_it() -> None:
    draws = torch.Generator().manual_seed(0)
    collected, fresh, reference = torch.randn(3, 500, 6, generator=draws)
    honest = memorisation(collected, fresh, reference)
    copied = memorisation(collected, collected + 0.01, reference)
    assert honest is not None
    assert copied is not None
    assert honest[0] == pytest.approx(0.05, abs=3 * honest[1])
    assert copied[0] == 1.0


def test_memorisation_is_not_reported_on_a_small_reference() -> None:
    assert memorisation(torch.randn(10, 2), torch.randn(10, 2), torch.randn(99, 2)) is None

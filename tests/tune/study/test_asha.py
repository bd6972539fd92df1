from __future__ import annotations

import math

import pytest

from tune.study.asha import Decision, Rung, decide, rung_images


def test_rungs_are_whole_batches_before_the_end() -> None:
    assert rung_images(38_400, 64, 0.5, 2.0) == (19_200,)
    assert rung_images(38_400, 64, 0.1, 3.0) == (3_840, 11_520, 34_560)
    assert all(images % 64 == 0 for images in rung_images(10_000, 64, 0.3, 1.5))
    assert rung_images(64, 64, 0.5, 2.0) == ()


def test_first_student_at_a_rung_goes_on() -> None:
    assert decide(0.1, [], 2.0).kept


@pytest.mark.parametrize(
    ("value", "others", "factor", "kept"),
    [
        (0.6, [0.5], 2.0, True),
        (0.4, [0.5], 2.0, False),
        (0.5, [0.5], 2.0, True),  # nobody is better
        (0.4, [0.5, 0.3], 2.0, True),  # second of three, two go on
        (0.3, [0.5, 0.4], 2.0, False),
        (0.4, [0.5, 0.3, 0.2], 4.0, False),
    ],
)
def test_best_share_goes_on(value: float, others: list[float], factor: float, kept: bool) -> None:
    assert decide(value, sorted(others), factor).kept is kept


def test_nan_is_never_kept() -> None:
    assert not decide(math.nan, [], 2.0).kept
    assert not decide(math.nan, [0.5], 2.0, margin=9.0, error=1.0).kept


@pytest.mark.parametrize(("margin", "kept"), [(0.0, False), (0.7, False), (0.9, True)])
def test_student_within_the_margin_of_the_weakest_that_goes_on_goes_on(margin: float, kept: bool) -> None:
    """Two of three go on; the second one has 0.72, and sqrt(0.020^2 + 0.015^2) = 0.025: 0.02 behind are 0.8 of it."""
    errors = {0.72: 0.015, 0.74: 5.0}
    assert decide(0.70, [0.72, 0.74], 2.0, margin=margin, error=0.020, errors=errors).kept is kept


def test_errors_at_a_rung_are_those_of_its_students() -> None:
    rung = Rung()
    for student, value, error in (("a", 0.5, 0.01), ("b", 0.5, 0.03), ("b", 0.5, 0.09), ("c", 0.4, None)):
        rung.add(student, value, error)
    assert rung.errors == {0.5: 0.03, 0.4: 0.0}


def test_decision_survives_the_ledger() -> None:
    decision = decide(0.4, [0.3, 0.5], 2.0)
    assert Decision.from_json(decision.to_json()) == decision
    assert "error" not in decision.to_json(), "as in ledgers of older versions"
    with_error = decide(0.4, [0.3, 0.5], 2.0, margin=1.0, error=0.02)
    assert Decision.from_json(with_error.to_json()) == with_error
    assert with_error.error == 0.02
    assert (decision.num_others, decision.num_better, decision.best) == (2, 1, (0.5, 0.3))


def test_decision_remembers_only_the_best_of_many() -> None:
    decision = decide(0.0, [n / 1000 for n in range(1000)], 2.0)
    assert decision.best == (0.999, 0.998, 0.997, 0.996, 0.995)
    assert (decision.num_others, decision.num_better) == (1000, 999)


def test_student_is_not_compared_with_itself() -> None:
    rung = Rung()
    for student, value in (("a", 0.5), ("b", 0.4), ("b", 0.9), ("c", math.nan)):
        rung.add(student, value)
    assert rung.others("b") == [0.5]
    assert rung.others("c") == rung.others("d") == [0.4, 0.5]

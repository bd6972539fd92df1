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


def test_decision_survives_the_ledger() -> None:
    decision = decide(0.4, [0.3, 0.5], 2.0)
    assert Decision.from_json(decision.to_json()) == decision
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

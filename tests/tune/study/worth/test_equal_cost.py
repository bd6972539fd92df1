"""The difference at equal total cost and where it crosses 0: numbers that one can follow with pencil and paper."""

import math

import pytest

from tune.study.snapshot import CostDifferenceSnapshot
from tune.study.worth.equal_cost import accuracy_at, crossings_of, differences_at_equal_cost, differences_at_equal_steps


def difference(steps: int, mean: float | None, half: float | None = None, num_seeds: int = 3) -> CostDifferenceSnapshot:
    """A difference whose interval is the mean ± half."""
    ends = (None, None) if mean is None or half is None else (mean - half, mean + half)
    return CostDifferenceSnapshot(steps, (), mean, *ends, num_seeds if mean is not None else 0)


@pytest.mark.parametrize(
    ("cost", "accuracy"),
    [
        (10.0, 0.5),
        (100.0, 0.7),  # measured there
        (math.sqrt(10 * 100), 0.6),  # half-way in log cost, not in cost
        (math.sqrt(100 * 1000), 0.65),  # accuracy may fall
        (9.99, None),
        (1000.1, None),  # nothing is extrapolated
    ],
)
def test_accuracy_at_a_cost_lies_between_its_neighbours_in_log_cost(cost: float, accuracy: float | None) -> None:
    points = [(100.0, 0.7), (10.0, 0.5), (1000.0, 0.6)]
    assert accuracy_at(cost, points) == (None if accuracy is None else pytest.approx(accuracy))


def test_students_of_equal_cost_count_as_one_of_their_mean_accuracy() -> None:
    points = [(10.0, 0.5), (100.0, 0.6), (100.0, 0.8)]
    assert accuracy_at(100.0, points) == pytest.approx(0.7)
    assert accuracy_at(math.sqrt(1000), points) == pytest.approx(0.6)
    assert accuracy_at(50.0, []) is None


def test_difference_is_taken_seed_by_seed_and_has_the_interval_of_its_mean() -> None:
    hybrid = {100: (100.0, [0.80, 0.84, 0.90])}
    real_only = {50: (10.0, [0.5] * 3), 500: (100.0, [0.7, 0.7, 0.8]), 5000: (1000.0, [0.8] * 3)}
    (found,) = differences_at_equal_cost(hybrid, real_only)
    assert found.values == pytest.approx((0.10, 0.14, 0.10))
    assert found.mean == pytest.approx(0.34 / 3)
    sd = math.sqrt((2 * (0.10 - 0.34 / 3) ** 2 + (0.14 - 0.34 / 3) ** 2) / 2)
    half = 4.302653 * sd / math.sqrt(3)  # t(0.975, 2)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.num_seeds == 3


def test_a_missing_student_leaves_its_seed_out_or_the_interpolation_to_those_that_are_left() -> None:
    hybrid = {100: (100.0, [None, 0.8, 0.9])}
    real_only = {50: (10.0, [0.5] * 3), 500: (100.0, [0.7, None, 0.7]), 5000: (1000.0, [0.9, 0.9, None])}
    (found,) = differences_at_equal_cost(hybrid, real_only)
    assert found.values == (None, pytest.approx(0.1), pytest.approx(0.2)), "0.5 to 0.9 is 0.7 half-way in log cost"
    assert found.num_seeds == 2
    without_the_longest = {**real_only, 500: (99.0, [0.7] * 3)}
    (found,) = differences_at_equal_cost(hybrid, without_the_longest)
    assert found.values[2] is None, "nothing on this seed costs as much"
    assert (found.num_seeds, found.low, found.high) == (1, None, None)


def test_difference_at_equal_steps_is_taken_seed_by_seed_whatever_the_generator_costs() -> None:
    hybrid = {100: (1e6, [0.80, 0.84, None]), 200: (None, [0.9, None, None])}
    real_only = {100: (10.0, [0.70, 0.70, 0.70]), 200: (20.0, [0.8] * 3), 900: (90.0, [0.99] * 3)}
    first, second = differences_at_equal_steps(hybrid, real_only)
    assert (first.steps, first.values) == (100, (pytest.approx(0.10), pytest.approx(0.14), None))
    assert first.high == pytest.approx(0.12 + 12.7062 * 0.02)  # sd .028 of two, over the root of 2
    assert (second.steps, second.mean, second.num_seeds, second.high) == (200, pytest.approx(0.1), 1, None)


@pytest.mark.parametrize("cost", [9.9, 1000.1, None])
def test_a_cost_outside_of_what_was_measured_or_unknown_gives_no_difference(cost: float | None) -> None:
    (found,) = differences_at_equal_cost({100: (cost, [0.8])}, {50: (10.0, [0.5]), 500: (1000.0, [0.9])})
    assert (found.values, found.mean, found.num_seeds) == ((None,), None, 0)


def test_seeds_that_happen_to_agree_do_not_make_a_difference_certain() -> None:
    (found,) = differences_at_equal_cost({10: (10.0, [0.6, 0.6])}, {10: (10.0, [0.5, 0.5])}, num_images=100)
    assert found.high is not None
    assert found.high - 0.1 == pytest.approx(12.7062 * math.sqrt(1 / (6 * 100**2) / 2))


def test_crossing_is_interpolated_in_log_steps_and_so_are_its_ends() -> None:
    found = [difference(100, -0.03, 0.01), difference(1000, -0.01, 0.02), difference(10_000, 0.03, 0.01)]
    (crossing,) = crossings_of(found)
    assert crossing.pays_beyond
    assert crossing.steps == pytest.approx(1000 * 10**0.25)
    assert crossing.low == pytest.approx(100 * 10 ** (2 / 3)), "where the upper end goes from -0.02 to 0.01"
    assert crossing.high == pytest.approx(1000 * 10 ** (3 / 5)), "where the lower end goes from -0.03 to 0.02"


def test_crossing_downwards_is_the_mirror_image() -> None:
    found = [difference(100, 0.03, 0.01), difference(1000, 0.01, 0.02), difference(10_000, -0.03, 0.01)]
    (crossing,) = crossings_of(found)
    assert not crossing.pays_beyond
    assert (crossing.steps, crossing.low, crossing.high) == pytest.approx(
        (1000 * 10**0.25, 100 * 10 ** (2 / 3), 1000 * 10 ** (3 / 5))
    )


def test_crossing_without_a_sure_side_or_without_intervals_has_open_ends() -> None:
    (unsure,) = crossings_of([difference(10, -0.01, 0.05), difference(100, 0.01, 0.05)])
    assert (unsure.steps, unsure.low, unsure.high) == (pytest.approx(math.sqrt(1000)), None, None)
    (one_seed,) = crossings_of([difference(10, -0.01), difference(100, 0.01)])
    assert (one_seed.low, one_seed.high) == (None, None)


def test_no_difference_at_all_does_not_pay() -> None:
    assert crossings_of([difference(10, -0.01), difference(100, 0.0)]) == []
    (crossing,) = crossings_of([difference(10, 0.0), difference(100, 0.01)])
    assert crossing.steps == 10


def test_every_change_of_sign_is_a_crossing_and_what_was_not_compared_is_passed_over() -> None:
    found = [difference(10, 0.01), difference(100, -0.01), difference(500, None), difference(1000, 0.01)]
    assert [(round(crossing.steps), crossing.pays_beyond) for crossing in crossings_of(found)] == [
        (32, False),
        (316, True),
    ]

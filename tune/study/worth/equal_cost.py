"""The difference of hybrid to real-only at equal total cost, and the budgets at which it changes its sign.

**Difference.** Hybrid with s steps costs c (generator included), the mean over seeds: the work on each is the same, so
that costs differ by the machine alone. On each seed, what real-only reaches at cost c is interpolated between its two
neighbouring budgets, linearly in log cost; where it was not measured on both sides of c there is no difference. The
mean over the n seeds has the 95 % interval d ± t(0.975, n - 1) * sqrt(v / n) with the sample variance v of the n
differences, which is at least 1 / (6 m^2) for accuracies on m images: a difference of two multiples of 1 / m. Each
interval is at 95 % by itself.

**Crossing.** Where the mean difference changes its sign between neighbouring budgets, interpolated linearly in log
steps. So are the ends of its interval, between which the interval of the difference contains 0. A difference of exactly
0 does not pay.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tune.study.snapshot import CostDifferenceSnapshot, CrossingSnapshot
from tune.study.verdict import t_quantile

Arm = Mapping[int, tuple[float | None, Sequence[float | None]]]
"""Steps -> the mean total cost of a student, above 0, and the accuracy on each seed; None where they are not known."""


def differences_at_equal_cost(
    hybrid: Arm, real_only: Arm, num_images: float | None = None
) -> list[CostDifferenceSnapshot]:
    """Compute the difference of hybrid to real-only at each budget of hybrid, in ascending order.

    Args:
        hybrid, real_only: the students of the two arms, on the same seeds.
        num_images: on which the accuracies were measured; None where it is not known.
    """
    return [
        _difference(steps, cost, accuracies, real_only, num_images)
        for steps, (cost, accuracies) in sorted(hybrid.items())
    ]


def differences_at_equal_steps(
    hybrid: Arm, real_only: Arm, num_images: float | None = None
) -> list[CostDifferenceSnapshot]:
    """Compute the difference of hybrid to real-only of as many steps, in ascending order.

    It is what remains where many students share a generator, whose cost is then next to nothing for each of them.

    Args:
        hybrid, real_only, num_images: see `differences_at_equal_cost`.
    """
    return [
        _mean_difference(
            steps,
            [
                None if one is None or other is None else one - other
                for one, other in zip(accuracies, real_only[steps][1], strict=True)
            ],
            num_images,
        )
        for steps, (_, accuracies) in sorted(hybrid.items())
    ]


def accuracy_at(cost: float, students: Iterable[tuple[float, float]]) -> float | None:
    """Interpolate the accuracy at a cost, linearly in log cost between the two neighbours; None outside of them.

    Students of equal cost count as one of their mean accuracy.

    Args:
        cost: above 0.
        students: cost and accuracy of each.
    """
    by_cost: dict[float, list[float]] = {}
    for known, accuracy in students:
        by_cost.setdefault(known, []).append(accuracy)
    costs = sorted(by_cost)
    if not costs or not costs[0] <= cost <= costs[-1]:
        return None
    place = bisect.bisect_left(costs, cost)
    above = statistics.fmean(by_cost[costs[place]])
    if costs[place] == cost:
        return above
    below = statistics.fmean(by_cost[costs[place - 1]])
    return below + (above - below) * math.log(cost / costs[place - 1]) / math.log(costs[place] / costs[place - 1])


def crossings_of(differences: Sequence[CostDifferenceSnapshot]) -> list[CrossingSnapshot]:
    """Find where the mean difference changes its sign, over the budgets that have one."""
    known = [difference for difference in differences if difference.mean is not None]
    pays = [_mean(difference) > 0 for difference in known]
    return [
        _crossing(known, place, pays_beyond=pays[place + 1])
        for place in range(len(known) - 1)
        if pays[place] != pays[place + 1]
    ]


def _difference(
    steps: int, cost: float | None, accuracies: Sequence[float | None], real_only: Arm, num_images: float | None
) -> CostDifferenceSnapshot:
    values: list[float | None] = []
    for seed, accuracy in enumerate(accuracies):
        others = [
            (known, found)
            for known, of_seeds in real_only.values()
            if known is not None and (found := of_seeds[seed]) is not None
        ]
        at_equal_cost = None if cost is None else accuracy_at(cost, others)
        values.append(None if accuracy is None or at_equal_cost is None else accuracy - at_equal_cost)
    return _mean_difference(steps, values, num_images)


def _mean_difference(steps: int, values: Sequence[float | None], num_images: float | None) -> CostDifferenceSnapshot:
    """Return the mean of the differences on the seeds that have one, with its 95 % interval."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    if mean is None or len(known) < 2:
        return CostDifferenceSnapshot(steps, tuple(values), mean, None, None, len(known))
    variance = max(statistics.variance(known), 1 / (6 * num_images**2) if num_images else 0.0)
    half = t_quantile(len(known) - 1) * math.sqrt(variance / len(known))
    return CostDifferenceSnapshot(steps, tuple(values), mean, mean - half, mean + half, len(known))


def _crossing(known: Sequence[CostDifferenceSnapshot], place: int, *, pays_beyond: bool) -> CrossingSnapshot:
    """Return the crossing between a budget and the next one."""
    sign = 1 if pays_beyond else -1

    def behind(difference: CostDifferenceSnapshot) -> float:
        """Return the end of the interval that is surely on the side before the crossing if it is below 0."""
        end = difference.high if pays_beyond else difference.low
        return 0.0 if end is None else sign * end

    def beyond(difference: CostDifferenceSnapshot) -> float:
        end = difference.low if pays_beyond else difference.high
        return 0.0 if end is None else sign * end

    low = next((known[n : n + 2] for n in range(place, -1, -1) if behind(known[n]) < 0), None)
    high = next((known[n - 1 : n + 1] for n in range(place + 1, len(known)) if beyond(known[n]) > 0), None)
    return CrossingSnapshot(
        steps=_root(known[place : place + 2], lambda difference: sign * _mean(difference)),
        low=None if low is None else _root(low, behind),
        high=None if high is None else _root(high, beyond),
        pays_beyond=pays_beyond,
    )


def _root(pair: Sequence[CostDifferenceSnapshot], height: Callable[[CostDifferenceSnapshot], float]) -> float:
    """Return the steps at which a height reaches 0 between two budgets, linear in log steps."""
    first, second = pair
    below, above = height(first), height(second)
    share = min(1.0, max(0.0, -below / (above - below)))
    return first.steps * float((second.steps / first.steps) ** share)


def _mean(difference: CostDifferenceSnapshot) -> float:
    assert difference.mean is not None
    return difference.mean

"""Asynchronous successive halving (ASHA) over values at exactly equal images; a pure function of these values.

**Source**: Li et al. 2020. An implementation of our own, because Optuna's pruner answers differently when it is asked
twice at one step and judges reports that lie between rungs, and Ray's forgets its rungs when the driver is killed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NUM_REMEMBERED = 5
"""Number of the best values of other students that a decision remembers: all of them would grow as trials squared."""


@dataclass(frozen=True)
class Decision:
    """A decision about one student at one rung, written into the ledger before it is acted on.

    Attributes:
        value: of the student at this rung; more is better.
        kept: whether the student goes on.
        num_others: students that had been measured at this rung before it.
        num_better: how many of them had a higher value.
        best: the highest values of the others, best first, at most `NUM_REMEMBERED`.
        error: standard error of the value; None where the pruner has no margin, which needs it.
    """

    value: float
    kept: bool
    num_others: int
    num_better: int
    best: tuple[float, ...]
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as the ledger keeps it; without an unknown error, as in older ledgers."""
        return {name: value for name, value in asdict(self).items() if name != "error" or value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        """Return the decision that `to_json` wrote as this."""
        return cls(**{**content, "best": tuple(content["best"])})


@dataclass
class Rung:
    """The values of all students at one rung, which is at exactly so many student images.

    Attributes:
        values: key of the student's task -> its value there.
        errors: value -> its standard error, the largest of those of equal values.
    """

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[float, float] = field(default_factory=dict)
    _ascending: list[float] = field(default_factory=list)

    def add(self, student: str, value: float, error: float | None = None) -> None:
        """Add the value of a student and its standard error, unless the rung has one of it already."""
        if student not in self.values:
            self.values[student] = value
            self.errors[value] = max(error or 0.0, self.errors.get(value, 0.0))
            if not math.isnan(value):
                bisect.insort(self._ascending, value)

    def others(self, student: str) -> list[float]:
        """Return the values of the other students, ascending, without NaN."""
        others = self._ascending.copy()
        own = self.values.get(student, math.nan)
        if not math.isnan(own):
            others.remove(own)
        return others


def rung_images(
    target_images: int, batch_images: int, first_rung_fraction: float, reduction_factor: float
) -> tuple[int, ...]:
    """Return the student images at which students are compared: whole numbers of batches, all before the end.

    Args:
        target_images, batch_images: of the student's training.
        first_rung_fraction: position of the first rung, as a fraction of the student's images, 0..1.
        reduction_factor: ratio of one rung's images to those of the rung before.
    """
    rungs: list[int] = []
    fraction = first_rung_fraction
    while fraction < 1:
        images = max(1, round(fraction * target_images / batch_images)) * batch_images
        if images < target_images and images not in rungs:
            rungs.append(images)
        fraction *= reduction_factor
    return tuple(rungs)


def decide(
    value: float,
    others: Sequence[float],
    reduction_factor: float,
    *,
    margin: float = 0.0,
    error: float | None = None,
    errors: Mapping[float, float] | None = None,
) -> Decision:
    """Keep a student that is among the best 1 in `reduction_factor` (rounded up) of those seen at its rung so far.

    With a margin, one that is not among them goes on nevertheless, unless it is behind the weakest of them by more than
    `margin` standard errors of the difference, taken as sqrt(se_a^2 + se_b^2). Students are measured on the same
    hold-out, where they mostly fail together, so this is an upper bound: a margin keeps rather too many.

    Args:
        value: of this student; NaN is never kept.
        others: values of the other students at exactly the same images, kept or not; ascending.
        reduction_factor: one student in so many goes on.
        margin: number of standard errors; 0 for plain successive halving.
        error: standard error of `value`; where it is not known, 0.
        errors: value of another student -> its standard error.
    """
    num_better = len(others) - bisect.bisect_right(others, value)
    allowed = math.ceil((len(others) + 1) / reduction_factor - 1e-9)
    best = tuple(reversed(others[-NUM_REMEMBERED:]))
    is_kept = num_better < allowed
    if margin and not is_kept:
        weakest = others[-allowed]
        is_kept = weakest - value <= margin * math.hypot(error or 0.0, (errors or {}).get(weakest, 0.0))
    return Decision(value, not math.isnan(value) and is_kept, len(others), num_better, best, error if margin else None)

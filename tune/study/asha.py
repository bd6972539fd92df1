"""Asynchronous successive halving over values at exactly equal images; pure, and asked twice it answers the same.

**Source**: Li et al. 2020 (ASHA). Ours, because Optuna's pruner answers differently when it is asked twice at one step
and judges a report that lies between rungs, and Ray's forgets its rungs when the driver is killed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NUM_SHOWN = 5
"""So many of the values that a student was compared with are remembered: all of them would grow as trials squared."""


@dataclass(frozen=True)
class Decision:
    """What was decided about one student at one rung; stored before it is acted on.

    Attributes:
        value: measured there; more is better.
        kept: whether the student goes on.
        num_others: students that had been measured there before it.
        num_better: of those, with a higher value.
        best: their highest values, best first, at most `NUM_SHOWN`.
    """

    value: float
    kept: bool
    num_others: int
    num_better: int
    best: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the ledger keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        """Inverse of `to_json`."""
        return cls(**{**content, "best": tuple(content["best"])})


@dataclass
class Rung:
    """What students have shown at exactly these images, each once.

    Attributes:
        values: by key of the student's task.
    """

    values: dict[str, float] = field(default_factory=dict)
    _ascending: list[float] = field(default_factory=list)

    def add(self, student: str, value: float) -> None:
        """One more; the same student again changes nothing."""
        if student not in self.values:
            self.values[student] = value
            if not math.isnan(value):
                bisect.insort(self._ascending, value)

    def others(self, student: str) -> list[float]:
        """What the others showed, ascending, NaN left out."""
        others = self._ascending.copy()
        own = self.values.get(student, math.nan)
        if not math.isnan(own):
            others.remove(own)
        return others


def rung_images(
    target_images: int, batch_images: int, first_rung_fraction: float, reduction_factor: float
) -> tuple[int, ...]:
    """The student images at which students are compared, each a whole number of batches, all before the end.

    Args:
        target_images, batch_images: of the student.
        first_rung_fraction: 0..1, of the first rung.
        reduction_factor: between one rung and the next.
    """
    rungs: list[int] = []
    fraction = first_rung_fraction
    while fraction < 1:
        images = max(1, round(fraction * target_images / batch_images)) * batch_images
        if images < target_images and images not in rungs:
            rungs.append(images)
        fraction *= reduction_factor
    return tuple(rungs)


def decide(value: float, others: Sequence[float], reduction_factor: float) -> Decision:
    """Keep a student that is among the best 1 in `reduction_factor` (rounded up) of those seen at its rung so far.

    Args:
        value: its own; NaN is never kept.
        others: what other students showed at exactly the same images, kept or not; ascending.
    """
    num_better = len(others) - bisect.bisect_right(others, value)
    allowed = math.ceil((len(others) + 1) / reduction_factor - 1e-9)
    best = tuple(reversed(others[-NUM_SHOWN:]))
    return Decision(value, not math.isnan(value) and num_better < allowed, len(others), num_better, best)

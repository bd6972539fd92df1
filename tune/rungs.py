"""Asynchronous successive halving over values at exactly equal images; pure, and asked twice it answers the same.

**Source**: Li et al. 2020 (ASHA). Ours, because Optuna's pruner answers differently when it is asked twice at one step
and judges a report that lies between rungs, and Ray's forgets its rungs when the driver is killed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """What was decided about one student at one rung; stored before it is acted on.

    Attributes:
        value: measured there; more is better.
        kept: whether the student goes on.
        against: what the others had shown there by then, best first.
    """

    value: float
    kept: bool
    against: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the ledger keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        """Inverse of `to_json`."""
        return cls(content["value"], content["kept"], tuple(content["against"]))


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


def decide(value: float, others: Iterable[float], reduction_factor: float) -> Decision:
    """Keep a student that is among the best 1 in `reduction_factor` (rounded up) of those seen at its rung so far.

    Args:
        value: its own; NaN is never kept.
        others: what other students showed at exactly the same images, kept or not.
    """
    against = tuple(sorted(others, reverse=True))
    allowed = math.ceil((len(against) + 1) / reduction_factor - 1e-9)
    better = sum(other > value for other in against)
    return Decision(value, not math.isnan(value) and better < allowed, against)

"""What a stage is expected to cost, in seconds and in bytes, learnt from what stands in the store. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hidfd.config.architectures import ARCHITECTURES
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage
from hidfd.store.store import Artifact, Store

DEFAULT_RATE = 3e10
"""Operations per second that is expected of a machine that has built nothing yet: one modern CPU core in fp32."""
GPU_RATE = 3e13
"""The same of a GPU: a quarter of what a V100 does in fp32 is 3 times less, of an H200 in bf16 7 times more."""

UNMEASURED, OF_OTHER_STAGES, OF_FEW = 10.0, 3.0, 1.5
"""How far an expectation may be off, either way: where nothing was built, only other stages, fewer than `MANY`."""

MANY = 3
OUTER_SHARE = 0.1
"""Of many measurements so many are left out of a range at either end."""


@dataclass(frozen=True)
class Range:
    """A quantity that is not known yet: what is expected, and between which bounds it may lie."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        if not isinstance(other, Range):
            other = Range(other, other, other)
        return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)

    @classmethod
    def within(cls, expected: float, factor: float) -> Self:
        """So much, or a factor less or more."""
        return cls(expected / factor, expected, expected * factor)

    @classmethod
    def measured(cls, values: Sequence[float], expected: float) -> Self:
        """What was expected of those values, and their spread without the outermost; wider where they are few."""
        ordered = sorted(values)
        last = len(ordered) - 1
        low, high = ordered[math.floor(OUTER_SHARE * last)], ordered[math.ceil((1 - OUTER_SHARE) * last)]
        factor = OF_FEW if len(ordered) < MANY else 1.0
        return cls(min(low, expected) / factor, expected, max(high, expected) * factor)


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Costs:
    """Operations per second, as they were reached.

    Attributes:
        rate: over all that was built; `DEFAULT_RATE`, or `GPU_RATE`, where nothing was.
        rates: by stage name.
        typical: median seconds by stage name, for stages whose work is not counted in operations.
        is_measured: whether anything was built.
        ranges: by stage name, seconds per operation, or seconds where its work is not counted in operations.
    """

    rate: float
    rates: dict[str, float]
    typical: dict[str, float]
    is_measured: bool
    ranges: dict[str, Range]

    @classmethod
    def of(cls, store: Store, *, on_gpu: bool | None = None) -> Costs:
        """What the artifacts of a store say.

        Args:
            store: with artifacts.
            on_gpu: only those that were built on a GPU, or only those that were not; None for all.
        """
        built: dict[str, list[Artifact]] = {}
        seconds: dict[str, list[float]] = {}
        for row in store.list():
            artifact = store.find(row.stage, row.digest) if row.kind == "artifact" else None
            if artifact is None or not artifact.meta.get("seconds"):
                continue
            if on_gpu is not None and on_gpu == (artifact.environment.get("device") or "cpu").startswith("cpu"):
                continue
            seconds.setdefault(row.stage, []).append(artifact.meta["seconds"])
            if artifact.meta.get("operations"):
                built.setdefault(row.stage, []).append(artifact)
        everything = [artifact for artifacts in built.values() for artifact in artifacts]
        ranges = {name: Range.measured(values, statistics.median(values)) for name, values in seconds.items()}
        for name, artifacts in built.items():
            per_operation = [float(a.meta["seconds"]) / float(a.meta["operations"]) for a in artifacts]
            ranges[name] = Range.measured(per_operation, 1 / _rate(artifacts))
        return cls(
            ranges=ranges,
            rate=_rate(everything) if everything else GPU_RATE if on_gpu else DEFAULT_RATE,
            rates={name: _rate(artifacts) for name, artifacts in built.items()},
            typical={name: statistics.median(values) for name, values in seconds.items()},
            is_measured=bool(everything),
        )

    def seconds(self, stage: Stage) -> float | None:
        """What building a stage is expected to take; None where its work is not counted and none was built before."""
        if not stage.operations:
            return self.typical.get(stage.name)
        return stage.operations / self.rates.get(stage.name, self.rate)

    def range(self, stage: Stage) -> Range | None:
        """The same with bounds: what was measured of this stage spread so far; wide where nothing was."""
        expected, known = self.seconds(stage), self.ranges.get(stage.name)
        if expected is None:
            return None
        if known is not None and (not stage.operations or stage.name in self.rates):
            return known * (stage.operations or 1.0)
        return Range.within(expected, OF_OTHER_STAGES if self.is_measured else UNMEASURED)

    def basis(self) -> str:
        """What the expectation rests on, in words."""
        if self.is_measured:
            return "as what was built here before"
        return f"at {self.rate:.0e} operations/s, about one {'GPU' if self.rate == GPU_RATE else 'CPU core'}"


def expected_bytes(config: TrialConfig) -> dict[str, float]:
    """About what the artifacts of a trial take in the store, by stage; those that are left out take next to nothing."""
    data, generation, student, teacher = config.data, config.generation, config.distillation, config.teacher
    # Parameters of the generators at the widths that they were counted at: 0.25 M at 32, 4.3 M at 256.
    parameters, width = (0.25e6, 32) if generation.networks == "light" else (4.3e6, 256)
    return {
        "teacher": _network_bytes(teacher.architecture, teacher.width),
        "generation": 4 * parameters * (generation.width / width) ** 2,
        "synthesis": float(config.synthesis.num_images * data.channels * data.image_size_pixels**2),
        "distillation": _network_bytes(student.architecture, student.width),
    }


def _network_bytes(architecture: str, width: int | None) -> float:
    row = ARCHITECTURES[architecture]
    return 4e6 * row.published_parameters * ((width or row.width) / row.width) ** 2


def _rate(artifacts: Sequence[Artifact]) -> float:
    operations = sum(float(artifact.meta["operations"]) for artifact in artifacts)
    return operations / sum(float(artifact.meta["seconds"]) for artifact in artifacts)

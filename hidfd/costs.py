"""What a stage is expected to cost, learnt from what the store's artifacts took to build. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hidfd.stages import Stage
from hidfd.store import Artifact, Store

DEFAULT_RATE = 3e10
"""Operations per second that is expected of a machine that has built nothing yet: one modern CPU core in fp32."""


@dataclass(frozen=True)
class Costs:
    """Operations per second, as they were reached.

    Attributes:
        rate: over all that was built; `DEFAULT_RATE` where nothing was.
        rates: by stage name.
        typical: median seconds by stage name, for stages whose work is not counted in operations.
        is_measured: whether anything was built.
    """

    rate: float
    rates: dict[str, float]
    typical: dict[str, float]
    is_measured: bool

    @classmethod
    def of(cls, store: Store) -> Costs:
        """What the artifacts of a store say."""
        built: dict[str, list[Artifact]] = {}
        seconds: dict[str, list[float]] = {}
        for row in store.list():
            artifact = store.find(row.stage, row.digest) if row.kind == "artifact" else None
            if artifact is None or not artifact.meta.get("seconds"):
                continue
            seconds.setdefault(row.stage, []).append(artifact.meta["seconds"])
            if artifact.meta.get("operations"):
                built.setdefault(row.stage, []).append(artifact)
        everything = [artifact for artifacts in built.values() for artifact in artifacts]
        return cls(
            rate=_rate(everything) if everything else DEFAULT_RATE,
            rates={name: _rate(artifacts) for name, artifacts in built.items()},
            typical={name: statistics.median(values) for name, values in seconds.items()},
            is_measured=bool(everything),
        )

    def seconds(self, stage: Stage) -> float | None:
        """What building a stage is expected to take; None where its work is not counted and none was built before."""
        if not stage.operations:
            return self.typical.get(stage.name)
        return stage.operations / self.rates.get(stage.name, self.rate)

    def basis(self) -> str:
        """What the expectation rests on, in words."""
        if self.is_measured:
            return "as what was built here before"
        return f"at {DEFAULT_RATE:.0e} operations/s, about one CPU core"


def _rate(artifacts: Sequence[Artifact]) -> float:
    operations = sum(float(artifact.meta["operations"]) for artifact in artifacts)
    return operations / sum(float(artifact.meta["seconds"]) for artifact in artifacts)

"""What a study has cost, what it may cost, and what of that is kept back. Torch-free.

Costs are resources held, not used: the seconds of an attempt times the processors and GPUs that it was given, for every
attempt, also those that were lost with their node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tune.study.config import BudgetConfig
from tune.study.states import TaskKind
from tune.study.task import Attempt, TaskSpec

HOUR = 3600.0

LIMITS = ("cpu_hours", "gpu_hours", "wall_hours", "money")
"""What a budget may limit, by the names of its fields."""


@dataclass(frozen=True)
class Cost:
    """Seconds of processors and of GPUs held, and seconds by the clock during which anything ran."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.wall_seconds + other.wall_seconds,
        )

    def money(self, budget: BudgetConfig) -> float:
        """At the budget's prices."""
        cpus, gpus = self.cpu_seconds / HOUR, self.gpu_seconds / HOUR
        return cpus * budget.price_per_cpu_hour + gpus * budget.price_per_gpu_hour

    def amounts(self, budget: BudgetConfig) -> dict[str, float]:
        """What each of `LIMITS` may limit, in its own unit."""
        hours = (self.cpu_seconds / HOUR, self.gpu_seconds / HOUR, self.wall_seconds / HOUR)
        return dict(zip(LIMITS, (*hours, self.money(budget)), strict=True))


def cost_of(resources: dict[str, float], seconds: float) -> Cost:
    """Of holding an attempt's resources for so long; `wall_seconds` is left at 0, since attempts run side by side."""
    workers = max(1.0, resources.get("workers", 1.0))
    held = seconds * workers
    return Cost(held * resources.get("cpus", 1.0), held * resources.get("gpus", 0.0))


def units_of(currency: str) -> dict[str, str]:
    """Name in `LIMITS` -> its unit, for people."""
    return dict(zip(LIMITS, ("CPU-hours", "GPU-hours", "hours", currency), strict=True))


def exhausted(spent: Cost, budget: BudgetConfig) -> str | None:
    """Which limit has been reached, in words; None while there is something left."""
    units = units_of(budget.currency)
    for name, used in spent.amounts(budget).items():
        limit: float | None = getattr(budget, name)
        if limit is not None and used >= limit:
            return f"study.budget.{name}: {used:.4g} of {limit:g} {units[name]}"
    return None


class Account:
    """The costs of a study's attempts, summed up as they begin and end."""

    def __init__(self, attempts: Iterable[Attempt] = ()) -> None:
        """Starts from what earlier runs of the study have cost."""
        self._closed = Cost()
        self._rate = Cost()  # of what runs now, per second
        self._ahead = Cost()  # what it would have cost from second 0 until it started
        self._num_running = 0
        self._busy_since = 0.0
        until = float("-inf")
        for attempt in sorted(attempts, key=lambda attempt: attempt.started):
            end = attempt.ended if attempt.ended is not None else attempt.last_seen
            own = max(0.0, end - max(attempt.started, until))
            until = max(until, end)
            seconds = max(0.0, end - attempt.started)
            self._closed += cost_of(attempt.resources, seconds) + Cost(wall_seconds=own)

    def open(self, attempt: Attempt) -> None:
        """An attempt begins."""
        if not self._num_running:
            self._busy_since = attempt.started
        self._run(attempt, 1)

    def close(self, attempt: Attempt) -> None:
        """It has ended; its times say for how long it held its resources."""
        assert attempt.ended is not None
        self._run(attempt, -1)
        self._closed += cost_of(attempt.resources, attempt.ended - attempt.started)
        if not self._num_running:
            self._closed += Cost(wall_seconds=attempt.ended - self._busy_since)

    def spent(self, now: float, ahead_seconds: float = 0.0) -> Cost:
        """Until now, or until everything that runs has run for some seconds more."""
        if not self._num_running:
            return self._closed
        until = now + ahead_seconds
        return self._closed + Cost(
            self._rate.cpu_seconds * until - self._ahead.cpu_seconds,
            self._rate.gpu_seconds * until - self._ahead.gpu_seconds,
            until - self._busy_since,
        )

    def _run(self, attempt: Attempt, change: int) -> None:
        self._num_running += change
        self._rate += cost_of(attempt.resources, change)
        self._ahead += cost_of(attempt.resources, change * attempt.started)
        if not self._num_running:
            self._rate = self._ahead = Cost()  # rounding errors shall not pile up


class Pace:
    """How long tasks take, learnt from those that have ended here: seconds per operation, by kind."""

    def __init__(self) -> None:
        self._seconds: dict[TaskKind, float] = {}
        self._operations: dict[TaskKind, float] = {}
        self._counts: dict[TaskKind, int] = {}

    @property
    def num_learnt(self) -> int:
        """Pieces that it has learnt from."""
        return sum(self._counts.values())

    def learn(self, spec: TaskSpec, seconds: float) -> None:
        """A piece was built in so many seconds, over all its attempts."""
        self._seconds[spec.kind] = self._seconds.get(spec.kind, 0.0) + seconds
        self._operations[spec.kind] = self._operations.get(spec.kind, 0.0) + spec.operations
        self._counts[spec.kind] = self._counts.get(spec.kind, 0) + 1

    def seconds(self, spec: TaskSpec) -> float | None:
        """What a piece is expected to take; None where nothing says."""
        operations = self._operations.get(spec.kind, 0.0)
        if operations and spec.operations:
            return spec.operations * self._seconds[spec.kind] / operations
        if spec.kind in self._counts:
            return self._seconds[spec.kind] / self._counts[spec.kind]
        known = [until for until, counted in self._operations.items() if counted]
        if not known or not spec.operations:
            return None
        per_operation = sum(self._seconds[until] for until in known) / sum(self._operations[until] for until in known)
        return spec.operations * per_operation

"""The costs of a study: what its attempts have cost, what its budget allows, and how long tasks take. Torch-free.

Costs are resources held, not used: the seconds of an attempt times the processors and GPUs that it was given, for every
attempt, including those that were lost with their node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hidfd.formatting import used_of
from tune.study.config import BudgetConfig
from tune.study.states import TaskKind
from tune.study.task import Attempt, TaskSpec

HOUR = 3600.0

LIMITS = ("cpu_hours", "gpu_hours", "wall_hours", "money")
"""Fields of `study.budget` that limit an amount."""


@dataclass(frozen=True)
class Cost:
    """Seconds for which processors and GPUs were held, and seconds by the clock during which anything ran."""

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
        """Return the cost at the budget's prices."""
        cpus, gpus = self.cpu_seconds / HOUR, self.gpu_seconds / HOUR
        return cpus * budget.price_per_cpu_hour + gpus * budget.price_per_gpu_hour

    def amounts(self, budget: BudgetConfig) -> dict[str, float]:
        """Return the amount that each of `LIMITS` limits, in its own unit."""
        hours = (self.cpu_seconds / HOUR, self.gpu_seconds / HOUR, self.wall_seconds / HOUR)
        return dict(zip(LIMITS, (*hours, self.money(budget)), strict=True))


def cost_of(resources: dict[str, float], seconds: float) -> Cost:
    """Return the cost of holding an attempt's resources; `wall_seconds` is 0, since attempts run side by side."""
    workers = max(1.0, resources.get("workers", 1.0))
    held = seconds * workers
    return Cost(held * resources.get("cpus", 1.0), held * resources.get("gpus", 0.0))


def units_of(currency: str) -> dict[str, str]:
    """Return name in `LIMITS` -> its unit, for people."""
    return dict(zip(LIMITS, ("CPU-hours", "GPU-hours", "hours", currency), strict=True))


def exhausted(spent: Cost, budget: BudgetConfig) -> str | None:
    """Return the limit that has been reached, in words; None while something is left of all."""
    units = units_of(budget.currency)
    for name, used in spent.amounts(budget).items():
        limit: float | None = getattr(budget, name)
        if limit is not None and used >= limit:
            return f"study.budget.{name}: {used_of(used, limit, units[name], digits=4)}"
    return None


class Account:
    """The costs of a study's attempts, summed up as they begin and end."""

    def __init__(self, attempts: Iterable[Attempt] = ()) -> None:
        """Start from the attempts of earlier runs of the study."""
        self._ended = Cost()  # of attempts that have ended
        self._rate = Cost()  # of running attempts, per second
        self._before_start = Cost()  # what running attempts would have cost from second 0 until they started
        self._num_running = 0
        self._busy_since = 0.0
        busy_until: dict[int | None, float] = {}  # by driver: what two drivers ran never overlaps
        for attempt in sorted(attempts, key=lambda attempt: attempt.start):
            seconds = max(0.0, attempt.seconds)
            end, until = attempt.start + seconds, busy_until.get(attempt.run, -math.inf)
            busy_until[attempt.run] = max(until, end)
            own = max(0.0, end - max(attempt.start, until))
            self._ended += cost_of(attempt.resources, seconds) + Cost(wall_seconds=own)

    def open(self, attempt: Attempt) -> None:
        """Count an attempt as running from now on."""
        if not self._num_running:
            self._busy_since = attempt.start
        self._count_running(attempt, 1)

    def close(self, attempt: Attempt) -> None:
        """Count an attempt that has ended, from its start to its end."""
        assert attempt.ended is not None
        self._count_running(attempt, -1)
        self._ended += cost_of(attempt.resources, attempt.seconds)
        if not self._num_running:
            self._ended += Cost(wall_seconds=attempt.start + attempt.seconds - self._busy_since)

    def spent(self, now: float, ahead_seconds: float = 0.0) -> Cost:
        """Return the cost until now, or until all running attempts have run for some seconds more.

        Args:
            now: seconds by the clock of `Attempt.start`.
            ahead_seconds: that running attempts run on.
        """
        if not self._num_running:
            return self._ended
        until = now + ahead_seconds
        return self._ended + Cost(
            self._rate.cpu_seconds * until - self._before_start.cpu_seconds,
            self._rate.gpu_seconds * until - self._before_start.gpu_seconds,
            until - self._busy_since,
        )

    def _count_running(self, attempt: Attempt, change: int) -> None:
        self._num_running += change
        self._rate += cost_of(attempt.resources, change)
        self._before_start += cost_of(attempt.resources, change * attempt.start)
        if not self._num_running:
            self._rate = self._before_start = Cost()  # rounding errors shall not pile up


class Pace:
    """The pace of a study's tasks: seconds per operation of those that cost alike, learnt from what it has built."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[TaskKind, str], float] = {}
        self._operations: dict[tuple[TaskKind, str], float] = {}
        self._counts: dict[tuple[TaskKind, str], int] = {}

    @property
    def num_learnt(self) -> int:
        """Number of tasks that it has learnt from."""
        return sum(self._counts.values())

    def learn(self, spec: TaskSpec, seconds: float) -> None:
        """Learn that a task took so many seconds, over all its attempts."""
        like = spec.costs_like
        self._seconds[like] = self._seconds.get(like, 0.0) + seconds
        self._operations[like] = self._operations.get(like, 0.0) + spec.operations
        self._counts[like] = self._counts.get(like, 0) + 1

    def seconds(self, spec: TaskSpec) -> float | None:
        """Return the seconds that a task is expected to take; None while nothing is known that would tell."""
        like = spec.costs_like
        operations = self._operations.get(like, 0.0)
        if operations and spec.operations:
            return spec.operations * self._seconds[like] / operations
        if like in self._counts:
            return self._seconds[like] / self._counts[like]
        known = [other for other, counted in self._operations.items() if counted]
        if not known or not spec.operations:
            return None
        per_operation = sum(self._seconds[other] for other in known) / sum(self._operations[other] for other in known)
        return spec.operations * per_operation

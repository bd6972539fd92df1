"""What a study will have built when it is over: how much of it is left, and what that takes. Torch-free.

It rests on how long this study's own tasks took as soon as some have ended, before that on what stands in the
store, and where nothing does on a guess with wide bounds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from hidfd.pipeline.costs import NOTHING, Costs, Range, expected_bytes
from hidfd.pipeline.graph import Stage, plan
from hidfd.store.store import Store
from tune.planner.budget import HOUR, LIMITS, Account, Cost, cost_of
from tune.planner.remaining import BUILT_BY, SHOWN, known_stages, num_users, unseen_stages
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.states import TaskKind, TaskState

NUM_WEIGHED = 3
"""So many artifacts of a stage are asked for their size."""


@dataclass(frozen=True)
class ForecastRow:
    """One kind of artifact.

    Attributes:
        what: stage.
        count: how many the study asks for, at most.
        built: how many of them stand in the store.
        left: how many are still to be built, parts of what is under way counted as parts; fewer where pruning is
            expected to stop some.
        each: seconds for one, None where that is not counted.
        bytes_each: of one in the store, with the synthetic images of a generator.
    """

    what: str
    count: int
    built: int
    left: Range
    each: Range | None
    bytes_each: float

    @property
    def seconds(self) -> Range:
        """For all that is left."""
        return self.left * self.each if self.each is not None else NOTHING

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"seconds_each": self.each.expected if self.each else None}


@dataclass(frozen=True)
class Forecast:
    """A plan.

    Attributes:
        rows: by stage.
        seconds: of work that is left, one after another.
        clock_seconds: the same by the clock, as far as tasks can run side by side.
        side: how many that is.
        cpus, gpus: held at once, at most.
        amounts: what is left by the names of a budget: `cpu_hours`, `gpu_hours`, `wall_hours`, `money`.
        bytes_left: that the store will grow by.
        num_unsuggested: students of the search whose settings nobody knows yet.
        num_generators, num_users: generators in all, and students that rest on them.
        saved_seconds: what a generator for each of these students would take on top.
        basis: what the seconds rest on, in words.
        short_of: limits of the budget that do not suffice, or may not, in words.
    """

    rows: tuple[ForecastRow, ...]
    seconds: Range
    clock_seconds: Range
    side: int
    cpus: float
    gpus: float
    amounts: dict[str, Range]
    bytes_left: float
    num_unsuggested: int
    num_generators: int
    num_users: int
    saved_seconds: float
    basis: str
    short_of: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **asdict(self),
            "stages": [row.to_json() for row in self.rows],
            "seconds": self.seconds.expected,
            "seconds_range": asdict(self.seconds),
        }


def forecast_of(state: StudyState, store: Store) -> Forecast:
    """What is left of a study, as far as it is.

    Args:
        state: of the study.
        store: where artifacts stand.
    """
    definition, pace = state.definition, _Pace(state, store)
    known, left = known_stages(state, store)
    unseen = unseen_stages(state)
    rows: list[ForecastRow] = []
    for name in SHOWN:
        stages = known[name]
        count = len(stages) + math.ceil(unseen[name].high)
        if count:
            missing = sum(left[name].values(), NOTHING) + unseen[name]
            stage = next(iter(stages.values()), None) or plan(definition.base)[name]
            built = sum(pace.is_built(stage) for stage in stages.values())
            each = pace.range(stage) if missing.high else None
            rows.append(ForecastRow(name, count, built, missing, each, pace.bytes_each(name)))
    seconds = sum((row.seconds for row in rows), NOTHING)
    side = max(1, min(definition.study.concurrency, math.ceil(sum(row.left.high for row in rows))))
    clock = _by_the_clock(state, rows, seconds, side)
    spent = Account(state.task_table.attempts()).spent(0.0)
    amounts = _amounts(definition, seconds, clock)
    generation = next((row for row in rows if row.what == "generation"), None)
    users = num_users(state, unseen)
    each = pace.range(plan(definition.base)["generation"]) if generation and definition.base.uses_generator else None
    return Forecast(
        rows=tuple(rows),
        seconds=seconds,
        clock_seconds=clock,
        side=side,
        cpus=side * cost_of(definition.resources, 1.0).cpu_seconds,
        gpus=side * cost_of(definition.resources, 1.0).gpu_seconds,
        amounts=amounts,
        bytes_left=sum(row.left.high * row.bytes_each for row in rows),
        num_unsuggested=0 if state.closed_reason is not None else state.max_search_trials - len(state.search_trials),
        num_generators=generation.count if generation else 0,
        num_users=users,
        saved_seconds=max(0, users - generation.count) * each.expected if generation and each else 0.0,
        basis=pace.basis,
        short_of=tuple(_short_of(definition, amounts, spent)),
    )


class _Pace:
    """How long the stages of a study take, and how large they are."""

    def __init__(self, state: StudyState, store: Store) -> None:
        self._store = store
        self._base = state.definition.base
        self._on_gpu = state.definition.resources.get("gpus", 0.0) > 0
        self._made = set[str]()
        self._held: defaultdict[TaskKind, list[tuple[float, float]]] = defaultdict(list)
        self._own: defaultdict[str, list[str]] = defaultdict(list)  # stage name -> digests, a few
        for task in state.tasks.values():
            if task.outcome is None or task.outcome.state is not TaskState.COMPLETE:
                continue
            self._made |= task.spec.makes
            if task.spec.operations and not task.outcome.reused:
                held = sum((a.ended or a.last_seen) - a.started for a in task.attempts)
                self._held[task.spec.kind].append((task.spec.operations, held))
            if len(self._own[task.spec.kind.last_stage]) < NUM_WEIGHED:
                self._own[task.spec.kind.last_stage].append(task.key)
                for stage in plan(task.spec.config).values():
                    if BUILT_BY.get(stage.name) == task.spec.kind:
                        self._own[stage.name].append(stage.digest)

    @cached_property
    def costs(self) -> Costs:
        """Of the whole store: read only where the ledger has no answer."""
        return Costs.of(self._store, on_gpu=self._on_gpu)

    def is_built(self, stage: Stage) -> bool:
        """Whether it is built."""
        return stage.digest in self._made or self._store.find(stage.name, stage.digest) is not None

    def range(self, stage: Stage) -> Range | None:
        """Seconds for building it."""
        held = self._held.get(BUILT_BY[stage.name])
        if held and stage.operations:
            expected = sum(seconds for _, seconds in held) / sum(operations for operations, _ in held)
            return Range.measured([seconds / operations for operations, seconds in held], expected) * stage.operations
        return self.costs.range(stage)

    def bytes_each(self, name: str) -> float:
        """In the store: as this study's own are, else by its configuration."""
        return sum(self._bytes(part) for part in ((name, "synthesis") if name == "generation" else (name,)))

    def _bytes(self, name: str) -> float:
        found = [artifact.bytes for digest in self._own[name] if (artifact := self._store.find(name, digest))]
        return sum(found) / len(found) if found else expected_bytes(self._base).get(name, 0.0)

    @property
    def basis(self) -> str:
        """What all this rests on."""
        return self.costs.basis() if "costs" in vars(self) else "as this study's own tasks took"


def _by_the_clock(state: StudyState, rows: list[ForecastRow], seconds: Range, side: int) -> Range:
    """Side by side, but for what cannot be: a generator and its student, first in the search, then on a fresh seed."""
    each = {row.what: row.each or NOTHING for row in rows if row.left.high}
    rounds = 1.0 + (bool(state.definition.search) and not state.search_is_over())
    chain = each.get("teacher", NOTHING) + each.get("collection", NOTHING)
    chain += (each.get("generation", NOTHING) + each.get("distillation", NOTHING)) * rounds
    return Range(
        max(seconds.low / side, min(chain.low, seconds.low)),
        max(seconds.expected / side, min(chain.expected, seconds.expected)),
        max(seconds.high / side, min(chain.high, seconds.high)),
    )


def _amounts(definition: Definition, seconds: Range, clock: Range) -> dict[str, Range]:
    held = cost_of(definition.resources, 1.0)
    price = held.money(definition.study.budget)
    values = (
        seconds * (held.cpu_seconds / HOUR),
        seconds * (held.gpu_seconds / HOUR),
        clock * (1 / HOUR),
        seconds * price,
    )
    return dict(zip(LIMITS, values, strict=True))


def _short_of(definition: Definition, amounts: dict[str, Range], spent: Cost) -> list[str]:
    """Limits that what is left does not keep, or may not."""
    budget, found = definition.study.budget, []
    for name, done in spent.amounts(budget).items():
        limit, needed = getattr(budget, name), amounts[name]
        if limit is not None and done + needed.high > limit:
            will = "will" if done + needed.low > limit else "may"
            found.append(
                f"study.budget.{name}: {limit:g} {will} not suffice: {done:.3g} spent, and {needed.low:.3g} to "
                f"{needed.high:.3g} left to do; what does not fit is left undone, and a higher limit goes on from there"
            )
    return found

"""The forecast of a study: what it will have built when it is over, and the time and cost that are left. Torch-free.

Seconds are estimated from this study's own tasks as soon as some have ended, before that from the artifacts in the
store, and without any by a guess with wide bounds.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from hidfd.pipeline.costs import NOTHING, Costs, Range, bank_bytes, checkpoint_bytes, expected_bytes
from hidfd.pipeline.graph import OTHER_METHODS, Stage, plan
from hidfd.store.store import Store
from tune.planner.budget import HOUR, LIMITS, Account, Cost, cost_of
from tune.planner.remaining import BUILT_BY, COUNTED_STAGES, known_stages, num_users, unseen_stages
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.states import TaskKind, TaskState

_log = logging.getLogger(__name__)

NUM_SAMPLED = 3
"""Number of a study's own tasks of a kind whose artifacts are asked for their size."""


@dataclass(frozen=True)
class ForecastRow:
    """A row of the forecast: the artifacts of one stage.

    Attributes:
        what: name of the stage.
        count: artifacts that the study asks for, at most.
        built: how many of them are in the store.
        left: how many are still to be built; one that is under way counts as the part that is left of it, and students
            that will probably be pruned count less.
        each: seconds for one, None if they are not estimated.
        bytes_each: size of one in the store; a generator's includes its last checkpoint and its synthetic images.
    """

    what: str
    count: int
    built: int
    left: Range
    each: Range | None
    bytes_each: float

    @property
    def seconds(self) -> Range:
        """Seconds for all that is left of this stage, one after another."""
        return self.left * self.each if self.each is not None else NOTHING

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self) | {"seconds_each": self.each.expected if self.each else None}


@dataclass(frozen=True)
class Forecast:
    """The forecast of a study.

    Attributes:
        rows: one per stage.
        seconds: for all that is left, one task after another.
        clock_seconds: for all that is left, by the clock, with as many tasks side by side as can be.
        side: number of tasks side by side, at most.
        cpus, gpus: held at once, at most.
        amounts: that are left to spend, by the names of a budget: `cpu_hours`, `gpu_hours`, `wall_hours`, `money`.
        bytes_left: by which the store will grow.
        cache_bytes_left: by which the store's cache will grow at most, with views that students share.
        num_unsuggested: students of the search whose parameters are not chosen yet.
        num_generators, num_users: generators in all, and the students that use them.
        saved_seconds: that a generator for each of these students would take in addition.
        basis: of the estimated seconds, in words.
        short_of: limits of the budget that do not suffice, or may not, in words.
        worth: what `study.worth` takes, also what is built already: `generators`, `hybrid` and `real-only` -> number of
            them, and seconds for all of these, None if they are not estimated; empty where the study does not ask.
    """

    rows: tuple[ForecastRow, ...]
    seconds: Range
    clock_seconds: Range
    side: int
    cpus: float
    gpus: float
    amounts: dict[str, Range]
    bytes_left: float
    cache_bytes_left: float
    num_unsuggested: int
    num_generators: int
    num_users: int
    saved_seconds: float
    basis: str
    short_of: tuple[str, ...]
    worth: dict[str, tuple[int, Range | None]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            **asdict(self),
            "stages": [row.to_json() for row in self.rows],
            "seconds": self.seconds.expected,
            "seconds_range": asdict(self.seconds),
        }


def forecast_of(state: StudyState, store: Store) -> Forecast:
    """Forecast what is left of a study.

    Args:
        state: of the study.
        store: is asked which artifacts it has.
    """
    definition, estimates = state.definition, _StageEstimates(state, store)
    known, left = known_stages(state, store)
    unseen = unseen_stages(state)
    rows: list[ForecastRow] = []
    for name in COUNTED_STAGES:
        stages = known[name]
        count = len(stages) + math.ceil(unseen[name].high)
        if count:
            missing = sum(left[name].values(), NOTHING) + unseen[name]
            built = sum(estimates.is_built(stage) for stage in stages.values())
            to_build = [(stage, left[name][digest]) for digest, stage in stages.items() if digest in left[name]]
            if unseen[name].high:
                to_build.append((plan(definition.base)[name], unseen[name]))
            each = estimates.mean(to_build) if missing.high else None
            rows.append(ForecastRow(name, count, built, missing, each, estimates.bytes_each(name)))
    seconds = sum((row.seconds for row in rows), NOTHING)
    side = max(1, min(definition.study.concurrency, math.ceil(sum(row.left.high for row in rows))))
    clock = _by_the_clock(state, rows, seconds, side)
    spent = Account(state.task_table.attempts()).spent(0.0)
    amounts = _amounts(definition, seconds, clock)
    generation = next((row for row in rows if row.what == "generation"), None)
    users = num_users(state, unseen)
    each = (
        estimates.range(plan(definition.base)["generation"]) if generation and definition.base.uses_generator else None
    )
    return Forecast(
        rows=tuple(rows),
        seconds=seconds,
        clock_seconds=clock,
        side=side,
        cpus=side * cost_of(definition.resources, 1.0).cpu_seconds,
        gpus=side * cost_of(definition.resources, 1.0).gpu_seconds,
        amounts=amounts,
        bytes_left=sum(row.left.high * row.bytes_each for row in rows),
        cache_bytes_left=_bank_bytes_left(state, set(left["distillation"]), unseen),
        num_unsuggested=0 if state.closed_reason is not None else state.max_search_trials - len(state.search_trials),
        num_generators=generation.count if generation else 0,
        num_users=users,
        saved_seconds=max(0, users - generation.count) * each.expected if generation and each else 0.0,
        basis=estimates.basis,
        short_of=tuple(_short_of(definition, amounts, spent)),
        worth=_worth(state, estimates),
    )


class _StageEstimates:
    """Estimates of how long the stages of a study take, and how large their artifacts are."""

    def __init__(self, state: StudyState, store: Store) -> None:
        self._store = store
        self._base = state.definition.base
        self._on_gpu = state.definition.resources.get("gpus", 0.0) > 0
        self._built = set[str]()  # digests of artifacts that this study's tasks have built or found
        self._own_seconds: defaultdict[tuple[TaskKind, str], list[tuple[float, float]]] = defaultdict(list)
        self._own_digests: defaultdict[str, list[str]] = defaultdict(list)  # stage name -> digests, a few
        for task in state.tasks.values():
            if task.outcome is None or task.outcome.state is not TaskState.COMPLETE:
                continue
            self._built |= task.spec.makes
            if task.spec.operations and not task.outcome.reused:
                self._own_seconds[task.spec.costs_like].append((task.spec.operations, task.seconds))
            if len(self._own_digests[task.spec.kind.last_stage]) < NUM_SAMPLED:
                self._own_digests[task.spec.kind.last_stage].append(task.key)
                for stage in plan(task.spec.config).values():
                    if BUILT_BY.get(stage.name) == task.spec.kind:
                        self._own_digests[stage.name].append(stage.digest)

    @cached_property
    def costs(self) -> Costs:
        """Costs of the artifacts in the whole store, which is read only if this study's own tasks do not suffice."""
        return Costs.of(self._store, on_gpu=self._on_gpu, on_damaged=_log.warning)

    def is_built(self, stage: Stage) -> bool:
        """Whether the artifact of a stage has been built, by the ledger or by the store."""
        return stage.digest in self._built or self._store.find(stage.name, stage.digest) is not None

    def range(self, stage: Stage) -> Range | None:
        """Return the estimated seconds for building the artifact of a stage; None if they are not estimated."""
        method = stage.builder if stage.builder in OTHER_METHODS else "hidfd"
        own = self._own_seconds.get((BUILT_BY[stage.name], method))
        if own and stage.operations:
            expected = sum(seconds for _, seconds in own) / sum(operations for operations, _ in own)
            return Range.measured([seconds / operations for operations, seconds in own], expected) * stage.operations
        return self.costs.range(stage)

    def mean(self, stages: Sequence[tuple[Stage, Range]]) -> Range | None:
        """Return the estimated seconds for one of some stages, each with the part of it that is left."""
        ranges = {(stage.builder, stage.operations): self.range(stage) for stage, _ in stages}
        if None in ranges.values():
            return None
        if len(ranges) == 1:
            return next(iter(ranges.values()))
        weights = dict.fromkeys(ranges, 0.0)
        for stage, left in stages:
            weights[stage.builder, stage.operations] += left.high
        total = sum(weights.values())
        parts = [found * (weights[like] / total) for like, found in ranges.items() if found is not None]
        return sum(parts, NOTHING)

    def bytes_each(self, name: str) -> float:
        """Return the size of one artifact of a stage: the mean of this study's own, else by its configuration."""
        if name != "generation":
            return self._bytes(name)
        return self._bytes(name) + checkpoint_bytes(self._base) + self._bytes("synthesis")

    def _bytes(self, name: str) -> float:
        found = [artifact.bytes for digest in self._own_digests[name] if (artifact := self._store.find(name, digest))]
        return sum(found) / len(found) if found else expected_bytes(self._base).get(name, 0.0)

    @property
    def basis(self) -> str:
        """The basis of the estimated seconds, in words."""
        return self.costs.basis() if "costs" in vars(self) else "as this study's own tasks took"


def _worth(state: StudyState, estimates: _StageEstimates) -> dict[str, tuple[int, Range | None]]:
    """Return the number of generators and of students in each arm of `study.worth`, and the seconds for all of them."""
    arms = {budget.name: budget.arm for budget in state.definition.worth_budgets}
    stages: dict[str, dict[str, Stage]] = {"generators": {}, "hybrid": {}, "real-only": {}} if arms else {}
    for row in state.comparison_rows:
        for config in row.configs if row.name in arms and row.role == "worth" else ():
            planned = plan(config)
            stages[arms[row.name]][planned["distillation"].digest] = planned["distillation"]
            if "generation" in planned:
                stages["generators"][planned["generation"].digest] = planned["generation"]
    found: dict[str, tuple[int, Range | None]] = {}
    for name, asked in stages.items():
        ranges = [estimates.range(stage) for stage in asked.values()]
        known = [seconds for seconds in ranges if seconds is not None]
        found[name] = len(ranges), sum(known, NOTHING) if len(known) == len(ranges) else None
    return found


def _bank_bytes_left(state: StudyState, left: Set[str], unseen: Mapping[str, Range]) -> float:
    """Return the bytes of the banks of views that students will make, one for each synthesis, collection and seed.

    Those whose blocks another bank has in part are counted in full.

    Args:
        state: of the study.
        left: digests of the students that are left to build.
        unseen: stage -> artifacts still to come. Of their students, those of a generator share a bank, and so do the
            real-only ones of a seed.
    """
    banks: dict[tuple[str | None, str, int], float] = {}
    for key in state.task_queue.wanted:
        config = state.tasks[key].spec.config
        student = plan(config).get("distillation")
        if student is None or student.digest not in left:
            continue
        bank = student.inputs.get("synthesis"), student.inputs["collection"], config.seeds.distillation
        banks[bank] = max(bank_bytes(config), banks.get(bank, 0.0))
    to_come = min(unseen["distillation"].high, unseen["generation"].high + len(state.definition.study.seeds))
    return sum(banks.values()) + to_come * bank_bytes(state.definition.base)


def _by_the_clock(state: StudyState, rows: list[ForecastRow], seconds: Range, side: int) -> Range:
    """Return the seconds with tasks side by side, but never less than the longest chain of tasks takes.

    The chain is the teacher, the collection, a generator and its student, and these two again on a fresh seed.
    """
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
    """Return, in words, the limits of the budget that do not suffice for all that is left, or may not."""
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

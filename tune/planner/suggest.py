"""The next search trial of a study: its parameters, the generator that it shares, and the reason. Torch-free.

TPE, random and grid suggest parameters, and a rule decides which students share a generator: upstream parameters are
suggested anew for every n-th student and held for the students between. The stage-aware sampler decides both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hidfd.errors import ConfigError
from hidfd.formatting import plural
from tune.planner.state import StudyState
from tune.samplers.optuna_samplers import suggest
from tune.samplers.stage_aware import choose
from tune.study.search_space import changed
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import task_specs

USABLE = (TaskState.WAITING, TaskState.RUNNING, TaskState.COMPLETE)
"""States of a build whose artifacts are there or still expected, so that another student may share them."""


@dataclass(frozen=True)
class Proposal:
    """The next search trial; see `StudyState.suggest` for the fields."""

    params: dict[str, Any]
    leader: SearchTrial | None
    why: str
    point: int | None


def propose(state: StudyState) -> Proposal:
    """Propose the next search trial: the next of `study.points`, completed by the sampler, or the sampler's own."""
    study, point = state.definition.study, state.next_point
    given = study.points[point] if point is not None else {}
    if study.sampler == "stage-aware":
        return _propose_stage_aware(state, given, point)
    return _propose_by_rule(state, given, point)


def _propose_stage_aware(state: StudyState, given: Mapping[str, Any], point: int | None) -> Proposal:
    definition = state.definition

    def remaining(params: Mapping[str, Any], group: int | None) -> float | None:
        """Return the operations of the tasks that nobody has asked for yet; stages that are not counted cost little."""
        number = len(state.search_trials) if group is None else group
        try:
            specs = task_specs(changed(definition.base, definition.settings_of(dict(params), number)))
        except ConfigError:
            return None
        known = [spec.key in state.tasks for spec in specs]
        if known[-1] or any(
            is_known and state.state_of(spec.key) not in USABLE for spec, is_known in zip(specs, known, strict=True)
        ):
            return None
        return sum(spec.operations for spec, is_known in zip(specs, known, strict=True) if not is_known)

    choice = choose(
        definition.study,
        definition.space,
        state.search_trials,
        {s.number: _build_state(state, s) for s in state.search_trials if s.group == s.number},
        remaining,
        given,
        has_fresh_seed=definition.search.has_fresh_seed,
    )
    leader = None if choice.leader is None else state.search_trials[choice.leader]
    reason = choice.why if point is None else f"given in study.points[{point}]; the rest {choice.why}"
    return Proposal(choice.params, leader, reason, point)


def _propose_by_rule(state: StudyState, given: Mapping[str, Any], point: int | None) -> Proposal:
    """Propose a search trial of an Optuna sampler, with a new generator for every n-th student."""
    definition, number = state.definition, len(state.search_trials)
    space, leader = definition.space, _group_to_join(state)
    held = {path: leader.params[path] for path in space.upstream if path in leader.params} if leader else {}
    if any(path in space.upstream and held.get(path) != value for path, value in given.items()):
        leader, held = None, {}
    history = state.ledger.history() if definition.study.sampler != "random" else []
    params = suggest(definition.study, space, number, history, held | dict(given))
    if any(params.get(path) != value for path, value in held.items()):
        leader = None  # a grid goes on to its next generator once it has tried all students of the last one
    return Proposal(params, leader, _reason(state, point, leader), point)


def _reason(state: StudyState, point: int | None, leader: SearchTrial | None) -> str:
    study, ended = state.definition.study, state.num_learnt_from
    if point is not None:
        words = f"given in study.points[{point}]"
    elif study.sampler == "grid":
        words = "the next point of the grid"
    elif study.sampler == "random":
        words = "drawn at random"
    elif ended < study.startup_students:
        begins = plural(study.startup_students, "student has", "students have")
        words = f"drawn at random: TPE begins when {begins} ended, {ended} had"
    else:
        words = f"suggested by TPE from {plural(ended, 'student')} that had ended"
    if leader is None:
        return f"{words}; a generator of its own"
    position = state.size_of_group(leader) + 1
    return f"{words}; shares the generator of trial {leader.number}, as number {position} of its students"


def _group_to_join(state: StudyState) -> SearchTrial | None:
    """Return the leader of the group that the next search trial joins; None if the next one needs a new generator."""
    study, search_trials = state.definition.study, state.search_trials
    if not search_trials:
        return None
    leader = search_trials[search_trials[-1].group]
    is_full = state.size_of_group(leader) >= study.students_per_generator
    if not leader.task_keys or (study.sampler != "grid" and is_full):
        return None
    return leader if _build_state(state, leader) in USABLE else None


def _build_state(state: StudyState, leader: SearchTrial) -> TaskState:
    """Return COMPLETE if all builds that a group's students need are complete, else the state of one that is not."""
    states = [state.state_of(key) for key in leader.task_keys[:-1]]
    if not leader.task_keys:
        return TaskState.FAILED
    incomplete = [found for found in states if found is not TaskState.COMPLETE]
    ended = [found for found in incomplete if found.is_final]
    return next(iter([*ended, *incomplete]), TaskState.COMPLETE)

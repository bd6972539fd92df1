"""The next suggestion of a study, with the generator that it rests on and why, by the study's sampler. Torch-free.

TPE, random and grid suggest parameters, and a rule shares generators: upstream parameters are suggested anew for every
n-th student and held for those between. The stage-aware sampler decides about both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hidfd.errors import ConfigError
from tune.planner.state import StudyState
from tune.samplers.optuna_samplers import suggest
from tune.samplers.stage_aware import choose
from tune.study.search_space import changed
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import task_specs

ALIVE = (TaskState.WAITING, TaskState.RUNNING, TaskState.COMPLETE)


@dataclass(frozen=True)
class Proposal:
    """What to suggest; see `StudyState.suggest`."""

    params: dict[str, Any]
    leader: SearchTrial | None
    why: str
    point: int | None


def propose(state: StudyState) -> Proposal:
    """The next suggestion: a given point, or the sampler's."""
    study, point = state.definition.study, state.next_point
    given = study.points[point] if point is not None else {}
    if study.sampler == "stage-aware":
        return _stage_aware(state, given, point)
    return _by_rule(state, given, point)


def _stage_aware(state: StudyState, given: Mapping[str, Any], point: int | None) -> Proposal:
    definition = state.definition

    def remaining(params: Mapping[str, Any], group: int | None) -> float | None:
        """Operations of the pieces that nobody has asked for yet; what is not counted costs nothing beside the rest."""
        number = len(state.search_trials) if group is None else group
        try:
            specs = task_specs(changed(definition.base, definition.settings_of(dict(params), number)))
        except ConfigError:
            return None
        known = [spec.key in state.tasks for spec in specs]
        if known[-1] or any(
            is_known and state.state_of(spec.key) not in ALIVE for spec, is_known in zip(specs, known, strict=True)
        ):
            return None
        return sum(spec.operations for spec, is_known in zip(specs, known, strict=True) if not is_known)

    choice = choose(
        definition.study,
        definition.space,
        state.search_trials,
        {s.number: _build_of(state, s) for s in state.search_trials if s.group == s.number},
        remaining,
        given,
        has_fresh_seed=definition.search.has_fresh_seed,
    )
    leader = None if choice.leader is None else state.search_trials[choice.leader]
    words = choice.why if point is None else f"given in study.points[{point}]; the rest {choice.why}"
    return Proposal(choice.params, leader, words, point)


def _by_rule(state: StudyState, given: Mapping[str, Any], point: int | None) -> Proposal:
    """A new generator for every n-th student."""
    definition, number = state.definition, len(state.search_trials)
    space, leader = definition.space, _open_group(state)
    held = {path: leader.params[path] for path in space.upstream if path in leader.params} if leader else {}
    if any(path in space.upstream and held.get(path) != value for path, value in given.items()):
        leader, held = None, {}
    history = state.ledger.history() if definition.study.sampler != "random" else []
    params = suggest(definition.study, space, number, history, held | dict(given))
    if any(params.get(path) != value for path, value in held.items()):
        leader = None  # a grid goes on to its next generator when it has to
    return Proposal(params, leader, _why(state, point, leader), point)


def _why(state: StudyState, point: int | None, leader: SearchTrial | None) -> str:
    study, ended = state.definition.study, state.num_learnt_from
    if point is not None:
        words = f"given in study.points[{point}]"
    elif study.sampler == "grid":
        words = "the next point of the grid"
    elif study.sampler == "random":
        words = "drawn at random"
    elif ended < study.startup_students:
        words = f"drawn at random: TPE begins when {study.startup_students} students have ended, {ended} had"
    else:
        words = f"suggested by TPE from {ended} students that had ended"
    if leader is None:
        return f"{words}; a generator of its own"
    place = state.size_of_group(leader) + 1
    return f"{words}; shares the generator of trial {leader.number}, as number {place} of its students"


def _open_group(state: StudyState) -> SearchTrial | None:
    """The suggestion whose generator the next one shares; None if the next one opens a generator of its own."""
    study, search_trials = state.definition.study, state.search_trials
    if not search_trials:
        return None
    leader = search_trials[search_trials[-1].group]
    is_full = state.size_of_group(leader) >= study.students_per_generator
    if not leader.task_keys or (study.sampler != "grid" and is_full):
        return None
    return leader if _build_of(state, leader) in ALIVE else None


def _build_of(state: StudyState, leader: SearchTrial) -> TaskState:
    """How the generator of a suggestion stands: COMPLETE if all that a student needs is there."""
    states = [state.state_of(key) for key in leader.task_keys[:-1]]
    if not leader.task_keys:
        return TaskState.FAILED
    unlike = [found for found in states if found is not TaskState.COMPLETE]
    ended = [found for found in unlike if found.is_final]
    return next(iter([*ended, *unlike]), TaskState.COMPLETE)

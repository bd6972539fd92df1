"""The artifacts that a study has left to build: those that are certain by now, and those still to come. Torch-free."""

from __future__ import annotations

import math
from contextlib import suppress

from hidfd.errors import ConfigError
from hidfd.pipeline.costs import NOTHING, Range
from hidfd.pipeline.graph import Stage, plan
from hidfd.store.store import Store
from tune.planner.comparison import controls_of
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.search_space import changed
from tune.study.states import Role, TaskKind
from tune.study.task import Task

COUNTED_STAGES = ("teacher", "collection", "generation", "distillation")
"""Stages whose artifacts a forecast counts; the others cost next to nothing beside them."""

BUILT_BY = {
    "teacher": TaskKind.COLLECTION,
    "collection": TaskKind.COLLECTION,
    "generation": TaskKind.GENERATOR,
    "distillation": TaskKind.STUDENT,
}
"""Stage -> the kind of task that builds it."""


def known_stages(state: StudyState, store: Store) -> tuple[dict[str, dict[str, Stage]], dict[str, dict[str, Range]]]:
    """Return stage -> digest -> `Stage` of all artifacts that will surely be asked for, and the part that is left."""
    known: dict[str, dict[str, Stage]] = {name: {} for name in COUNTED_STAGES}
    left: dict[str, dict[str, Range]] = {name: {} for name in COUNTED_STAGES}
    startable = state.startable
    if not state.tasks:
        collects = any(path.startswith("collection.") for path in state.definition.space.upstream)
        for name in ("teacher",) if collects else ("teacher", "collection"):
            stage = plan(state.definition.base)[name]
            known[name][stage.digest] = stage
            if store.find(stage.name, stage.digest) is None:
                left[name][stage.digest] = Range(1.0, 1.0, 1.0)
    for key in state.task_queue.wanted:
        task = state.tasks[key]
        is_left = task.outcome is None and (startable is None or task.key in startable)
        for stage in plan(task.spec.config).values():
            if stage.name not in known:
                continue
            known[stage.name][stage.digest] = stage
            is_own = BUILT_BY[stage.name] == task.spec.kind
            if is_left and is_own and store.find(stage.name, stage.digest) is None:
                left[stage.name][stage.digest] = _left_of(task, stage, state.definition)
    return known, left


def _left_of(task: Task, stage: Stage, definition: Definition) -> Range:
    """Return the part of a task that is left, without what its attempts have done and pruning probably saves, 0..1."""
    attempt, target = (task.attempts[-1] if task.attempts else None), task.spec.target_images
    done = attempt.images_to / target if attempt and target and attempt.stage == stage.name else 0.0
    likely = max(0.0, (_pruned_share(definition) if task.rungs else 1.0) - done)
    return Range(likely, likely, max(0.0, 1 - done))


def _pruned_share(definition: Definition) -> float:
    """Return the fraction of its images that an average student sees if each rung keeps its share of the students."""
    share = reached = 0.0
    kept = 1.0
    for images in definition.rungs:
        fraction = images / definition.base.distillation.target_images
        share, reached, kept = (
            share + kept * (fraction - reached),
            fraction,
            kept / definition.study.pruner.reduction_factor,
        )
    return share + kept * (1 - reached)


def unseen_stages(state: StudyState) -> dict[str, Range]:
    """Return stage -> artifacts still to come: of search trials not suggested yet, and of the comparison afterwards."""
    definition, study = state.definition, state.definition.study
    if state.is_over():
        return dict.fromkeys(COUNTED_STAGES, NOTHING)
    students = 0 if state.closed_reason is not None else state.max_search_trials - len(state.search_trials)
    groups = max(0, _num_groups(definition) - len({trial.group for trial in state.search_trials}))
    groups = min(groups, students)
    generators, compared = groups * definition.base.uses_generator, 0
    if definition.limit and not _has_rows(state, "control"):
        finalists = 0 if _has_rows(state, "finalist") else min(study.num_finalists, state.max_search_trials)
        compared = len(study.seeds) * (finalists + len(controls_of(definition, definition.base)))
        # Finalists that share a generator in the search share one on each fresh seed, too.
        generators += len(study.seeds) * min(finalists, _num_groups(definition)) * definition.base.uses_generator
    counts = {"teacher": 0, "collection": 0, "generation": generators, "distillation": compared + students}
    if any(path.startswith("collection.") for path in definition.space.upstream):
        counts["collection"] = groups
    found = {name: Range(count, count, count) for name, count in counts.items()}
    likely = compared + students * _pruned_share(definition)
    found["distillation"] = Range(likely, likely, compared + students)
    return found


def _has_rows(state: StudyState, role: Role) -> bool:
    return any(row.role == role for row in state.comparison_rows)


def _num_groups(definition: Definition) -> int:
    """Return the number of generators that the search makes, at least."""
    if not definition.space.upstream or not definition.limit:
        return min(1, definition.limit)
    return math.ceil(definition.limit / definition.students_per_generator)


def num_users(state: StudyState, unseen: dict[str, Range]) -> int:
    """Return the number of students that use a generator, including those still to come."""
    definition = state.definition
    known = {
        key
        for key in state.task_queue.wanted
        if (spec := state.tasks[key].spec).kind is TaskKind.STUDENT and spec.config.uses_generator
    }
    if not definition.base.uses_generator:
        return len(known)
    real_only_controls = 0
    if unseen["distillation"].high and definition.limit and not _has_rows(state, "control"):
        controls = controls_of(definition, definition.base).values()
        with suppress(ConfigError):  # a control that cannot be built uses none
            real_only_controls = sum(not changed(definition.base, values).uses_generator for values in controls)
    return len(known) + round(unseen["distillation"].high) - len(definition.study.seeds) * real_only_controls

"""What of a study is left to build: what is certain by now, and what will come on top. Torch-free."""

from __future__ import annotations

import math

from hidfd.pipeline.costs import NOTHING, Range
from hidfd.pipeline.graph import Stage, plan
from hidfd.store.store import Store
from tune.planner.comparison import controls_of
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.search_space import changed
from tune.study.states import TaskKind
from tune.study.task import Task

SHOWN = ("teacher", "collection", "generation", "distillation")
"""Stages that a plan counts; the others cost next to nothing beside them."""

BUILT_BY = {
    "teacher": TaskKind.COLLECTION,
    "collection": TaskKind.COLLECTION,
    "generation": TaskKind.GENERATOR,
    "distillation": TaskKind.STUDENT,
}
"""Stage -> the kind of task that builds it."""


def known_stages(state: StudyState, store: Store) -> tuple[dict[str, dict[str, Stage]], dict[str, dict[str, Range]]]:
    """Stage -> digest -> what is certain to be asked for; and how much of it is left."""
    known: dict[str, dict[str, Stage]] = {name: {} for name in SHOWN}
    left: dict[str, dict[str, Range]] = {name: {} for name in SHOWN}
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
    """Of one task: all of it, but for what its attempts have done and pruning is expected to save."""
    attempt, target = (task.attempts[-1] if task.attempts else None), task.spec.target_images
    done = attempt.images_to / target if attempt and target and attempt.stage == stage.name else 0.0
    likely = max(0.0, (_pruned_share(definition) if task.rungs else 1.0) - done)
    return Range(likely, likely, max(0.0, 1 - done))


def _pruned_share(definition: Definition) -> float:
    """Of a student's images: what an average one sees where each rung lets its share of them through."""
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
    """Stage -> how many will come on top: suggestions not made yet, and the comparison after the search."""
    definition, study = state.definition, state.definition.study
    if state.is_over():
        return dict.fromkeys(SHOWN, NOTHING)
    students = 0 if state.closed_reason is not None else state.max_search_trials - len(state.search_trials)
    groups = max(0, _num_groups(definition) - len({search_trial.group for search_trial in state.search_trials}))
    groups = min(groups, students)
    generators, compared = groups * definition.base.uses_generator, 0
    if definition.limit and not any(row.role == "control" for row in state.comparison_rows):
        finalists = (
            0
            if any(row.role == "finalist" for row in state.comparison_rows)
            else min(study.num_finalists, state.max_search_trials)
        )
        compared = len(study.seeds) * (finalists + len(controls_of(definition, definition.base)))
        # Finalists of one generator in the search share one on each fresh seed, too.
        generators += len(study.seeds) * min(finalists, _num_groups(definition)) * definition.base.uses_generator
    counts = {"teacher": 0, "collection": 0, "generation": generators, "distillation": compared + students}
    if any(path.startswith("collection.") for path in definition.space.upstream):
        counts["collection"] = groups
    found = {name: Range(count, count, count) for name, count in counts.items()}
    likely = compared + students * _pruned_share(definition)
    found["distillation"] = Range(likely, likely, compared + students)
    return found


def _num_groups(definition: Definition) -> int:
    if not definition.space.upstream or not definition.limit:
        return min(1, definition.limit)
    return math.ceil(definition.limit / definition.students_per_generator)


def num_users(state: StudyState, unseen: dict[str, Range]) -> int:
    """Students that rest on a generator, those to come counted."""
    definition = state.definition
    known = {
        key
        for key in state.task_queue.wanted
        if (spec := state.tasks[key].spec).kind is TaskKind.STUDENT and spec.config.uses_generator
    }
    if not definition.base.uses_generator:
        return len(known)
    without = 0
    if (
        unseen["distillation"].high
        and definition.limit
        and not any(row.role == "control" for row in state.comparison_rows)
    ):
        controls = controls_of(definition, definition.base).values()
        without = sum(not changed(definition.base, values).uses_generator for values in controls)
    return len(known) + round(unseen["distillation"].high) - len(definition.study.seeds) * without

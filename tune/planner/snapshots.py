"""Build the snapshot of a study from its state and its running tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hidfd.formatting import part_of
from tune.planner.budget import Account, Cost, cost_of, exhausted
from tune.planner.comparison import front_of, measured_by, rank_agreement, summarise
from tune.planner.planner import STOP_SECONDS, RunningTask
from tune.planner.state import StudyState
from tune.study.search_trial import SearchTrial
from tune.study.snapshot import (
    AttemptSnapshot,
    RungSnapshot,
    StudySnapshot,
    TaskSnapshot,
    TestEvaluationSnapshot,
    TrialSnapshot,
)
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task
from tune.study.verdict import gains_of, verdict_in_words
from tune.study.worth.measured import worth_of


def snapshot_of(
    state: StudyState,
    live: Mapping[str, RunningTask] | None = None,
    notes: Sequence[str] = (),
    stopping: str | None = None,
) -> StudySnapshot:
    """Return the snapshot of a study.

    Args:
        state: the study's state, from its ledger.
        live: key -> running task; None where another process is the driver.
        notes: lines for the user.
        stopping: why the driver starts no more tasks, if so.
    """
    definition = state.definition
    live = live or {}
    study = definition.study
    rows = tuple(summarise(row, state.tasks, study) for row in state.comparison_rows if row.role != "worth")
    test_evaluations = {
        student: evaluation
        for row in state.comparison_rows
        for student, evaluation in zip(row.keys, row.test_evaluations, strict=False)
    }
    best = state.best
    finished = not state.task_queue.running and state.is_over()
    gains = gains_of(rows, study.objective, has_ended=finished)
    spent = Account(state.task_table.attempts()).spent(0.0)  # up to the last report of each attempt
    # Other lengths set students far apart, so those of `study.worth` would flatter any measure.
    tau, tau_count = rank_agreement(task for task in state.tasks.values() if task.role != "worth")
    budgets = {row.name: row.keys for row in state.comparison_rows if row.role == "worth"}
    return StudySnapshot(
        name=definition.name,
        file=definition.file,
        command=definition.command,
        objective=definition.study.objective,
        searched=tuple(definition.space.parameters),
        num_students=state.max_search_trials,
        study=study,
        search=definition.search,
        trial=definition.base,
        trials=tuple(
            TrialSnapshot(
                number=search_trial.number,
                params=search_trial.params,
                group=search_trial.group,
                key=search_trial.task_keys[-1] if search_trial.task_keys else None,
                state=_state_of(search_trial, state),
                reason=search_trial.reason,
                value=search_trial.value,
                why=search_trial.why,
                feasible=not search_trial.violation,
            )
            for search_trial in state.search_trials
        ),
        tasks=tuple(
            _task(task, state, live.get(key), measured_by(test_evaluations.get(key), state.tasks) or {})
            for key, task in sorted(state.tasks.items(), key=lambda item: item[1].number)
            if key in state.task_queue.wanted
        ),
        comparison_rows=rows,
        best=best.number if best else None,
        rank_agreement=tau,
        rank_agreement_count=tau_count,
        verdict=verdict_in_words(gains, rows),
        undone=_undone(state, spent),
        finished=finished,
        folder=str(definition.folder),
        tracking=definition.tracking,
        cpu_seconds=sum(attempt.cpu_seconds or 0.0 for attempt in state.task_table.attempts()),
        notes=tuple(notes),
        stopping=stopping,
        spent=spent.amounts(study.budget),
        test_evaluations=tuple(
            TestEvaluationSnapshot(record["when"], tuple(record["students"]))
            for record in state.final_evaluation.test_evaluations
        ),
        front=tuple(trial.number for trial in front_of(state.search_trials)) if study.further_objectives else (),
        gains=gains,
        worth=worth_of(definition, budgets, state.tasks, has_ended=finished),
    )


def _undone(state: StudyState, spent: Cost) -> str | None:
    """Return in words why the budget left some of the study undone; None where it did not."""
    next_step = cost_of(dict(state.definition.resources), STOP_SECONDS) + Cost(wall_seconds=STOP_SECONDS)
    used_up = exhausted(spent + next_step, state.definition.study.budget)
    if state.closed_reason is not None:
        reason = f"the search ended early: {state.closed_reason}"
    elif used_up is not None and not state.is_over():
        reason = f"the budget is used up ({used_up})"
    else:
        return None
    ended = sum(search_trial.state.is_final for search_trial in state.search_trials)
    limit = state.max_search_trials
    done = part_of(ended, limit, "student has", "students have")
    return f"{reason}; {done} ended; raise study.budget, and the same command goes on"


def _state_of(search_trial: SearchTrial, state: StudyState) -> TaskState:
    """Return a trial's own state once it has ended: a later trial may have its failed student trained again."""
    if search_trial.state.is_final or not search_trial.task_keys:
        return search_trial.state
    return state.state_of(search_trial.task_keys[-1])


def _task(task: Task, state: StudyState, live: RunningTask | None, tested: dict[str, float]) -> TaskSnapshot:
    spec, outcome = task.spec, task.outcome
    metrics = (outcome.metrics if outcome else live.metrics if live else {}) | tested
    objective = state.definition.study.objective
    value = metrics.get(objective) if outcome and spec.kind is TaskKind.STUDENT else None
    rungs = state.search_trials[task.trial].rungs if task.trial is not None and task.rungs else {}
    folder = state.definition.folder / task.label
    images = live.images if live else task.attempts[-1].images_to if task.attempts else 0
    return TaskSnapshot(
        number=task.number,
        key=task.key,
        kind=spec.kind,
        role=task.role,
        label=task.label,
        trial=task.trial,
        seed=spec.seed,
        params=task.params,
        needs=spec.needs,
        state=state.state_of(task.key),
        reason=outcome.reason if outcome else None,
        stage=live.stage if live else task.attempts[-1].stage if task.attempts else None,
        images=images,
        target_images=live.target_images if live else spec.target_images,
        metrics=metrics,
        value=value,
        value_error=_error_of(value, metrics, objective),
        rungs=tuple(RungSnapshot(images, **vars(decision)) for images, decision in sorted(rungs.items())),
        reused=outcome.reused if outcome else False,
        seconds=sum((attempt.ended or attempt.last_seen) - attempt.started for attempt in task.attempts),
        attempts=tuple(
            AttemptSnapshot(
                number=number,
                node=attempt.node,
                resources=attempt.resources,
                started=attempt.started,
                last_seen=attempt.last_seen,
                ended=attempt.ended,
                images_from=attempt.images_from,
                images_to=attempt.images_to,
                end=attempt.end,
                cpu_seconds=attempt.cpu_seconds,
            )
            for number, attempt in enumerate(task.attempts)
        ),
        folder=str(folder),
        picture=live.picture if live and live.picture else _newest_picture(folder),
    )


def _error_of(value: float | None, metrics: Mapping[str, float], objective: str) -> float | None:
    """Return the standard error of a student's value: the measured one, or a binomial one for an accuracy."""
    if value is None:
        return None
    known = metrics.get(f"{objective}_standard_error")
    images = metrics.get(f"{objective.removesuffix('_accuracy')}_images")
    if known is None and images:
        return math.sqrt(max(value * (1 - value), 0.0) / images)
    return known


def _newest_picture(folder: Path) -> str | None:
    grids = sorted((folder / "samples").glob("generation-*.png"))
    return str(grids[-1]) if grids else None

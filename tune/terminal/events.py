"""A running study for programs that read its log: a JSON line for each change, as docs/run-lines.md documents them.

The first snapshot gives the state that the run starts from: earlier events are counted, not written again. Every later
one is compared with what was written, attempt by attempt, so that nothing that begins and ends between two is missed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tune.study.snapshot import StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskState
from tune.terminal.progress import ProgressWatch

BUDGET_EVERY_SECONDS = 60.0
"""Time between two lines on the budget."""


class RunLines:
    """The lines of a run, written snapshot after snapshot.

    Args:
        stream: where to write; each line is flushed, so that a watcher reads it at once.
        clock: seconds of a monotonic clock.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stream, self._clock, self._now = stream, clock, now
        self._study: str | None = None
        self._suggested: set[int] = set()
        self._ended_trials: set[int] = set()
        self._num_attempts: dict[str, tuple[int, int]] = {}  # key -> attempts that were written to start, and to end
        self._ended_tasks: set[str] = set()
        self._best: int | None = None
        self._num_test_evaluations = 0
        self._num_notes = 0
        self._undone: str | None = None
        self._stopping: str | None = None
        self._budget_written_at = 0.0
        self._progress = ProgressWatch(clock)

    def show(self, snapshot: StudySnapshot) -> None:
        """Write what has changed since the snapshot before."""
        if self._study is None:
            self._start(snapshot)
            return
        for trial in snapshot.trials:
            self._write_suggestion(trial)
        for evaluation in snapshot.test_evaluations[self._num_test_evaluations :]:
            self._write("test_labels_opened", evaluation.when, students=list(evaluation.students))
        self._num_test_evaluations = len(snapshot.test_evaluations)
        for task in snapshot.tasks:
            self._write_task(task)
        for trial in snapshot.trials:
            if trial.state.is_final and trial.number not in self._ended_trials:
                self._ended_trials.add(trial.number)
                self._write(
                    "trial_ended", trial=trial.number, state=trial.state, reason=trial.reason, value=trial.value
                )
        if snapshot.best is not None and snapshot.best != self._best:
            best = snapshot.trials[snapshot.best]
            self._write("best_changed", trial=best.number, value=best.value, params=best.params)
        self._best = snapshot.best
        self._write_study_events(snapshot)

    def end(self, snapshot: StudySnapshot, report: Path) -> None:
        """Write the last line, which has the whole study."""
        document = snapshot.to_json() | {"report": str(report)}
        self._write("study_ended", finished=snapshot.finished, verdict=snapshot.verdict, document=document)

    def _start(self, snapshot: StudySnapshot) -> None:
        self._study = snapshot.name
        self._suggested = {trial.number for trial in snapshot.trials}
        self._ended_trials = {trial.number for trial in snapshot.trials if trial.state.is_final}
        self._ended_tasks = {task.key for task in snapshot.tasks if task.state.is_final}
        self._num_attempts = {task.key: (len(task.attempts), len(task.attempts)) for task in snapshot.tasks}
        self._best, self._undone = snapshot.best, snapshot.undone
        self._num_test_evaluations = len(snapshot.test_evaluations)
        self._budget_written_at = self._clock()
        self._write(
            "study_started",
            file=snapshot.file,
            command=snapshot.command,
            objective=snapshot.objective,
            num_trials=len(snapshot.trials),
            num_ended=len(self._ended_tasks),
            spent=snapshot.spent,
            **self._search_so_far(snapshot),
        )

    def _search_so_far(self, snapshot: StudySnapshot) -> dict[str, Any]:
        """Return how far the search is, for whoever reads from this line on."""
        return {
            "num_students": snapshot.num_students,
            "num_trials_ended": len(self._ended_trials),
            "best_trial": snapshot.best,
            "best_value": None if snapshot.best is None else snapshot.trials[snapshot.best].value,
        }

    def _write_suggestion(self, trial: TrialSnapshot) -> None:
        if trial.number not in self._suggested:
            self._suggested.add(trial.number)
            self._write("trial_suggested", trial=trial.number, params=trial.params, group=trial.group, why=trial.why)

    def _write_task(self, task: TaskSnapshot) -> None:
        begun, ended = self._num_attempts.get(task.key, (0, 0))
        names = {
            "work": task.label,
            "key": task.key,
            "kind": task.kind.recorded_as,
            "role": task.role,
            "trial": task.trial,
        }
        for attempt in task.attempts[ended:]:
            if attempt.number >= begun:
                self._write(
                    "work_started",
                    attempt.started,
                    **names,
                    attempt=attempt.number,
                    node=attempt.node,
                    resources=attempt.resources,
                    images_from=attempt.images_from,
                )
            if attempt.ended is not None:
                ended = attempt.number + 1
                if attempt is not task.attempts[-1] or not task.state.is_final:
                    how = {"attempt": attempt.number, "end": attempt.end, "images_to": attempt.images_to}
                    self._write("work_interrupted", attempt.ended, **names, **how)
        self._num_attempts[task.key] = len(task.attempts), ended
        if task.state.is_final and task.key not in self._ended_tasks:
            self._ended_tasks.add(task.key)
            self._write(
                "work_ended",
                task.attempts[-1].ended if task.attempts else None,
                **names,
                state=task.state,
                reason=task.reason,
                value=task.value,
                metrics=task.metrics,
                reused=task.reused,
                seconds=task.seconds,
            )
        elif not task.state.is_final:
            self._ended_tasks.discard(task.key)  # a task that failed in an earlier run is tried again
            if task.state is TaskState.RUNNING and task.stage is not None:
                self._write_progress(task)

    def _write_progress(self, task: TaskSnapshot) -> None:
        rate = self._progress.update(task)
        if not self._progress.is_due(task):
            return
        self._write(
            "work_progress",
            work=task.label,
            key=task.key,
            stage=task.stage,
            images=task.images,
            target_images=task.target_images,
            images_per_second=rate.images_per_second,
            seconds_left=None if task.target_images is None else rate.seconds_left(task.target_images),
        )

    def _write_study_events(self, snapshot: StudySnapshot) -> None:
        """Write events that concern the whole study."""
        for note in snapshot.notes[self._num_notes :]:
            self._write("note", text=note)
        self._num_notes = len(snapshot.notes)
        if self._clock() - self._budget_written_at >= BUDGET_EVERY_SECONDS:
            self._budget_written_at = self._clock()
            limits = {name: getattr(snapshot.study.budget, name) for name in snapshot.spent}
            self._write("budget", spent=snapshot.spent, limits=limits, **self._search_so_far(snapshot))
        if snapshot.undone is not None and snapshot.undone != self._undone:
            self._write("search_closed", reason=snapshot.undone)
        self._undone = snapshot.undone
        if snapshot.stopping is not None and self._stopping is None:
            self._write("stopping", reason=snapshot.stopping)
        self._stopping = snapshot.stopping

    def _write(self, event: str, when: float | None = None, **fields: Any) -> None:
        seconds = self._now() if when is None else when
        stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
        content = {"event": event, "time": stamp, "study": self._study, **fields}
        print(json.dumps(content, default=str), file=self._stream, flush=True)

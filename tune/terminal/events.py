"""A running study for whoever reads its log: a JSON line for each change, as docs/run-lines.md documents them.

The first snapshot is where a study stands: what had happened before is not told again. Every later one is compared with
what was told, by its attempts, so nothing is missed that begins and ends between two looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from hidfd.pipeline.console import Rate
from tune.study.snapshot import StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskState
from tune.terminal.display import LINE_EVERY_SECONDS, STILL_EVERY_SECONDS

BUDGET_EVERY_SECONDS = 60.0
"""Between two lines on what was spent."""


class RunLines:
    """Tells one snapshot after another.

    Args:
        stream: each line is flushed, so that a watcher reads it at once.
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
        self._over: set[int] = set()  # trials
        self._attempts: dict[str, tuple[int, int]] = {}  # key -> how many have been told to begin, and to end
        self._ended: set[str] = set()
        self._best: int | None = None
        self._num_test_evaluations = 0
        self._num_notes = 0
        self._undone: str | None = None
        self._stopping: str | None = None
        self._spent_told = 0.0
        self._rates: dict[tuple[str, str | None], Rate] = {}
        self._said: dict[str, tuple[float, int]] = {}

    def show(self, snapshot: StudySnapshot) -> None:
        """What has changed since the last one."""
        if self._study is None:
            self._begin(snapshot)
            return
        for trial in snapshot.trials:
            self._tell_trial(trial)
        for opening in snapshot.test_evaluations[self._num_test_evaluations :]:
            self._say("test_labels_opened", opening.when, students=list(opening.students))
        self._num_test_evaluations = len(snapshot.test_evaluations)
        for task in snapshot.tasks:
            self._tell_task(task)
        for trial in snapshot.trials:
            if trial.state.is_final and trial.number not in self._over:
                self._over.add(trial.number)
                self._say("trial_ended", trial=trial.number, state=trial.state, reason=trial.reason, value=trial.value)
        if snapshot.best is not None and snapshot.best != self._best:
            best = snapshot.trials[snapshot.best]
            self._say("best_changed", trial=best.number, value=best.value, params=best.params)
        self._best = snapshot.best
        self._tell_course(snapshot)

    def end(self, snapshot: StudySnapshot, report: Path) -> None:
        """The last line: all of the study."""
        document = snapshot.to_json() | {"report": str(report)}
        self._say("study_ended", finished=snapshot.finished, verdict=snapshot.verdict, document=document)

    def _begin(self, snapshot: StudySnapshot) -> None:
        self._study = snapshot.name
        self._suggested = {trial.number for trial in snapshot.trials}
        self._over = {trial.number for trial in snapshot.trials if trial.state.is_final}
        self._ended = {task.key for task in snapshot.tasks if task.state.is_final}
        self._attempts = {task.key: (len(task.attempts), len(task.attempts)) for task in snapshot.tasks}
        self._best, self._undone = snapshot.best, snapshot.undone
        self._num_test_evaluations = len(snapshot.test_evaluations)
        self._spent_told = self._clock()
        self._say(
            "study_started",
            file=snapshot.file,
            command=snapshot.command,
            objective=snapshot.objective,
            num_trials=len(snapshot.trials),
            num_ended=len(self._ended),
            spent=snapshot.spent,
            **self._stand(snapshot),
        )

    def _stand(self, snapshot: StudySnapshot) -> dict[str, Any]:
        """What somebody needs who reads from here on."""
        return {
            "num_students": snapshot.num_students,
            "num_trials_ended": len(self._over),
            "best_trial": snapshot.best,
            "best_value": None if snapshot.best is None else snapshot.trials[snapshot.best].value,
        }

    def _tell_trial(self, trial: TrialSnapshot) -> None:
        if trial.number not in self._suggested:
            self._suggested.add(trial.number)
            self._say("trial_suggested", trial=trial.number, params=trial.params, group=trial.group, why=trial.why)

    def _tell_task(self, task: TaskSnapshot) -> None:
        begun, ended = self._attempts.get(task.key, (0, 0))
        names = {
            "work": task.label,
            "key": task.key,
            "kind": task.kind.recorded_as,
            "role": task.role,
            "trial": task.trial,
        }
        for attempt in task.attempts[ended:]:
            if attempt.number >= begun:
                self._say(
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
                    self._say("work_interrupted", attempt.ended, **names, **how)
        self._attempts[task.key] = len(task.attempts), ended
        if task.state.is_final and task.key not in self._ended:
            self._ended.add(task.key)
            self._say(
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
            self._ended.discard(task.key)  # what failed in an earlier run is tried again
            if task.state is TaskState.RUNNING and task.stage is not None:
                self._tell_progress(task)

    def _tell_progress(self, task: TaskSnapshot) -> None:
        now = self._clock()
        rate = self._rates.setdefault((task.key, task.stage), Rate(task.images, now))
        rate.update(task.images, now)
        at, images = self._said.setdefault(task.key, (now, -1))
        if now - at < (STILL_EVERY_SECONDS if task.images == images else LINE_EVERY_SECONDS):
            return
        self._said[task.key] = now, task.images
        self._say(
            "work_progress",
            work=task.label,
            key=task.key,
            stage=task.stage,
            images=task.images,
            target_images=task.target_images,
            images_per_second=rate.images_per_second,
            seconds_left=None if task.target_images is None else rate.seconds_left(task.target_images),
        )

    def _tell_course(self, snapshot: StudySnapshot) -> None:
        """What concerns the whole study."""
        for note in snapshot.notes[self._num_notes :]:
            self._say("note", text=note)
        self._num_notes = len(snapshot.notes)
        if self._clock() - self._spent_told >= BUDGET_EVERY_SECONDS:
            self._spent_told = self._clock()
            limits = {name: getattr(snapshot.study.budget, name) for name in snapshot.spent}
            self._say("budget", spent=snapshot.spent, limits=limits, **self._stand(snapshot))
        if snapshot.undone is not None and snapshot.undone != self._undone:
            self._say("search_closed", reason=snapshot.undone)
        self._undone = snapshot.undone
        if snapshot.stopping is not None and self._stopping is None:
            self._say("stopping", reason=snapshot.stopping)
        self._stopping = snapshot.stopping

    def _say(self, event: str, when: float | None = None, **fields: Any) -> None:
        seconds = self._now() if when is None else when
        stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
        content = {"event": event, "time": stamp, "study": self._study, **fields}
        print(json.dumps(content, default=str), file=self._stream, flush=True)

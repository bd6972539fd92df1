"""A running study in the terminal: a live table where there is one, else plain lines of what has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hidfd.formatting import percent, progress, relative_paths
from hidfd.live_display import LiveDisplay
from hidfd.pipeline.console import Rate
from tune.report.summary import result_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskState
from tune.terminal.tables import progress_in_words

LINE_EVERY_SECONDS = 20.0
"""Between two plain lines on one task."""

STILL_EVERY_SECONDS = 120.0
"""The same where nothing has moved: a sign of life, and no news."""


class StudyDisplay(LiveDisplay):
    """The state of a study, snapshot after snapshot; used by `with`.

    Args:
        stream: where to write; default standard error, so that `--json` has standard output to itself.
        quiet: whether to show nothing.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        console = Console(file=self._stream, highlight=False, markup=False)
        super().__init__(console, is_live=self._stream.isatty() and not quiet)
        self._quiet = quiet
        self._clock = clock
        self._rates: dict[tuple[str, str | None], Rate] = {}
        self._stands: dict[str, tuple[TaskState, int]] = {}  # a lost one may run again before anybody looks
        self._pictures: dict[str, str] = {}
        self._said: dict[str, tuple[float, int]] = {}
        self._num_notes = 0

    def show(self, snapshot: StudySnapshot) -> None:
        """What has changed since the last one, and what runs now."""
        if self._quiet:
            return
        now = self._clock()
        for task in snapshot.tasks:
            self._tell_change(task)
        for note in snapshot.notes[self._num_notes :]:
            self._say(note)
        self._num_notes = len(snapshot.notes)
        running = [task for task in snapshot.tasks if task.state is TaskState.RUNNING]
        for task in running:
            self._rate_of(task, now).update(task.images, now)
        if self.is_live:
            self.draw(self._table(snapshot, running))
            return
        for task in running:
            if task.stage is None:
                continue
            at, images = self._said.setdefault(task.key, (now, -1))
            if now - at >= (STILL_EVERY_SECONDS if task.images == images else LINE_EVERY_SECONDS):
                self._said[task.key] = now, task.images
                self._say(f"{task.label}: {progress_in_words(task, self._rate_of(task, now))}")

    def _tell_change(self, task: TaskSnapshot) -> None:
        stand = task.state, max(1, len(task.attempts)) if task.state is TaskState.RUNNING else 0
        if stand != self._stands.get(task.key, (TaskState.WAITING, 0)):
            self._stands[task.key] = stand
            if task.state is TaskState.RUNNING:
                again = " again, from its last checkpoint" if len(task.attempts) > 1 else ""
                # A killed driver's last reports never reached the ledger: the work itself says where it resumes.
                reached = task.attempts[-1].images_from if task.attempts else 0
                where = f"; it had reached {progress(reached)}" if reached else ""
                self._say(f"{task.label}: started{again}{where}")
            elif task.state.is_final:
                self._say(f"{task.label}: {result_in_words(task)}")
        is_new = task.picture is not None and task.picture != self._pictures.get(task.key)
        if task.kind.is_build and task.state is TaskState.RUNNING and task.picture is not None and is_new:
            self._pictures[task.key] = task.picture
            self._say(f"{task.label}: sample grid {relative_paths(task.picture)}")

    def _rate_of(self, task: TaskSnapshot, now: float) -> Rate:
        return self._rates.setdefault((task.key, task.stage), Rate(task.images, now))

    def _table(self, snapshot: StudySnapshot, running: list[TaskSnapshot]) -> Group:
        table = Table(box=None, show_header=False, pad_edge=False)
        for task in running:
            bar = ProgressBar(
                total=task.target_images or 1, completed=task.images if task.target_images else 0, width=24
            )
            table.add_row(task.label, bar, progress_in_words(task, self._rate_of(task, self._clock())))
        ended = sum(trial.state.is_final for trial in snapshot.trials)
        summary = f"{snapshot.name}: {ended} of {snapshot.num_students} students" if snapshot.num_students else ""
        if snapshot.best is not None:
            summary += f", best so far trial-{snapshot.best} {percent(snapshot.trials[snapshot.best].value)}"
        if snapshot.rows:
            done, wanted = (sum(n) for n in zip(*((r.num_complete, len(r.keys)) for r in snapshot.rows), strict=True))
            summary += f"{'; ' if summary else ''}comparison {done} of {wanted}"
        return Group(table, Text(summary))

    def _say(self, text: str) -> None:
        if self.is_live:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

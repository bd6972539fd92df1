"""A running study: a live table on a terminal, elsewhere plain lines of what has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hidfd.formatting import part_of, percent, progress, relative_paths
from hidfd.live_display import LiveDisplay
from tune.report.labels import result_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskState
from tune.terminal.progress import ProgressWatch, progress_in_words

BAR_WIDTH = 24
"""Width in columns of a task's bar."""


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
        self._progress = ProgressWatch(clock)
        self._states: dict[str, tuple[TaskState, int]] = {}  # with the attempt: a lost task may run again unnoticed
        self._pictures: dict[str, str] = {}
        self._num_notes = 0

    def show(self, snapshot: StudySnapshot) -> None:
        """Print what has changed since the snapshot before, and show what runs now."""
        if self._quiet:
            return
        notes = list(snapshot.notes[self._num_notes :])
        for task in snapshot.tasks:  # what a task has said is printed before its end, and so before what follows
            own = [note for note in notes if note.startswith(f"{task.label}: ")]
            notes = [note for note in notes if note not in own]
            if not task.state.is_final:
                self._print_change(task)
            for note in own:
                self._print(note)
            if task.state.is_final:
                self._print_change(task)
        for note in notes:
            self._print(note)
        self._num_notes = len(snapshot.notes)
        running = {
            task.key: progress_in_words(task, self._progress.update(task))
            for task in snapshot.tasks
            if task.state is TaskState.RUNNING
        }
        if self.is_live:
            self.draw(_Running(snapshot, running))
            return
        for task in snapshot.tasks:
            if task.key in running and task.stage is not None and self._progress.is_due(task):
                self._print(f"{task.label}: {running[task.key]}")

    def _print_change(self, task: TaskSnapshot) -> None:
        state = task.state, max(1, len(task.attempts)) if task.state is TaskState.RUNNING else 0
        if state != self._states.get(task.key, (TaskState.WAITING, 0)):
            self._states[task.key] = state
            if task.state is TaskState.RUNNING:
                again = " again, from its last checkpoint" if len(task.attempts) > 1 else ""
                # A killed driver's last reports never reached the ledger: the worker itself says where it resumes.
                reached = task.attempts[-1].images_from if task.attempts else 0
                where = f"; it had reached {progress(reached)}" if reached else ""
                self._print(f"{task.label}: started{again}{where}")
            elif task.state.is_final:
                self._print(f"{task.label}: {result_in_words(task)}")
        is_new = task.picture is not None and task.picture != self._pictures.get(task.key)
        if task.kind.is_build and task.state is TaskState.RUNNING and task.picture is not None and is_new:
            self._pictures[task.key] = task.picture
            self._print(f"{task.label}: sample grid {relative_paths(task.picture)}")

    def _print(self, text: str) -> None:
        if self.is_live:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)


class _Running:
    """A bar for each running task, above a line on the whole study; on a narrow screen each has two lines.

    Args:
        snapshot: of the study.
        running: key of a running task -> its progress in words.
    """

    def __init__(self, snapshot: StudySnapshot, running: dict[str, str]) -> None:
        self._snapshot, self._running = snapshot, running

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tasks = [task for task in self._snapshot.tasks if task.key in self._running]
        labels = max((len(task.label) for task in tasks), default=0)
        words = max((len(self._running[task.key]) for task in tasks), default=0)
        is_narrow = labels + BAR_WIDTH + words + 4 > options.max_width
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, min_width=labels)
        for task in tasks:
            completed = task.images if task.target_images else 0
            bar = ProgressBar(total=task.target_images or 1, completed=completed, width=BAR_WIDTH)
            if not is_narrow:
                table.add_row(task.label, bar, self._running[task.key])
                continue
            yield Text(task.label)
            yield Text(f"    {self._running[task.key]}")
        if not is_narrow:
            yield table
        yield Text(_summary(self._snapshot))


def _summary(snapshot: StudySnapshot) -> str:
    ended = sum(trial.state.is_final for trial in snapshot.trials)
    summary = f"{snapshot.name}: {part_of(ended, snapshot.num_students, 'student')}" if snapshot.num_students else ""
    if snapshot.best is not None:
        summary += f", best so far trial-{snapshot.best} {percent(snapshot.trials[snapshot.best].value)}"
    if snapshot.comparison_rows:
        num_complete = sum(row.num_complete for row in snapshot.comparison_rows)
        num_wanted = sum(len(row.keys) for row in snapshot.comparison_rows)
        summary += f"{'; ' if summary else ''}comparison {num_complete} of {num_wanted}"
    if snapshot.worth is not None:
        num_wanted = sum(len(budget.keys) for budget in snapshot.worth.budgets)
        summary += f"{'; ' if summary else ''}worth of the generator {snapshot.worth.num_complete} of {num_wanted}"
    return summary

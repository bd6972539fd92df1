"""A running study in the terminal: a live table where there is one, else plain lines of what has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hidfd.formatting import percent, relative_paths
from hidfd.pipeline.console import Rate
from tune.report.summary import result_in_words
from tune.study.snapshot import StudySnapshot, WorkSnapshot
from tune.study.states import WorkState
from tune.terminal.tables import progress_in_words

LINE_EVERY_SECONDS = 20.0
"""Between two plain lines on one piece of work."""

STILL_EVERY_SECONDS = 120.0
"""The same where nothing has moved: a sign of life, and no news."""


class StudyDisplay:
    """Shows one snapshot after another; for a `with`.

    Args:
        stream: default standard error, so that `--json` has standard output to itself.
        quiet: show nothing.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._clock = clock
        self._rates: dict[tuple[str, str | None], Rate] = {}
        self._stands: dict[str, tuple[WorkState, int]] = {}  # a lost one may run again before anybody looks
        self._pictures: dict[str, str] = {}
        self._said: dict[str, tuple[float, int]] = {}
        self._num_notes = 0
        self._live: Live | None = None
        self._console = Console(file=self._stream, highlight=False, markup=False)
        if self._stream.isatty() and not quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> StudyDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: StudySnapshot) -> None:
        """What has changed since the last one, and what runs now."""
        if self._quiet:
            return
        now = self._clock()
        for work in snapshot.works:
            self._tell_change(work)
        for note in snapshot.notes[self._num_notes :]:
            self._say(note)
        self._num_notes = len(snapshot.notes)
        running = [work for work in snapshot.works if work.state is WorkState.RUNNING]
        for work in running:
            self._rate_of(work, now).update(work.images, now)
        if self._live is not None:
            self._live.update(self._table(snapshot, running))
            return
        for work in running:
            if work.stage is None:
                continue
            at, images = self._said.setdefault(work.key, (now, -1))
            if now - at >= (STILL_EVERY_SECONDS if work.images == images else LINE_EVERY_SECONDS):
                self._said[work.key] = now, work.images
                self._say(f"{work.label}: {progress_in_words(work, self._rate_of(work, now))}")

    def _tell_change(self, work: WorkSnapshot) -> None:
        stand = work.state, max(1, len(work.attempts)) if work.state is WorkState.RUNNING else 0
        if stand != self._stands.get(work.key, (WorkState.WAITING, 0)):
            self._stands[work.key] = stand
            if work.state is WorkState.RUNNING:
                again = " again, from its last checkpoint" if len(work.attempts) > 1 else ""
                # A killed driver's last reports never reached the ledger: the work itself says where it resumes.
                reached = work.attempts[-1].images_from if work.attempts else 0
                where = f"; it had reached {reached:,} images" if reached else ""
                self._say(f"{work.label}: started{again}{where}")
            elif work.state.is_final:
                self._say(f"{work.label}: {result_in_words(work)}")
        is_new = work.picture is not None and work.picture != self._pictures.get(work.key)
        if work.kind == "build" and work.state is WorkState.RUNNING and work.picture is not None and is_new:
            self._pictures[work.key] = work.picture
            self._say(f"{work.label}: sample grid {relative_paths(work.picture)}")

    def _rate_of(self, work: WorkSnapshot, now: float) -> Rate:
        return self._rates.setdefault((work.key, work.stage), Rate(work.images, now))

    def _table(self, snapshot: StudySnapshot, running: list[WorkSnapshot]) -> Group:
        table = Table(box=None, show_header=False, pad_edge=False)
        for work in running:
            bar = ProgressBar(
                total=work.target_images or 1, completed=work.images if work.target_images else 0, width=24
            )
            table.add_row(work.label, bar, progress_in_words(work, self._rate_of(work, self._clock())))
        ended = sum(trial.state.is_final for trial in snapshot.trials)
        summary = f"{snapshot.name}: {ended} of {snapshot.num_students} students" if snapshot.num_students else ""
        if snapshot.best is not None:
            summary += f", best so far trial-{snapshot.best} {percent(snapshot.trials[snapshot.best].value)}"
        if snapshot.rows:
            done, wanted = (sum(n) for n in zip(*((r.num_complete, len(r.keys)) for r in snapshot.rows), strict=True))
            summary += f"{'; ' if summary else ''}comparison {done} of {wanted}"
        return Group(table, Text(summary))

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

"""MLflow kept up to date beside a running study, in a thread of its own, so that a slow server delays nothing."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from hidfd.pipeline.observer import Row
from hidfd.store.store import Store
from tune.study.messages import MAX_ROWS
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState
from tune.tracking.connection import reason_of
from tune.tracking.tracker import Tracker

STOP_SECONDS = 5.0
"""Time that a stopped study waits for the current write; a server that does not answer would take far longer."""

FINAL_TRIES, FINAL_PAUSE_SECONDS = 3, 1.0
"""Number of tries for the final snapshot, which no later one makes up for, and the pause between two of them."""

WRITE_EVERY_SECONDS = 10.0
"""Seconds between two writes of nothing but progress, so that a curve is at most half a minute behind."""

_log = logging.getLogger(__name__)


class BackgroundTracker:
    """A tracker in a thread: it gets the newest snapshot as soon as the one before it is written; used by `with`.

    A block that an exception leaves, as a stopped study does, has the last snapshot written as one that nobody drives.

    Attributes:
        error: why the last write to MLflow failed; None if it succeeded.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.error: str | None = None
        self._tracker = tracker
        self._changed = threading.Condition()
        self._newest: StudySnapshot | None = None
        self._rows: dict[str, deque[Row]] = {}
        self._offered: StudySnapshot | None = None
        self._states: dict[str, TaskState] = {}
        self._is_urgent = self._is_closing = self._is_behind = False
        self._is_left = False
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_left = error is not None
        self._close()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            _log.warning("MLflow is still being written and is left behind; the same command makes up for it")

    def offer(self, snapshot: StudySnapshot, rows: Mapping[str, Iterable[Row]] | None = None) -> None:
        """Have a snapshot written: soon if a task has begun or ended since the last one, else with the next rows.

        The final one is left to `finish`.

        Args:
            snapshot: of the study.
            rows: key of a task -> rows of metrics that it has told since the last call.
        """
        with self._changed:
            for key, told in (rows or {}).items():
                self._rows.setdefault(key, deque(maxlen=MAX_ROWS)).extend(told)
            if snapshot.finished:
                return  # its report does not exist yet, and a finished study is not written again
            self._offered = snapshot
            states: dict[str, TaskState] = {
                task.key: task.state for task in snapshot.tasks if task.state is not TaskState.WAITING
            }
            if states == self._states and not self._rows and not self._is_behind and self.error is None:
                return
            self._is_urgent |= states != self._states
            self._states, self._newest = states, snapshot
            self._changed.notify()

    def finish(self, snapshot: StudySnapshot, store: Store) -> None:
        """Write the final snapshot and the best student's model before returning."""
        self._close()
        self._thread.join()
        for tried in range(FINAL_TRIES):
            time.sleep(FINAL_PAUSE_SECONDS if tried else 0.0)
            self._write(snapshot, is_driven=False)
            if self.error is None:
                break
        if self.error is None:
            self._try(lambda: self._tracker.log_model(snapshot, store))

    def _close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._newest = None
            self._changed.notify()

    def _follow(self) -> None:
        due = -math.inf
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._is_closing)
                # Progress can wait; a task that has begun or ended is shown at once.
                pause = max(0.0, due - time.monotonic())
                self._changed.wait_for(lambda: self._is_urgent or self._is_closing, timeout=pause)
                if self._is_closing:
                    break
                snapshot, self._newest, self._is_urgent = self._newest, None, False
            assert snapshot is not None
            has_progress = time.monotonic() >= due
            if has_progress:
                due = time.monotonic() + WRITE_EVERY_SECONDS
            self._is_behind = not has_progress
            self._write(snapshot, is_cut_short=lambda: self._is_closing, has_progress=has_progress)
        if self._is_left and self._offered is not None:  # the study goes on later, whatever has ended its driver
            self._write(self._offered, is_driven=False)

    def _write(self, snapshot: StudySnapshot, **how: Any) -> None:
        self._try(partial(self._tracker.sync, snapshot, self._take_rows(), **how))

    def _take_rows(self) -> dict[str, list[Row]]:
        with self._changed:
            rows, self._rows = self._rows, {}
        return {key: list(told) for key, told in rows.items()}

    def _try(self, write: Callable[[], None]) -> None:
        """Write to MLflow; an error is kept and logged, since the study goes on and the next snapshot repeats it."""
        try:
            write()
            self.error = None
        except Exception as error:  # noqa: BLE001  whatever a tracking server can throw
            self.error = reason_of(error, self._tracker.uri)
            _log.warning("MLflow cannot be written now (%s); the study goes on, and this is tried again", self.error)

"""MLflow kept up to date beside a running study, in a thread of its own, so that a slow server delays nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from hidfd.store.store import Store
from tune.study.snapshot import StudySnapshot
from tune.tracking.connection import reason_of
from tune.tracking.tracker import Tracker

STOP_SECONDS = 5.0
"""Time that a stopped study waits for the current write; a server that does not answer would take far longer."""

FINAL_TRIES, FINAL_PAUSE_SECONDS = 3, 1.0
"""Number of tries for the final snapshot, which no later one makes up for, and the pause between two of them."""

_log = logging.getLogger(__name__)


class BackgroundTracker:
    """A tracker in a thread: it gets the newest snapshot as soon as the one before it is written; used by `with`.

    Attributes:
        error: why the last write to MLflow failed; None if it succeeded.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.error: str | None = None
        self._tracker = tracker
        self._changed = threading.Condition()
        self._newest: StudySnapshot | None = None
        self._num_ended = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            _log.warning("MLflow is still being written and is left behind; the same command makes up for it")

    def offer(self, snapshot: StudySnapshot) -> None:
        """Have a snapshot written if a task has ended since the last one. The final one is left to `finish`."""
        if snapshot.finished:
            return  # its report does not exist yet, and a finished study is not written again
        num_ended = sum(task.state.is_final for task in snapshot.tasks)
        if num_ended > self._num_ended:
            self._num_ended = num_ended
            with self._changed:
                self._newest = snapshot
                self._changed.notify()

    def finish(self, snapshot: StudySnapshot, store: Store) -> None:
        """Write the final snapshot and the best student's model before returning."""
        self._close()
        self._thread.join()
        for tried in range(FINAL_TRIES):
            time.sleep(FINAL_PAUSE_SECONDS if tried else 0.0)
            self._try(lambda: self._tracker.sync(snapshot))
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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._is_closing)
                if self._is_closing:
                    return
                snapshot, self._newest = self._newest, None
            assert snapshot is not None
            self._try(partial(self._tracker.sync, snapshot, is_cut_short=lambda: self._is_closing))

    def _try(self, write: Callable[[], None]) -> None:
        """Write to MLflow; an error is kept and logged, since the study goes on and the next snapshot repeats it."""
        try:
            write()
            self.error = None
        except Exception as error:  # noqa: BLE001  whatever a tracking server can throw
            self.error = reason_of(error, self._tracker.uri)
            _log.warning("MLflow cannot be written now (%s); the study goes on, and this is tried again", self.error)

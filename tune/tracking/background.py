"""MLflow kept up to date beside a running study, in a thread of its own: it may be late, and is never in the way."""

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
from tune.tracking.tracker import Tracker, reason_of

STOP_SECONDS = 5.0
"""How long a stopped study waits for the write under way; a server that does not answer takes far longer."""

LAST_WORD_TRIES, LAST_WORD_PAUSE_SECONDS = 3, 1.0
"""Nothing comes after the last word that could make up for it."""

_log = logging.getLogger(__name__)


class Projection:
    """Hands the newest snapshot to a tracker, as soon as the one before it is written; for a `with`.

    Attributes:
        error: why MLflow could not be written the last time it was tried; None if it could.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.error: str | None = None
        self._tracker = tracker
        self._news = threading.Condition()
        self._newest: StudySnapshot | None = None
        self._finals = 0
        self._closing = False
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
        """What stands now; written when a task has ended since. The last word is `finish`'s alone."""
        if snapshot.finished:
            return  # its report is not there yet, and what counts as finished is not written again
        finals = sum(task.state.is_final for task in snapshot.tasks)
        if finals > self._finals:
            self._finals = finals
            with self._news:
                self._newest = snapshot
                self._news.notify()

    def finish(self, snapshot: StudySnapshot, store: Store) -> None:
        """Writes the last snapshot, and the best model, before it returns."""
        self._close()
        self._thread.join()
        for tried in range(LAST_WORD_TRIES):
            time.sleep(LAST_WORD_PAUSE_SECONDS if tried else 0.0)
            self._safely(lambda: self._tracker.sync(snapshot))
            if self.error is None:
                break
        if self.error is None:
            self._safely(lambda: self._tracker.log_model(snapshot, store))

    def _close(self) -> None:
        with self._news:
            self._closing = True
            self._newest = None
            self._news.notify()

    def _follow(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._newest is not None or self._closing)
                if self._closing:
                    return
                snapshot, self._newest = self._newest, None
            assert snapshot is not None
            self._safely(partial(self._tracker.sync, snapshot, is_cut_short=lambda: self._closing))

    def _safely(self, write: Callable[[], None]) -> None:
        """The study goes on without MLflow; the next snapshot makes up for it."""
        try:
            write()
            self.error = None
        except Exception as error:  # noqa: BLE001  whatever a tracking server can throw
            self.error = reason_of(error)
            _log.warning("MLflow cannot be written now (%s); the study goes on, and this is tried again", self.error)

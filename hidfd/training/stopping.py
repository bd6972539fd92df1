"""Stop requests and checkpoint times of a training loop, also when its machine is about to shut down."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hidfd.distributed.process_group import ProcessGroup
from hidfd.pipeline.observer import Observer

POLL_SECONDS = 0.5
"""Seconds between two polls of the observer."""

SHUTDOWN_VARIABLE = "HIDFD_LEAVING"
"""The environment variable with the path of a file that exists once this machine is about to shut down (a Kubernetes
pod's preStop makes it)."""

SHUTDOWN_SAVE_SECONDS = 5.0
"""Seconds between two checkpoints once that file exists."""

SHUTDOWN_FILE_SECONDS = 3600.0
"""Age from which that file is ignored: a container that is started again finds the one of its last shutdown."""

MAX_STEPS_BETWEEN_POLLS = 100
"""Limit on several processes, which poll after a number of steps: steps may become slower than the last ones were."""


class Interruptions:
    """The decisions of the first process to stop a loop and to save it.

    All processes must learn of it at the same step. So on several of them the first also says after how many steps
    they poll again: as many as took `POLL_SECONDS` before.
    """

    def __init__(self, observer: Observer, save_every_seconds: float, processes: ProcessGroup) -> None:
        self.saved_at = self._polled_at = time.monotonic()
        self._observer, self._save_every_seconds, self._processes = observer, save_every_seconds, processes
        self._steps, self._steps_between = 0, 1
        self._shutdown_file = os.environ.get(SHUTDOWN_VARIABLE)

    def poll(self) -> tuple[str | None, bool]:
        """Return a reason to stop, or None, and whether to save before anything else; called after every step."""
        if self._processes.is_alone:
            now = time.monotonic()
            return self._decide(now, ask=now - self._polled_at >= POLL_SECONDS)
        self._steps += 1
        if self._steps < self._steps_between:
            return None, False
        reason, must_save, self._steps_between = self._processes.from_first(self._decide_for_all)
        self._steps = 0
        return reason, must_save

    def _decide(self, now: float, *, ask: bool) -> tuple[str | None, bool]:
        reason = None
        if ask:
            self._polled_at = now
            reason = self._observer.should_stop()
            if self._shutdown_file is not None and _is_recent(Path(self._shutdown_file)):
                self._save_every_seconds = min(self._save_every_seconds, SHUTDOWN_SAVE_SECONDS)
        return reason, reason is not None or now - self.saved_at >= self._save_every_seconds

    def _decide_for_all(self) -> tuple[str | None, bool, int]:
        now = time.monotonic()
        steps = int(self._steps * POLL_SECONDS / max(now - self._polled_at, 1e-6))
        return *self._decide(now, ask=True), min(max(steps, 1), MAX_STEPS_BETWEEN_POLLS)


def _is_recent(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < SHUTDOWN_FILE_SECONDS
    except FileNotFoundError:
        return False

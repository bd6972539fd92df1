"""When a training loop stops or saves: the observer's reason, the clock, and a node that is about to go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hidfd.distributed.process_group import ProcessGroup
from hidfd.pipeline.observer import Observer

POLL_SECONDS = 0.5
"""Between two questions whether to stop."""


LEAVING, LEAVING_SAVES_SECONDS = "HIDFD_LEAVING", 5.0
"""Environment variable with the path of a file that stands as soon as this machine is about to go (a Kubernetes pod's
preStop makes it), and how often is saved from then on."""


LEAVING_HOLDS_SECONDS = 3600.0
"""A container that is started again finds the file of its last end."""


MAX_STEPS_BETWEEN_POLLS = 100
"""On several processes, which count steps between two questions: steps may become slower than the last ones were."""


class Interruptions:
    """Whether to stop, and whether to save: by the observer and the clock of the first process.

    All processes must learn of it at the same step. So on several of them the first also says after how many steps
    they ask again, as many as took `POLL_SECONDS` before.
    """

    def __init__(self, observer: Observer, save_every_seconds: float, processes: ProcessGroup) -> None:
        self.saved_at = self._polled_at = time.monotonic()
        self._observer, self._save_every_seconds, self._processes = observer, save_every_seconds, processes
        self._steps, self._steps_between = 0, 1
        self._leaving = os.environ.get(LEAVING)

    def look(self) -> tuple[str | None, bool]:
        """After a step: a reason to stop, and whether to save before anything else."""
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
            if self._leaving is not None and _is_recent(Path(self._leaving)):
                self._save_every_seconds = min(self._save_every_seconds, LEAVING_SAVES_SECONDS)
        return reason, reason is not None or now - self.saved_at >= self._save_every_seconds

    def _decide_for_all(self) -> tuple[str | None, bool, int]:
        now = time.monotonic()
        steps = int(self._steps * POLL_SECONDS / max(now - self._polled_at, 1e-6))
        return *self._decide(now, ask=True), min(max(steps, 1), MAX_STEPS_BETWEEN_POLLS)


def _is_recent(file: Path) -> bool:
    """A file that a machine left when it went the last time says nothing."""
    try:
        return time.time() - file.stat().st_mtime < LEAVING_HOLDS_SECONDS
    except FileNotFoundError:
        return False

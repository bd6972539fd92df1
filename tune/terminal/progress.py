"""The pace of running tasks, and when a line on their progress is due."""

from __future__ import annotations

from collections.abc import Callable

from hidfd.formatting import progress
from hidfd.pipeline.console import Rate
from tune.study.snapshot import TaskSnapshot

LINE_EVERY_SECONDS = 20.0
"""Time between two lines on one task that moves."""

STILL_EVERY_SECONDS = 120.0
"""Time between two lines on one task that does not move, as a sign of life."""


class ProgressWatch:
    """The pace of each running task, by its stage, and the time of its last line.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rates: dict[tuple[str, str | None], Rate] = {}
        self._lines: dict[str, tuple[float, int]] = {}  # key -> time of the last line, and its images

    def update(self, task: TaskSnapshot) -> Rate:
        """Take in how far a task is, and return its pace."""
        now = self._clock()
        rate = self._rates.setdefault((task.key, task.stage), Rate(task.images, now))
        rate.update(task.images, now)
        return rate

    def is_due(self, task: TaskSnapshot) -> bool:
        """Whether to write a line on a task's progress now; if so, the next one is due an interval later."""
        now = self._clock()
        written, images = self._lines.setdefault(task.key, (now, -1))
        if now - written < (STILL_EVERY_SECONDS if task.images == images else LINE_EVERY_SECONDS):
            return False
        self._lines[task.key] = now, task.images
        return True


def progress_in_words(task: TaskSnapshot, rate: Rate) -> str:
    """Return `generation 3,200 of 24,000 images  310 images/s  1 min 07 s left`, as far as it is known."""
    if task.stage is None or task.target_images is None:
        return task.stage or "starting"
    left = rate.seconds_left(task.target_images)
    return f"{task.stage} {progress(task.images, task.target_images, rate.images_per_second, left)}"

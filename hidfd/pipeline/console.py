"""Progress on a terminal or in a log, and Ctrl-C as a request to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from hidfd.formatting import duration, metrics_in_words, progress
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer


class Rate:
    """The rate of a stage over a sliding window, so that a resumed or slowing stage shows its present rate.

    Args:
        images: images seen when the clock starts.
        now_seconds: time of any monotonic clock.
        window_seconds: length of the window.
    """

    def __init__(self, images: int, now_seconds: float, window_seconds: float = 30.0) -> None:
        self._window_seconds = window_seconds
        self._points = deque([(now_seconds, images)])

    def update(self, images: int, now_seconds: float) -> None:
        """Note how many images the stage has seen by now; the same number again leaves the rate as it was."""
        if images == self._points[-1][1]:
            return
        self._points.append((now_seconds, images))
        while len(self._points) > 2 and now_seconds - self._points[1][0] >= self._window_seconds:
            self._points.popleft()

    @property
    def images_per_second(self) -> float | None:
        """Images per second; None until the number of images has risen."""
        (before, first), (now, last) = self._points[0], self._points[-1]
        return (last - first) / (now - before) if now > before and last > first else None

    def seconds_left(self, target_images: int) -> float | None:
        """Return the seconds until the target at this rate; None while there is no rate."""
        rate = self.images_per_second
        return None if rate is None else max(0.0, (target_images - self._points[-1][1]) / rate)


class ConsoleObserver(Observer):
    """An observer with bars, images/s and time left on a terminal; else with plain lines, one per stage and interval.

    Args:
        stream: the stream to write to; default standard error, so that `--json` has standard output to itself.
        prefix: text before every line (a trial's name where several share a terminal).
        interval_seconds: seconds between two plain lines of one stage.
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        prefix: str = "",
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._prefix = prefix
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._rates: dict[str, Rate] = {}
        self._printed_at: dict[str, float] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if self._stream.isatty():
            self._bars = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[state]}"),
                console=Console(file=self._stream, highlight=False, markup=False),
                refresh_per_second=4,
                transient=True,
            )

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        now = self._clock()
        self._rates[stage.digest] = Rate(images_seen, now)
        self._printed_at[stage.digest] = now
        if self._bars is None:
            self._say(f"{stage.role}: started" + (f", {target_images:,} images" if target_images else ""))
            return
        self._bars.start()
        for task in self._bars.tasks:
            if task.finished:  # a check of the teacher, which says by its numbers that it is done
                self._bars.remove_task(task.id)
        if stage.digest not in self._tasks:
            self._tasks[stage.digest] = self._bars.add_task(
                self._prefix + stage.role, total=target_images, completed=images_seen, state=""
            )

    def reused(self, stage: Stage, seconds: float | None) -> None:
        took = "" if seconds is None else f" (took {duration(seconds)} to build)"
        self._say(f"{stage.role}: reused {stage.digest[:12]} from the store{took}")

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        now = self._clock()
        rate = self._rates.setdefault(stage.digest, Rate(images, now))
        rate.update(images, now)
        state = progress(images, target_images, rate.images_per_second, rate.seconds_left(target_images))
        if self._bars is not None:
            if self._tasks.get(stage.digest) in self._bars.task_ids:
                self._bars.update(self._tasks[stage.digest], completed=images, state=state)
        elif now - self._printed_at.get(stage.digest, now) >= self._interval_seconds:
            self._printed_at[stage.digest] = now
            self._say(f"{stage.role}: {state}  {metrics_in_words(metrics, at_most=4)}".rstrip())

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        self._say(f"{stage.role} at {images:,} images: {metrics_in_words(metrics)}")

    def picture(self, stage: Stage, images: int, path: Path) -> None:
        self._say(f"{stage.role} at {images:,} images: picture {path}")

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        if self._bars is not None and stage.digest in self._tasks:
            task = self._tasks.pop(stage.digest)
            if task in self._bars.task_ids:
                self._bars.remove_task(task)
        self._say(f"{stage.role}: built {stage.digest[:12]} in {duration(seconds)}")

    def note(self, text: str) -> None:
        self._say(text)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(self._prefix + text, soft_wrap=True)
        else:
            print(self._prefix + text, file=self._stream, flush=True)


def console_observer(*, quiet: bool = False, prefix: str = "", stream: TextIO | None = None) -> Observer:
    """Return the observer of a command, for a `with` block: silent if `quiet`, else with bars or lines."""
    return Observer() if quiet else ConsoleObserver(stream, prefix=prefix)


@contextmanager
def interruptible(observer: Observer) -> Iterator[Observer]:
    """Turn the first Ctrl-C or SIGTERM within the block into the observer's reason to stop; a second one kills.

    Must be entered in the main thread, where Python allows signal handlers.
    """
    names = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def handle(number: int, _frame: FrameType | None) -> None:
        if observer.stop_reason is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        observer.stop_reason = names[signal.Signals(number)]
        # The handler may have interrupted a print, and buffered streams refuse a second one inside the first.
        os.write(2, f"\n{observer.stop_reason}: saving, then stopping. A second one ends it at once.\n".encode())

    before = {number: signal.signal(number, handle) for number in names}
    try:
        yield observer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

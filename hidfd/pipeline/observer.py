"""The observer of a trial: it is told of the progress and may ask the trial to stop.

`hidfd.pipeline.console.ConsoleObserver` draws bars on a terminal and prints plain lines elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hidfd.pipeline.graph import Stage

Row = Mapping[str, float]
"""A row of `metrics.jsonl`: `images`, `unix_time` (seconds since 1970) and metrics named `stage/metric`."""


class Observer:
    """An observer that says nothing and never asks to stop; the base of the others.

    Attributes:
        measure_at_images: student images seen at which the distillation must measure its agreement (a study's rungs).
        stop_reason: returned by `should_stop`; None = go on.
    """

    measure_at_images: tuple[int, ...] = ()
    stop_reason: str | None = None

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        """Note that a stage is being built; `target_images` is None where it does not count images."""

    def reused(self, stage: Stage, seconds: float | None) -> None:
        """Note that a stage was found in the store; `seconds` is how long building it took, if that is known."""

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        """Note the progress of a stage; `metrics` are means over the logging interval of a training loop."""

    def training_began(self, stage: Stage, rows: Sequence[Row]) -> None:
        """Note that a training begins; `rows` are those of the checkpoint that it goes on from, if there is one."""

    def logged(self, stage: Stage, row: Row) -> None:
        """Note a new row of `metrics.jsonl`."""

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        """Note what was measured on the hold-out: the agreement of a student."""

    def picture(self, stage: Stage, images: int, path: Path) -> None:
        """Note that a picture was written."""

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        """Note that a stage's artifact is in the store; `seconds` is the time of all attempts that built it."""

    def note(self, text: str) -> None:
        """Show one line to people."""

    def should_stop(self) -> str | None:
        """Return a reason to save and stop, or None. Every loop polls it about twice a second: answer from memory."""
        return self.stop_reason

    def close(self) -> None:
        """Leave the terminal as it was found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ForwardingObserver(Observer):
    """An observer that tells another one all that it is told; the base of those that do something more.

    Args:
        inner: the observer that is told.
    """

    def __init__(self, inner: Observer) -> None:
        self.inner = inner
        self.measure_at_images = inner.measure_at_images

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        self.inner.stage_started(stage, target_images, images_seen)

    def reused(self, stage: Stage, seconds: float | None) -> None:
        self.inner.reused(stage, seconds)

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        self.inner.advanced(stage, images, target_images, metrics)

    def training_began(self, stage: Stage, rows: Sequence[Row]) -> None:
        self.inner.training_began(stage, rows)

    def logged(self, stage: Stage, row: Row) -> None:
        self.inner.logged(stage, row)

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        self.inner.measured(stage, images, metrics)

    def picture(self, stage: Stage, images: int, path: Path) -> None:
        self.inner.picture(stage, images, path)

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        self.inner.stage_finished(stage, seconds)

    def note(self, text: str) -> None:
        self.inner.note(text)

    def should_stop(self) -> str | None:
        return self.inner.should_stop()

    def close(self) -> None:
        self.inner.close()

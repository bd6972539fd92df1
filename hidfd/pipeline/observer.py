"""The observer of a trial: it is told of the progress and may ask the trial to stop.

`hidfd.pipeline.console.ConsoleObserver` draws bars on a terminal and prints plain lines elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from hidfd.pipeline.graph import Stage


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

"""How a trial tells what it is doing: an `Observer` is told of every step and may ask it to stop.

The base class is silent and never stops; `ConsoleObserver` draws bars on a terminal and prints plain lines elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from hidfd.pipeline.graph import Stage


class Observer:
    """Told of everything that happens in a trial, and asked at every poll whether to go on. Silent; never stops.

    Attributes:
        measure_at_images: student images seen at which the distillation must measure its agreement (a study's rungs).
        stop_reason: once set, what `should_stop` answers.
    """

    measure_at_images: tuple[int, ...] = ()
    stop_reason: str | None = None

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        """A stage is being built; `target_images` is None where images are not what it counts."""

    def reused(self, stage: Stage, seconds: float | None) -> None:
        """A stage was found in the store; `seconds` is what building it took then, if known."""

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        """A training loop has read its metrics (means over the logging interval)."""

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        """Something was measured on images set aside: agreement of a student, proxies of a generator."""

    def picture(self, stage: Stage, images: int, path: Path) -> None:
        """A picture was written."""

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        """A stage's artifact is in the store; `seconds` over all attempts that built it."""

    def note(self, text: str) -> None:
        """One line for a human."""

    def should_stop(self) -> str | None:
        """A reason to save and stop, or None. Polled about twice a second by every loop: answer from memory."""
        return self.stop_reason

    def close(self) -> None:
        """Leave the terminal as it was found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

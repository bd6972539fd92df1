"""What a worker reports to the driver, and how a task can end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class ProgressReport:
    """What a run tells while it lives.

    Attributes:
        stage: that it is in; None where that is not what is told.
        images, target_images: progress there; target None where it is not counted, or as told before.
        metrics: newest numbers.
        measured: the metrics are the student's on the hold-out at exactly `images`.
        picture: path of a new sample grid.
        generator: digest of one that stands now: a snapshot, or the work's own.
        note: a line for the user.
    """

    stage: str | None = None
    images: int = 0
    target_images: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    measured: bool = False
    picture: str | None = None
    generator: str | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as it travels from a worker."""
        return asdict(self)


@dataclass(frozen=True)
class TaskFinished:
    """It made what it was to make."""

    word: ClassVar[str] = "finished"
    metrics: dict[str, float]
    reused: bool = False
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskStopped:
    """It was told to, and has saved a checkpoint."""

    word: ClassVar[str] = "stopped"
    reason: str
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskDiverged:
    """A loss became non-finite."""

    word: ClassVar[str] = "diverged"
    reason: str
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskFailed:
    """It failed for its own reasons: trying again would fail again.

    Attributes:
        reason: one line.
        exit_code: of the `HidfdError` behind it, which is the user's to mend before anything goes on; None for an
            error that concerns this piece alone.
    """

    word: ClassVar[str] = "failed"
    reason: str
    exit_code: int | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskLost:
    """Its process or its node went away; it goes on from its last checkpoint.

    Attributes:
        reason: one line.
        node_is_gone: the machine went away with it, which is never the work's own fault.
    """

    word: ClassVar[str] = "lost"
    reason: str
    cpu_seconds: float | None = None
    node_is_gone: bool = False


TaskEnd = TaskFinished | TaskStopped | TaskDiverged | TaskFailed | TaskLost

ENDS: dict[str, type[TaskEnd]] = {
    end.word: end for end in (TaskFinished, TaskStopped, TaskDiverged, TaskFailed, TaskLost)
}
"""Each way to end by the word that stands for it in the ledger."""


@dataclass(frozen=True)
class Wait:
    """Nothing can start now: every slot is taken, or what is left needs what is running."""


@dataclass(frozen=True)
class Done:
    """Nothing is left to start, and nothing runs.

    Attributes:
        why: in words.
    """

    why: str


class Channel(Protocol):
    """How a running task talks to whoever runs it."""

    def report(self, report: ProgressReport) -> None:
        """Tells how it goes."""

    def verdict(self) -> str | None:
        """Why it shall save and stop, or None; cheap enough to be asked twice a second."""

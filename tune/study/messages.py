"""Messages of a worker to the driver, the ways in which an attempt at a task ends, and the planner's answers.

A worker sends a `WorkerMessage`, which travels through Ray Tune as the text of `to_json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, get_args

MAX_ROWS = 2000
"""Rows of a task's metrics that wait in memory anywhere on their way to MLflow; of more the oldest are dropped there,
and come in the end from the task's folder."""


@dataclass(frozen=True)
class AttemptStarted:
    """An attempt at a task has begun: its first process runs.

    Attributes:
        host: name of the machine.
        node_id: Ray's id of the node.
    """

    host: str
    node_id: str


@dataclass(frozen=True)
class ProcessJoined:
    """Another process of the same attempt runs; it may start before the first one.

    Attributes:
        host: name of the machine.
        node_id: Ray's id of the node.
    """

    host: str
    node_id: str


@dataclass(frozen=True)
class PlacementGroupReserved:
    """The several processes of an attempt hold a placement group, which must be freed if their trial dies.

    Attributes:
        group_id: Ray's id of it, in hexadecimal digits.
    """

    group_id: str


@dataclass(frozen=True)
class ProgressReport:
    """Progress of a running task.

    Attributes:
        stage: that the task is in; None where the report is about something else.
        images, target_images: seen in that stage, and how many it will see; target None where the stage does not count
            images, or where the report before has said it.
        metrics: newest numbers.
        measured: whether the metrics are the student's on the hold-out at exactly `images`.
        picture: path of a new sample grid.
        generator: digest of one that is in the store now: a snapshot, or the task's own.
        note: a line for the user.
        rows: rows of the task's `metrics.jsonl` that no report before has told.
    """

    stage: str | None = None
    images: int = 0
    target_images: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    measured: bool = False
    picture: str | None = None
    generator: str | None = None
    note: str | None = None
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TaskFinished:
    """The task has built all that it was to build.

    Attributes:
        metrics: final numbers.
        reused: whether every stage was found in the store.
        cpu_seconds: of the attempt's first process.
        build_seconds: time that building what it makes took, now or when it was built; None where nothing says it.
        answers: measure -> `hidfd.metrics.answers.Answers` as plain JSON, of a student that others are compared with.
    """

    word: ClassVar[str] = "finished"
    metrics: dict[str, float]
    reused: bool = False
    cpu_seconds: float | None = None
    build_seconds: float | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskStopped:
    """The task was asked to stop, and has saved a checkpoint."""

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
class TaskInfeasible:
    """The settings of the task cannot be built: not from this material, or not at all.

    Attributes:
        reason: the message of the `HidfdError` behind it.
        exit_code: of that error, which ends a study all of whose students have these settings.
    """

    word: ClassVar[str] = "failed"
    reason: str
    exit_code: int
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskFailed:
    """The task failed for its own reasons: trying again would fail again."""

    word: ClassVar[str] = "failed"
    reason: str
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskBlocked:
    """The task met an error that the user has to mend before any task goes on: of the store, the device, the material.

    Attributes:
        reason: the message of the `HidfdError` behind it.
        exit_code: of that error.
    """

    word: ClassVar[str] = "failed"
    reason: str
    exit_code: int
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class TaskLost:
    """The task's process or its node went away; the task goes on from its last checkpoint.

    Attributes:
        reason: one line.
        node_is_gone: whether the machine went away too, which is never the task's own fault.
    """

    word: ClassVar[str] = "lost"
    reason: str
    cpu_seconds: float | None = None
    node_is_gone: bool = False


TaskEnd = TaskFinished | TaskStopped | TaskDiverged | TaskInfeasible | TaskFailed | TaskBlocked | TaskLost
"""The end of an attempt at a task; the ledger keeps its `word` as `Attempt.end`."""

WorkerMessage = AttemptStarted | ProcessJoined | PlacementGroupReserved | ProgressReport | TaskEnd
"""A message of a worker to the driver."""

_MESSAGES: dict[str, type[WorkerMessage]] = {message.__name__: message for message in get_args(WorkerMessage)}


def to_json(message: WorkerMessage) -> str:
    """Return the JSON text of a message, from which `from_json` makes it again."""
    return json.dumps({"type": type(message).__name__, **asdict(message)})


def from_json(text: str) -> WorkerMessage:
    """Return the message of which `to_json` made this text."""
    fields = json.loads(text)
    return _MESSAGES[fields.pop("type")](**fields)


@dataclass(frozen=True)
class Wait:
    """The planner's answer where nothing can start now: every slot is taken, or what is left needs what is running."""


@dataclass(frozen=True)
class Done:
    """The planner's answer where nothing is left to start, and nothing runs.

    Attributes:
        why: in words.
    """

    why: str


class Channel(Protocol):
    """The two-way channel of a running task to whoever runs it."""

    def report(self, report: ProgressReport) -> None:
        """Report progress."""

    def verdict(self) -> str | None:
        """Return why the task shall save and stop, or None; cheap enough to be asked twice a second."""

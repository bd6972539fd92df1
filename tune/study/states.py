"""The states, kinds and roles of a task."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Literal

Value = bool | int | float | str


Role = Literal["search", "variant", "control", "finalist"]


class TaskKind(Enum):
    """What a task makes. The value is the last stage that it runs, which is what the ledger keeps as `until`."""

    COLLECTION = "collection"
    """The collected images and the hold-out."""

    GENERATOR = "synthesis"
    """A generator and its synthetic images."""

    STUDENT = "evaluation"
    """A student and its numbers."""

    TEST_EVALUATION = "opening"
    """A student's numbers on the test labels, which no trial contains."""

    @property
    def is_build(self) -> bool:
        """Whether several students may share what it makes."""
        return self in (TaskKind.COLLECTION, TaskKind.GENERATOR)

    @property
    def last_stage(self) -> str:
        """Return the last stage that it runs, by its name in `hidfd.pipeline.graph`."""
        return self.value

    @property
    def recorded_as(self) -> str:
        """Return the word that stands for it in ledger, run lines, `--json` and MLflow tags."""
        return "build" if self.is_build else {TaskKind.STUDENT: "student"}.get(self, "opening")

    @property
    def label(self) -> str:
        """Return the noun that its folders are numbered under."""
        return "generator" if self is TaskKind.GENERATOR else self.value


class TaskState(StrEnum):
    """Where one task stands. All but the first two are final, and stand in the ledger."""

    WAITING = "waiting"
    """For a free slot, or for a build that it needs."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    """Stopped at a rung; its metrics are those measured there."""

    COLLAPSED = "collapsed"
    """The generator (or, for a student, the one that it needs) shows too few classes to be worth a student."""

    DIVERGED = "diverged"
    """A loss became non-finite, here or in the build that it needs."""

    FAILED = "failed"
    """An error of the machine, of the input or of the code; the reason says which."""

    @property
    def is_final(self) -> bool:
        return self not in (TaskState.WAITING, TaskState.RUNNING)

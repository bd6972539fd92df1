"""The states, kinds and roles of a task."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Value = bool | int | float | str


Kind = Literal["build", "student", "opening"]


Role = Literal["search", "variant", "control", "finalist"]


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

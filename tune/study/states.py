"""The states, kinds and roles of a task."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Literal

Value = bool | int | float | str
"""A value of a searched parameter."""

Role = Literal["search", "variant", "control", "finalist", "worth"]
"""The role in which a task was asked for first: by the search, by a row of the comparison, or by `study.worth`."""

Standing = Literal["won", "lost", "undecided", "open"]
"""Standing of the best finalist beside another row: `undecided` where seeds differ too much, `open` on one seed."""


class TaskKind(Enum):
    """The kind of a task, by what it builds. The value is its last stage, which the ledger keeps as `until`."""

    COLLECTION = "collection"
    """The collected images and the hold-out."""

    GENERATOR = "synthesis"
    """A generator and its synthetic images."""

    STUDENT = "evaluation"
    """A student and its measurements."""

    TEST_EVALUATION = "opening"
    """The measurements of a student on the test labels. No trial contains it."""

    @property
    def is_build(self) -> bool:
        """Whether several students may share what it builds."""
        return self in (TaskKind.COLLECTION, TaskKind.GENERATOR)

    @property
    def last_stage(self) -> str:
        """Return the last stage that a task of this kind runs, by its name in `hidfd.pipeline.graph`."""
        return self.value

    @property
    def computed_stages(self) -> tuple[str, ...]:
        """The stages whose time a student costs, without the measurements on it; none of a test evaluation."""
        return {
            TaskKind.COLLECTION: ("collection",),
            TaskKind.GENERATOR: ("generation", "synthesis"),
            TaskKind.STUDENT: ("distillation",),
        }.get(self, ())

    @property
    def recorded_as(self) -> str:
        """Return the word for this kind in ledger, run lines, `--json` and MLflow tags."""
        return "build" if self.is_build else {TaskKind.STUDENT: "student"}.get(self, "opening")

    @property
    def label(self) -> str:
        """Return the noun under which the folders of such tasks are numbered."""
        return "generator" if self is TaskKind.GENERATOR else self.value


class TaskState(StrEnum):
    """The state of a task.

                  a slot is free
        waiting ------------------> running ---+---> complete
           ^                           |       +---> pruned     (students only)
           |  attempt stopped or lost  |       +---> collapsed
           +---------------------------+       +---> diverged
                                               +---> infeasible
                                               +---> failed

    The six on the right are final, and only they are written into the ledger. A task ends without running when a build
    that it needs ends otherwise than complete, with the state of that build. A failed task is tried again by the next
    run of the study, as a new task of the same key.
    """

    WAITING = "waiting"
    """Waiting for a free slot, or for a build that the task needs."""

    RUNNING = "running"
    """Running: an engine runs an attempt at the task."""

    COMPLETE = "complete"
    """Complete: the artifacts of the task are in the store."""

    PRUNED = "pruned"
    """Pruned: the student was stopped at a rung; its metrics are those measured there."""

    COLLAPSED = "collapsed"
    """Collapsed: the generator (of a student, the one that it needs) shows too few classes to be worth a student."""

    DIVERGED = "diverged"
    """Diverged: a loss became non-finite, in this task or in a build that it needs."""

    INFEASIBLE = "infeasible"
    """Infeasible: its settings cannot be built, from this material or at all. It is never tried again."""

    FAILED = "failed"
    """Failed by an error of the machine, of the input or of the code; the reason says which."""

    @property
    def is_final(self) -> bool:
        """Whether a task in this state has ended for good."""
        return self not in (TaskState.WAITING, TaskState.RUNNING)

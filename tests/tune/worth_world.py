"""A world in which hybrid students overtake real-only ones, and building takes a time that follows from the images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.tune.world import World
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.messages import TaskEnd, TaskFinished
from tune.study.snapshot import StudySnapshot, WorthSnapshot
from tune.study.states import TaskKind
from tune.study.task import Task

GENERATOR_SECONDS, SECONDS_PER_IMAGE = 30.0, 0.01
WORTH: dict[str, Any] = {"worth": [20, 80], "seeds": [1, 2, 3]}


def accuracy(task: Task) -> float:
    """Real-only gains 10 points with each tenfold budget; hybrid is worse at 20 steps, and better at 80."""
    student = task.spec.config.distillation
    steps, seed = student.target_images / student.batch_images, task.spec.config.seeds.distillation
    real_only = 0.3 + 0.1 * math.log10(steps)
    return real_only + 0.001 * math.sin(seed) if not task.spec.config.uses_generator else 0.2 + 0.004 * steps


@dataclass
class WorthWorld(World):
    """A world whose students learn as `accuracy` says, and where building takes a time that follows from the images.

    Attributes:
        build_seconds: of a task.
    """

    build_seconds: Callable[[Task], float | None] = lambda task: (
        GENERATOR_SECONDS
        if task.spec.kind is TaskKind.GENERATOR
        else SECONDS_PER_IMAGE * task.spec.config.distillation.target_images
    )

    def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
        end = super()._finished(task, reused=reused)
        assert isinstance(end, TaskFinished)
        metrics = end.metrics
        if task.spec.kind is TaskKind.STUDENT:
            metrics = {"agreement": 0.5, "validation_accuracy": accuracy(task), "validation_images": 2000.0}
        return replace(end, metrics=metrics, build_seconds=self.build_seconds(task))


def shown(planner: Planner) -> tuple[StudySnapshot, WorthSnapshot]:
    snapshot = snapshot_of(planner.state)
    assert snapshot.worth is not None
    return snapshot, snapshot.worth

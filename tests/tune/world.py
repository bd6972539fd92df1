"""A world without torch or time: tasks that take virtual steps, with results that follow from their settings.

`World` takes the place of the store and the machines: what was built stays built, what was interrupted goes on from its
last checkpoint. It counts how often every artifact is built.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import snapshots
from tune.engines.local import run_local
from tune.ledger.ledger import Ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import Definition, define
from tune.study.messages import (
    Channel,
    Done,
    ProgressReport,
    TaskBlocked,
    TaskDiverged,
    TaskEnd,
    TaskFailed,
    TaskFinished,
    TaskInfeasible,
    TaskLost,
    TaskStopped,
)
from tune.study.states import TaskKind
from tune.study.task import Task

TESTED = {
    "candidates": {"sha256": "a" * 64},
    "validation": {"sha256": "b" * 64},
    "test": {"sha256": "d" * 64},
    "channels": 1,
    "image_size_pixels": 28,
}
"""`data:` of a trial that has test labels."""

STEPS = 8
"""Number of reports of a training loop, evenly over its images."""

SEARCH = {
    "generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4.0},
    "generation.generator_learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "distillation.inflation": {"type": "float", "low": 1.0, "high": 20.0, "log": True},
}


def trial(**values: Any) -> TrialConfig:
    """Build a small trial whose materials have a sha256 and are never read."""
    return TrialConfig.model_validate(
        {
            "data": {
                "candidates": {"sha256": "a" * 64},
                "validation": {"sha256": "b" * 64},
                "channels": 1,
                "image_size_pixels": 28,
            },
            "teacher": {"checkpoint": {"sha256": "c" * 64}, "architecture": "resnet14", "mean": [0.3], "std": [0.3]},
            "collection": {"num_images": 100, "holdout_images": 200},
            "generation": {"networks": "light", "image_size_pixels": 28, "width": 8, "target_images": 3200},
            "distillation": {"architecture": "resnet8", "target_images": 6400, "batch_images": 64},
        }
        | values
    )


def definition(study: dict[str, Any] | None = None, search: dict[str, Any] | None = None, **values: Any) -> Definition:
    """Build a study over that trial."""
    searched = SearchConfig.model_validate(SEARCH if search is None else search)
    asked = StudyConfig.model_validate({"num_students": 6, "startup_students": 3, "sampler": "tpe"} | (study or {}))
    return define("s", asked, searched, trial(**values), Path("results"), resources={"cpus": 1.0})


def quality(task: Task) -> float:
    """Return the agreement of a student of these settings, 0..1: a smooth hill, and a little of its seed."""
    config = task.spec.config
    seed = math.sin(config.seeds.distillation + 7 * config.seeds.generation)
    hill = 0.8 - 0.05 * abs(math.log(max(config.distillation.inflation, 0.1) / 5))
    hill -= 0.03 * abs(config.generation.smoothing.temperature - 1.5) * config.uses_generator
    return hill - 0.05 * (not config.uses_generator) + 0.001 * seed


class Killed(BaseException):
    """Raised where a driver dies."""


@dataclass
class World:
    """The store and the machines, which outlive a driver.

    Attributes:
        storage: of the ledger.
        built: digest -> how often it was built.
        progress: key -> steps done so far, by its checkpoints.
        trained: trajectory -> images that its generators were trained on; repeated ones count again.
        ends: trajectory -> images at which one of its lengths has ended, so that a longer one goes on from there.
        collapsed: whether the generator of a task shows too few classes.
        diverged, failing: whether a task diverges, and with what it fails.
        lose: called at each step; True loses the worker there.
    """

    storage: BaseStorage = field(default_factory=InMemoryStorage)
    built: Counter[str] = field(default_factory=Counter)
    progress: dict[str, int] = field(default_factory=dict)
    trained: Counter[str] = field(default_factory=Counter)
    ends: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    running: list[str] = field(default_factory=list)
    collapsed: Callable[[Task], bool] = lambda task: False
    diverged: Callable[[Task], bool] = lambda task: False
    failing: Callable[[Task], TaskFailed | TaskInfeasible | TaskBlocked | None] = lambda task: None
    lose: Callable[[Task, int], bool] = lambda task, step: False
    log: list[str] = field(default_factory=list)

    def steps(self, task: Task, channel: Channel) -> Iterator[TaskEnd | None]:
        """Run a task, one virtual step per `next`: None until it has ended, then its end."""
        self.log.append(task.label)
        failed = self.failing(task)
        if failed is not None:
            yield failed
            return
        target = task.spec.target_images
        if target is None or task.key in self.built or task.spec.generator in self.built:
            yield self._finished(task, reused=task.key in self.built)
            return
        for step in range(self._steps_done(task, target) + 1, STEPS + 1):
            if self.lose(task, step):
                yield TaskLost("its node is gone")
                return
            images = target * step // STEPS
            stage = "distillation" if task.spec.kind is TaskKind.STUDENT else "generation"
            channel.report(ProgressReport(stage, images, target, {"loss": 1.0 / step}))
            if task.spec.kind is TaskKind.STUDENT:
                value = quality(task) - 0.1 * (1 - step / STEPS)
                channel.report(ProgressReport("distillation", images, target, {"agreement": value}, measured=True))
            self.progress[task.key] = step
            self._train(task, target // STEPS, images, channel)
            if self.diverged(task) and step == STEPS // 2:
                yield TaskDiverged("generation: a loss was not finite")
                return
            reason = channel.verdict()
            if reason is not None and step < STEPS:
                yield TaskStopped(reason)
                return
            if step < STEPS:
                yield None
        yield self._finished(task, reused=False)

    def _steps_done(self, task: Task, target: int) -> int:
        """Return the steps done already, by the task's own checkpoints or the end of a shorter generator."""
        ends = self.ends[task.spec.trajectory] if task.spec.trajectory is not None else set()
        shorter = max((end for end in ends if end <= target), default=0)
        return max(self.progress.get(task.key, 0), shorter * STEPS // target)

    def _train(self, task: Task, step_images: int, images: int, channel: Channel) -> None:
        """Count the images of a generator's step, and leave its snapshots."""
        trajectory = task.spec.trajectory
        if trajectory is None:
            return
        self.trained[trajectory] += step_images
        for snapshot in snapshots(task.config):
            assert snapshot.target_images is not None
            if images >= snapshot.target_images:
                self.ends[trajectory].add(snapshot.target_images)
                self.built.update({snapshot.digest} - self.built.keys())
                channel.report(ProgressReport(generator=snapshot.digest))

    def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
        if not reused:
            missing = [digest for digest in task.spec.makes if digest not in self.built]
            self.built.update({*missing, task.key})
            if task.spec.trajectory is not None and task.spec.target_images is not None:
                self.ends[task.spec.trajectory].add(task.spec.target_images)
        if task.spec.kind is TaskKind.STUDENT:
            value = quality(task)
            return TaskFinished({"agreement": value, "validation_accuracy": value + 0.01}, reused, 1.5)
        if task.spec.kind is TaskKind.TEST_EVALUATION:
            return TaskFinished({"test_accuracy": quality(task) - 0.02}, reused, 0.5)
        return TaskFinished({"generator.effective_classes": 2.0 if self.collapsed(task) else 9.0}, reused, 2.5)

    def execute(self, task: Task, channel: Channel) -> TaskEnd:
        """Run all steps of a task, as the worker of an engine does."""
        return next(end for end in self.steps(task, channel) if end is not None)

    def planner(self, study: Definition, clock: Callable[[], float] = lambda: 0.0) -> Planner:
        """Make the planner of a new driver over this world."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ledger = Ledger(self.storage, study.name, study.study.objective, study.study.further_objectives)
        ledger.claim()
        return Planner(StudyState(study, ledger, tries_again=True), clock)


class DirectChannel:
    """A channel straight to the planner."""

    def __init__(self, planner: Planner, key: str) -> None:
        self.planner, self.key = planner, key

    def report(self, report: ProgressReport) -> None:
        self.planner.on_report(self.key, report)

    def verdict(self) -> str | None:
        return self.planner.verdict(self.key)


def run_side_by_side(planner: Planner, world: World, slots: int) -> str:
    """Run a study on several slots, one step each per round; check that nothing is built twice at the same time."""
    active: list[tuple[Task, Iterator[TaskEnd | None]]] = []
    while True:
        while isinstance(step := planner.next_task(slots - len(active)), Task):
            for other, _ in active:
                overlap = step.spec.makes & other.spec.makes - world.built.keys()
                assert not overlap, f"{step.label} and {other.label} both build {overlap}"
            planner.on_start(step, "here")
            active.append((step, world.steps(step, DirectChannel(planner, step.key))))
        if isinstance(step, Done):
            assert not active
            return step.why
        assert active, "waiting for nothing"
        for task, steps in list(active):
            end = next(steps)
            if end is not None:
                active = [entry for entry in active if entry[0] is not task]
                planner.on_end(task, end)


class Silent:
    """A channel whose reports nobody reads."""

    def report(self, report: ProgressReport) -> None:
        pass

    def verdict(self) -> str | None:
        return None


def run(study: Definition, world: World, slots: int = 1) -> Planner:
    """Run a study to its end, one task after another or several side by side."""
    planner = world.planner(study)
    if slots == 1:
        run_local(planner, world.execute)
    else:
        run_side_by_side(planner, world, slots)
    return planner


def summary(planner: Planner) -> dict[str, Any]:
    """Return all that a study found, but not how often it was interrupted."""
    state = planner.state
    return {
        "search_trials": [
            (s.number, s.params, s.group, s.state, s.value, s.reason, s.rungs) for s in state.search_trials
        ],
        "tasks": [(t.label, t.key, t.outcome and (t.outcome.state, t.outcome.metrics)) for t in state.tasks.values()],
        "rows": [(row.name, row.keys) for row in state.comparison_rows],
    }


class KilledLedger(Ledger):
    """A ledger whose driver dies before its n-th write."""

    def __init__(self, world: World, study: Definition, at: int) -> None:
        self.left = at
        super().__init__(world.storage, study.name, study.study.objective, study.study.further_objectives)
        self.claim()

    def _write(self, action: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super()._write(action)


def is_killed(study: Definition, world: World, at: int) -> bool:
    """Run a study under a driver that dies before its `at`-th write; whether it died before the study was over."""
    try:
        run_local(Planner(StudyState(study, KilledLedger(world, study, at)), lambda: 0.0), world.execute)
    except Killed:
        return True
    return False

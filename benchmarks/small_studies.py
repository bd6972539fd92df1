"""Half-size quickstarts that measure the wait for a student's first step, and what sharing generators saves."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.overhead import run_on_ray
from tune.engines.environment import before_torch
from tune.engines.local import run_local
from tune.engines.worker import WorkerContext, perform
from tune.ledger.opening import open_ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.messages import Channel, Done, ProgressReport, TaskEnd, TaskFinished, Wait
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task

SHARED_BY = 8
"""Number of students that share a generator when reuse is measured."""

STUDY_FILE = Path(__file__).parents[1] / "studies" / "quickstart.yaml"

SMALL = (
    "trial.generation.target_images=8000",
    "trial.synthesis.num_images=1500",
    "trial.distillation.target_images=7200",
)
"""Overrides for half of the quickstart's budgets; with a quarter of them, generators collapse."""

NO_CONTROLS = tuple(f"study.controls.{name}=false" for name in ("real_only", "synthetic_only", "plain_kd"))


class _HandOutTimes(Planner):
    """A planner that writes down when it handed out each task."""

    def __init__(self, state: StudyState, folder: Path) -> None:
        super().__init__(state, time.time)
        self._folder = folder

    def next_task(self, free: int) -> Task | Wait | Done:
        found = super().next_task(free)
        if isinstance(found, Task):
            (self._folder / found.key).write_text(str(time.time()))
        return found


class FirstStep:
    """A channel that notes when a student is about to take its first step."""

    def __init__(self, channel: Channel) -> None:
        self.at: float | None = None
        self._channel = channel

    def report(self, report: ProgressReport) -> None:
        """Pass the report on."""
        if self.at is None and report.stage == "distillation":
            self.at = time.time()
        self._channel.report(report)

    def verdict(self) -> str | None:
        """Return the planner's verdict."""
        return self._channel.verdict()


def perform_and_note(task: Task, context: WorkerContext, channel: Channel) -> TaskEnd:
    """Perform a task as a study does, and add the seconds from decision to first step to its metrics."""
    first_step = FirstStep(channel)
    end = perform(task, context, first_step)
    if isinstance(end, TaskFinished) and first_step.at is not None:
        handed_out = float((Path(context.folder) / "handed-out" / task.key).read_text())
        end.metrics["first_step_seconds"] = first_step.at - handed_out
        end.metrics["process"] = float(os.getpid())
    return end


def starts(folder: Path) -> tuple[list[float], list[float]]:
    """Measure the seconds to a student's first step in new workers, and in those that have trained one before."""
    rate = {"distillation.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}}
    study = _small_study(folder, "start", rate, "study.num_students=10", "trial.synthesis.num_images=0")
    (folder / "handed-out").mkdir()
    with open_ledger(str(folder / "ledger.db"), study.name, "agreement") as ledger:
        planner = _HandOutTimes(StudyState(study, ledger), folder / "handed-out")
        run_on_ray(planner, folder, perform_and_note)
    tasks = [task for task in planner.state.tasks.values() if task.spec.kind is TaskKind.STUDENT]
    assert all(task.outcome is not None and task.outcome.state is TaskState.COMPLETE for task in tasks), planner.notes
    cold: list[float] = []
    warm: list[float] = []
    seen: set[float] = set()
    for task in sorted(tasks, key=lambda task: task.attempts[0].started):
        assert task.outcome is not None, task.label
        metrics = task.outcome.metrics
        (warm if metrics["process"] in seen else cold).append(metrics["first_step_seconds"])
        seen.add(metrics["process"])
    return cold, warm


def reuse(folder: Path) -> tuple[float, float, float, float]:
    """Measure the CPU-seconds of the same search trials with one generator for all and with one for each.

    Returns:
        CPU-seconds with reuse, without it, and of a generator and of a student as measured with reuse.
    """
    before_torch(1)
    import torch

    from hidfd.store.store import Store
    from hidfd.trial import run_trial

    torch.set_num_threads(1)
    sharing = f"study.students_per_generator={SHARED_BY}"
    search = {"distillation.inflation": {"type": "float", "low": 5, "high": 200, "log": True}}
    search["generation.smoothing.temperature"] = {"type": "float", "low": 0.5, "high": 4, "log": True}
    study = _small_study(folder, "reuse", search, f"study.num_students={SHARED_BY}", sharing)
    context = WorkerContext(str(folder / "store"), str(folder), "cpu", 1)
    shutil.copytree(folder / "store", folder / "imported")
    run_trial(study.base, Store.open(str(folder / "imported")), until="collection", device="cpu")
    with open_ledger(str(folder / "ledger.db"), study.name, "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), time.time)
        run_local(planner, lambda task, channel: perform(task, context, channel))
    tasks = [
        task
        for task in planner.state.tasks.values()
        if task.role == "search" and task.spec.kind is not TaskKind.COLLECTION
    ]
    assert all(task.outcome is not None and task.outcome.state is TaskState.COMPLETE for task in tasks)
    costs = {
        is_build: [_cpu_seconds(w) for w in tasks if w.spec.kind.is_build is is_build] for is_build in (True, False)
    }
    started = time.process_time()
    for task in tasks:
        if task.spec.kind is TaskKind.STUDENT:
            own = folder / "own" / task.label
            shutil.copytree(folder / "imported", own / "store")
            run_trial(task.spec.config, Store.open(str(own / "store")), folder=own, device="cpu")
    without = time.process_time() - started
    shared = sum(map(sum, costs.values()))
    return shared, without, statistics.fmean(costs[True]), statistics.fmean(costs[False])


def _cpu_seconds(task: Task) -> float:
    return sum(attempt.cpu_seconds or 0.0 for attempt in task.attempts)


def _small_study(folder: Path, name: str, search: dict[str, Any], *overrides: str) -> Definition:
    """Define the quickstart at half of its budgets, without controls, over another search; import its material."""
    from hidfd.pipeline.observer import Observer
    from hidfd.store.store import Store
    from hidfd.trial import import_all
    from tune.opened_study import open_study

    tree = yaml.safe_load(STUDY_FILE.read_text())
    trial = tree["trial"]
    for material in (trial["data"]["candidates"], trial["data"]["validation"], trial["data"]["test"]):
        material["path"] = str(STUDY_FILE.parent / material["path"])
    trial["teacher"]["checkpoint"]["path"] = str(STUDY_FILE.parent / trial["teacher"]["checkpoint"]["path"])
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree | {"search": search}))
    given = (
        f"name={name}",
        "study.sampler=random",
        "study.pruner.kind=none",
        "study.test_labels=never",
        *SMALL,
        *NO_CONTROLS,
        *overrides,
    )
    study = open_study(str(file), given, store=str(folder / "store"))
    import_all(study.definition.base, Store.open(str(folder / "store")), Observer())
    return study.definition

"""Snapshots of a study that a planner went through in a world without torch, with plausible numbers and folders."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.hidfd.trial_folders import NAMES, make_trial_folder
from tests.tune.world import World, definition
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.messages import TaskEnd, TaskFinished
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind
from tune.study.task import Task

STARTED = 1_760_000_000.0
SECONDS_PER_STEP = 4.0
SLOTS = 2

VARIANTS: dict[str, dict[str, Any]] = {
    "hybrid": {"distillation.inflation": 10.0},
    "real-only": {"synthesis.num_images": 0},
    "synthetic-only": {"distillation.inflation": 0.0},
}


@dataclass
class _Channel:
    planner: Planner
    key: str

    def report(self, report: Any) -> None:
        self.planner.on_report(self.key, report)

    def verdict(self) -> str | None:
        return self.planner.verdict(self.key)


def study_snapshot(
    folder: Path,
    *,
    rounds: int | None = None,
    labels: bool = True,
    folders: bool = True,
    collapsed: int | None = None,
    study: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
    **shown: Any,
) -> StudySnapshot:
    """A search of eight students on three generators and its controls, or as much of it as two slots do.

    Args:
        folder: of the study.
        rounds: steps that each slot took; None = to the end.
        labels: whether it had a validation split.
        folders: whether trial folders exist.
        collapsed: number of a generator that shows too few classes.
        study, search: sections of the study file, over the defaults.
        shown: attributes of the snapshot to replace.
    """
    data = {
        "num_classes": 10,
        "class_names": NAMES,
        "candidates": {"sha256": "a" * 64},
        "candidates_in_domain": True,
        "validation": {"sha256": "b" * 64} if labels else None,
        "channels": 1,
        "image_size_pixels": 28,
    }
    asked = {"num_students": 8, "startup_students": 4, "students_per_generator": 3} | (study or {})
    world = World(collapsed=lambda task: task.label == f"generator-{collapsed}")
    study_definition = replace(
        definition(asked, search, data=data),
        name="fashion-small",
        folder=folder,
        file="studies/fashion-small.yaml",
        command="python -m tune run studies/fashion-small.yaml",
        tracking=f"sqlite:///{folder.parent}/mlflow.db",
    )
    planner = world.planner(study_definition, lambda: STARTED + SECONDS_PER_STEP * sum(world.progress.values()) / SLOTS)
    _run(planner, world, rounds, labels)
    snapshot = snapshot_of(planner.state, planner.running)
    if folders:
        for task in snapshot.tasks:
            if task.attempts:
                until = (
                    "distillation"
                    if task.kind is TaskKind.STUDENT and not task.state.is_final
                    else task.kind.last_stage
                )
                path = make_trial_folder(folder / task.label, until=until, labels=labels, agreement=task.value or 0.6)
                (path / "report.html").write_text(f"<p>{task.label}")
        snapshot = snapshot_of(planner.state, planner.running)
    return replace(snapshot, **shown)


def _run(planner: Planner, world: World, rounds: int | None, labels: bool) -> None:
    active: list[tuple[Task, Iterator[TaskEnd | None]]] = []
    while rounds is None or rounds > 0:
        while len(active) < SLOTS and isinstance(step := planner.next_task(SLOTS - len(active)), Task):
            planner.on_start(step, "laptop")
            active.append((step, world.steps(step, _Channel(planner, step.key))))
        if not active:
            return
        for task, steps in list(active):
            end = next(steps)
            if end is not None:
                active = [entry for entry in active if entry[0] is not task]
                planner.on_end(task, _plausible(end, task, labels))
        rounds = None if rounds is None else rounds - 1


def _plausible(end: TaskEnd, task: Task, labels: bool) -> TaskEnd:
    """What a virtual task measured, with the numbers that a real one has."""
    if not isinstance(end, TaskFinished) or task.spec.target_images is None:
        return end
    wave = math.sin(17.0 * task.number)
    metrics = dict(end.metrics)
    if task.spec.config.uses_synthetic_images:
        metrics |= {
            "generator.effective_classes": metrics.get("generator.effective_classes", 9.0),
            "generator.label_agreement": 0.7 + 0.05 * wave,
            "generator.memorisation": 0.02 + 0.01 * wave,
            "generator.memorisation_standard_error": 0.006,
        }
    if task.spec.kind is TaskKind.STUDENT:
        metrics |= {"agreement_standard_error": 0.011, "deployed_parameters": 91_322.0, "kl_to_teacher": 0.4}
        if labels:
            metrics["validation_accuracy"] = metrics["agreement"] - 0.02 + 0.012 * wave
        else:
            del metrics["validation_accuracy"]
    return replace(end, metrics=metrics, cpu_seconds=31.0 + 3 * wave)

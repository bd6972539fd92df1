"""One trial, from the user's material to a student and its numbers: the stages meet here and nowhere else.

import -> teacher -> collection -> generation -> synthesis -> distillation -> evaluation

On several processes each runs through the same stages: what trains is trained together, all else the first does alone
while the others wait, and then read what it wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hidfd.config.schema import TrialConfig, check_shares
from hidfd.data.collection import Collection, open_collection
from hidfd.data.identify import identify
from hidfd.data.image_set import open_images
from hidfd.distributed.device import Device, resolve_device
from hidfd.distributed.process_group import ProcessGroup, joined
from hidfd.errors import Stopped
from hidfd.networks.student import Student, load_student
from hidfd.networks.teacher import Teacher, load_teacher
from hidfd.pipeline.graph import Stage, needed, plan, snapshots, test_evaluation_of
from hidfd.pipeline.observer import Observer
from hidfd.report import folder as trial_folder
from hidfd.report.folder import Built
from hidfd.stages.collection import collect
from hidfd.stages.context import StageContext
from hidfd.stages.distillation import distil, replay
from hidfd.stages.evaluation import evaluate, open_test_labels
from hidfd.stages.generation import train_generator
from hidfd.stages.image_import import import_images
from hidfd.stages.synthesis import synthesise
from hidfd.stages.teacher import import_teacher, train_teacher
from hidfd.store.store import Artifact, Store
from hidfd.training.loop import LOOPS


@dataclass(frozen=True)
class TrialResult:
    """What a trial left.

    Attributes:
        config: with the sha256 of every material.
        stages: role -> stage, of the whole trial.
        metrics: the numbers of `result.json`, as far as the trial went.
        seconds: role -> seconds that building took, then or now.
        reused: roles that were found in the store.
        folder: with `report.html`, if one was asked for.
    """

    config: TrialConfig
    stages: dict[str, Stage]
    metrics: dict[str, Any]
    seconds: dict[str, float]
    reused: tuple[str, ...]
    folder: Path | None


class Trial:
    """A trial under way: what is built is in the store, what is opened is kept here."""

    def __init__(self, config: TrialConfig, store: Store, device: Device, observer: Observer) -> None:
        self.store, self.device, self.observer = store, device, observer
        self.processes = device.processes
        self.config = self.processes.from_first(lambda: identify(config, store))
        self.stages = plan(self.config)
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []
        self.samples: Path | None = None
        self._teacher: Teacher | None = None
        self._collection: Collection | None = None

    @property
    def built(self) -> Built:
        """What there is by now, for its folder."""
        return Built(self.config, self.stages, self.store, self.device, self.seconds, tuple(self.reused))

    def run(self, until: str) -> None:
        """Find or build every stage up to `until`."""
        if not self.processes.is_alone:
            self.check_batches(until)
        for stage in needed(self.stages, until):
            found = self.found(stage)
            if found is not None:
                self.reused.append(stage.role)
                self.seconds[stage.role] = float(found.meta.get("seconds", 0.0))
                self.observer.reused(stage, found.meta.get("seconds"))
                if stage.name == "distillation":
                    replay(stage, found.metrics(), self.observer)
                if stage.name in LOOPS:  # checkpoints of a run that was killed before it could
                    checkpoints = self.store.checkpoints(stage.checkpoints)
                    self.processes.from_first(partial(checkpoints.clear, stage.target_images))
                continue
            reason = self.processes.from_first(self.observer.should_stop)
            if reason is not None:
                raise Stopped(f"stopped before {stage.role} ({reason}); what was built is kept, nothing is lost")
            started = time.monotonic()
            artifact = self.build(stage)
            self.seconds[stage.role] = float(artifact.meta.get("seconds", time.monotonic() - started))
            self.observer.stage_finished(stage, self.seconds[stage.role])

    def check_batches(self, until: str) -> None:
        """Refuse, before anything is built, batches of what is still to be trained that the processes cannot share."""
        missing = {stage.name for stage in needed(self.stages, until) if self.found(stage) is None}
        batches = dict(batch for stage, batch in self.config.batches.items() if stage in missing)
        check_shares(batches, self.processes.count)

    def build(self, stage: Stage) -> Artifact:
        """Build one stage whose inputs stand in the store."""
        context = self.context(stage)
        match stage.name:
            case "import":
                return self.by_first(stage, lambda: import_images(context))
            case "teacher" if self.config.teacher.train is None:
                return self.by_first(stage, lambda: import_teacher(context))
            case "teacher":
                return train_teacher(context, self.artifact("teacher_images"), self.artifact_if_any("validation"))
            case "collection":
                candidates, test = self.artifact("candidates"), self.artifact_if_any("test")
                return self.by_first(stage, lambda: collect(context, candidates, test, self.teacher))
            case "generation":
                for snapshot in snapshots(self.config):
                    self.keep_snapshot(snapshot)
                return self.generator_of(stage)
            case "synthesis":
                generation = self.artifact("generation")
                return self.by_first(stage, lambda: synthesise(context, generation, self.teacher))
            case "distillation":
                return distil(context, self.collection, self.synthetic, self.teacher)
            case _:
                validation = self.artifact_if_any("validation")
                return self.by_first(
                    stage, lambda: evaluate(context, self.student, self.teacher, self.collection, validation)
                )

    def context(self, stage: Stage) -> StageContext:
        return StageContext(stage, self.config, self.store, self.device, self.observer)

    def generator_of(self, stage: Stage) -> Artifact:
        """Train to the stage's length, from the longest shorter one that has left its state."""
        return train_generator(self.context(stage), self.collection, self.teacher, self.samples)

    def keep_snapshot(self, snapshot: Stage) -> None:
        """A shorter generator on the way to the trial's own, unless it stands already."""
        found = self.found(snapshot)
        if found is not None:
            self.observer.reused(snapshot, found.meta.get("seconds"))
        else:
            self.observer.stage_finished(snapshot, float(self.generator_of(snapshot).meta["seconds"]))

    def by_first(self, stage: Stage, make: Callable[[], Artifact]) -> Artifact:
        """What the first process makes alone, as all find it in the store."""

        def build() -> None:
            make()

        self.processes.from_first(build)
        return self.artifact(stage.role)

    def found(self, stage: Stage) -> Artifact | None:
        """The stage's artifact if the first process finds it in the store."""
        artifact = self.store.find(stage.name, stage.digest)
        if not self.processes.from_first(lambda: artifact is not None):
            return None
        return artifact or self.artifact(stage.role)

    def artifact(self, role: str) -> Artifact:
        """A built stage of this trial."""
        stage = self.stages[role]
        return self.store.get(stage.name, stage.digest)

    def artifact_if_any(self, role: str) -> Artifact | None:
        """The same, building it first where the trial has it; None where it does not."""
        if role not in self.stages:
            return None
        self.run_import(role)
        return self.artifact(role)

    def run_import(self, role: str) -> None:
        stage = self.stages[role]
        if self.found(stage) is None:
            self.build(stage)

    @property
    def teacher(self) -> Teacher:
        if self._teacher is None:
            self._teacher = load_teacher(self.artifact("teacher"), self.config, self.device)
        return self._teacher

    @property
    def collection(self) -> Collection:
        if self._collection is None:
            self._collection = open_collection(self.artifact("collection"), self.artifact("candidates"))
        return self._collection

    @property
    def synthetic(self) -> Tensor | None:
        if not self.config.uses_synthetic_images:
            return None
        return torch.from_numpy(open_images(self.artifact("synthesis")).pixels)

    @property
    def student(self) -> Student:
        return load_student(self.artifact("distillation"), self.config, self.teacher, self.device)


def run_trial(
    config: TrialConfig,
    store: Store,
    *,
    until: str = "evaluation",
    folder: Path | None = None,
    device: str = "auto",
    observer: Observer | None = None,
    name: str = "trial",
) -> TrialResult:
    """Run a trial, or as much of it as is not in the store yet.

    Where `torch.distributed` has been initialised, every process calls this, with a store that all of them reach and a
    GPU of its own as the current one; the first process's `config`, `folder` and `observer` count.

    Args:
        config: materials may lack their sha256; they are identified first.
        until: the last stage to build.
        folder: where the trial explains itself (`hidfd.report.folder`); None = nowhere.
        device: `auto`, `cpu` or `cuda`.
        observer: hears of the progress and may stop the trial.
        name: of the trial, for its report.

    Raises:
        ConfigError: a batch cannot be shared equally by the processes.
        InputError, StoreError, DeviceError, DivergedError: see `hidfd.errors`.
        ProcessLostError: another process of this trial ended.
        Stopped: the observer asked for it; the same call goes on.
    """
    with joined() as processes:
        observer = _followed(observer or Observer(), processes)
        trial = Trial(config, store, resolve_device(device, config.precision, processes), observer)

        def prepare() -> None:
            if folder is not None:
                trial.samples = trial_folder.prepare(folder, name, trial.config, store)

        def explain() -> None:
            if folder is not None and trial.seconds:
                trial_folder.write(folder, name, trial.built, until)

        processes.from_first(prepare)
        try:
            trial.run(until)
        except Stopped:
            processes.from_first(explain)  # as far as it came: a study's pruned trial stays so
            raise
        metrics = processes.from_first(lambda: trial_folder.result_of(trial.built, until))
        processes.from_first(explain)
    return TrialResult(trial.config, trial.stages, metrics, trial.seconds, tuple(trial.reused), folder)


def _followed(observer: Observer, processes: ProcessGroup) -> Observer:
    """The first process's own observer; the others' tells nobody, and has them measure where the first one does."""
    at_images = processes.from_first(lambda: observer.measure_at_images)
    if not processes.is_first:
        observer = Observer()
        observer.measure_at_images = at_images
    return observer


def evaluate_test(config: TrialConfig, store: Store, *, device: str = "auto") -> dict[str, Any]:
    """Open the test labels for a finished trial, once: accuracy, per class, confusion matrix, calibration error.

    Raises:
        StoreError: the trial has not been run.
        ConfigError: the study file names no test split.
    """
    with joined() as processes:
        trial = Trial(config, store, resolve_device(device, config.precision, processes), Observer())
        stage = test_evaluation_of(trial.stages)
        trial.run_import("test")

        def numbers() -> dict[str, Any]:
            opened = open_test_labels(trial.context(stage), trial.student, trial.teacher)
            return opened.meta | {"opened": opened.created}

        return processes.from_first(numbers)


def import_all(config: TrialConfig, store: Store, observer: Observer) -> TrialConfig:
    """Bring the teacher and every image of a trial into the store; the trial with their sha256.

    Raises:
        InputError: something cannot be read, or the checkpoint does not fit its architecture.
    """
    trial = Trial(config, store, resolve_device("cpu", "fp32"), observer)
    for stage in trial.stages.values():
        imports = stage.name == "import" or (stage.name == "teacher" and trial.config.teacher.train is None)
        if imports and store.find(stage.name, stage.digest) is None:
            trial.build(stage)
    return trial.config

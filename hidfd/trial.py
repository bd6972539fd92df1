"""One trial, from the user's material to a student and its numbers: the stages meet here and nowhere else.

import -> teacher -> collection -> generation -> synthesis -> distillation -> evaluation

On several processes each runs through the same stages: what trains is trained together, all else the first process
does alone while the others wait, and then read what it wrote.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hidfd.config.schema import TrialConfig, check_processes, check_shares
from hidfd.data.identify import identify
from hidfd.distributed.device import Device, resolve_device
from hidfd.distributed.process_group import joined
from hidfd.errors import Stopped
from hidfd.pipeline.graph import Stage, needed, network_size_of, plan, teacher_check_of, test_evaluation_of
from hidfd.pipeline.known_networks import recall_networks
from hidfd.pipeline.network_sizes import CODE_ROLES
from hidfd.pipeline.observer import Observer
from hidfd.report import folder as trial_folder
from hidfd.report.folder import Built
from hidfd.report.live_metrics import LiveMetrics
from hidfd.stages.collection import collect
from hidfd.stages.context import StageContext, observer_of_process
from hidfd.stages.distillation import distil
from hidfd.stages.evaluation import evaluate, run_test_evaluation
from hidfd.stages.generation import train_generator
from hidfd.stages.imports.code import import_code, measure_network
from hidfd.stages.imports.images import import_images
from hidfd.stages.imports.weights import import_judge, import_teacher
from hidfd.stages.inputs import StageInputs
from hidfd.stages.memory import explaining_out_of_memory
from hidfd.stages.methods.cmi import learn_from_inversions
from hidfd.stages.methods.dafl import learn_data_free
from hidfd.stages.methods.dfnd import distil_noisy
from hidfd.stages.methods.student_training import replay
from hidfd.stages.synthesis import synthesise
from hidfd.stages.teacher import judge_teacher, measure_teacher, train_teacher
from hidfd.store.store import Artifact, Store
from hidfd.training.loop import LOOPS


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        config: the trial, with the sha256 of every material.
        stages: role -> stage, of the whole trial.
        metrics: the numbers of `result.json`, as far as the trial went.
        seconds: role -> seconds that building took, now or when the artifact was built.
        reused: roles that were found in the store.
        folder: the folder with `report.html`; None where none was asked for.
    """

    config: TrialConfig
    stages: dict[str, Stage]
    metrics: dict[str, Any]
    seconds: dict[str, float]
    reused: tuple[str, ...]
    folder: Path | None


class Trial:
    """A trial that is being run: each stage is found in the store, or built."""

    def __init__(self, config: TrialConfig, store: Store, device: Device, observer: Observer) -> None:
        self.store, self.device, self.observer = store, device, observer
        self.processes = device.processes
        self.config = self.processes.from_first(lambda: identify(config, store, observer))
        self.folder: Path | None = None
        self.stages = plan(self.config)
        self.inputs = StageInputs(self.config, self.stages, store, device)
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []
        self.samples: Path | None = None
        self.is_teacher_checked = False
        self._know_networks()

    @property
    def built(self) -> Built:
        """The stages that have been built, for the trial's folder."""
        return Built(self.config, self.stages, self.store, self.device, self.seconds, tuple(self.reused), self.inputs)

    def run(self, until: str) -> None:
        """Find or build every stage up to `until`."""
        if not self.processes.is_alone:
            self._check_batches(until)
        for stage in needed(self.stages, until):
            context = self.context(stage)
            found = context.find()
            if found is not None:
                self._reuse(context, found)
                continue
            reason = self.processes.from_first(self.observer.should_stop)
            if reason is not None:
                raise Stopped(f"stopped before {stage.role} ({reason}); what was built is kept, nothing is lost")
            if stage.name not in ("import", "teacher"):
                self.check_teacher(is_first=stage.name == "collection")
            started = time.monotonic()
            artifact = self.build(stage)
            self.seconds[stage.role] = float(artifact.meta.get("seconds", time.monotonic() - started))
            self.observer.stage_finished(stage, self.seconds[stage.role])

    def build(self, stage: Stage) -> Artifact:
        """Build one stage whose inputs are in the store.

        Raises:
            OutOfMemoryError: says what held the memory and which settings to lower.
        """
        with explaining_out_of_memory(stage, self.config, self.device, inputs=self.inputs):
            return self._build(stage)

    def _build(self, stage: Stage) -> Artifact:
        context, inputs = self.context(stage), self.inputs
        match stage.name:
            case "import" if stage.role in CODE_ROLES.values():
                return context.by_first(lambda: import_code(context))
            case "import" if stage.role == "judge":
                return context.by_first(lambda: import_judge(context))
            case "import":
                return context.by_first(lambda: import_images(context))
            case "teacher" if self.config.teacher.train is None:
                return context.by_first(lambda: import_teacher(context))
            case "teacher":
                return train_teacher(context, inputs.artifact("teacher_images"), self.imported("validation"))
            case "collection":
                candidates = inputs.artifact("candidates")
                test = self.imported("test")
                validation = self.imported("validation") if "validation" in stage.inputs else None
                return context.by_first(
                    lambda: collect(context, candidates, test, inputs.teacher, validation=validation)
                )
            case "generation":
                return train_generator(context, inputs.collection, inputs.teacher, self.samples)
            case "synthesis":
                generation = inputs.artifact("generation")
                return context.by_first(lambda: synthesise(context, generation, inputs.teacher))
            case "distillation":
                return self._build_student(context)
            case _:
                validation = self.imported("validation")
                return context.by_first(
                    lambda: evaluate(
                        context, inputs.student, inputs.teacher, inputs.collection, validation, inputs.judged
                    )
                )

    def _know_networks(self) -> None:
        """Learn of networks from elsewhere what the store does not know yet: the user's own files, and all sizes."""
        for role in self.processes.from_first(lambda: recall_networks(self.config, self.store)):
            self.imported(CODE_ROLES[role])
            recall_networks(self.config, self.store)
            context = self.context(network_size_of(self.config, role))
            context.by_first(partial(measure_network, context, role))
        recall_networks(self.config, self.store)
        self.stages = plan(self.config)  # with operations that may not have been known

    def _build_student(self, context: StageContext) -> Artifact:
        inputs = self.inputs
        match self.config.method:
            case "dafl":
                return learn_data_free(context, inputs.collection, inputs.teacher)
            case "cmi":
                return learn_from_inversions(context, inputs.collection, inputs.teacher)
            case "dfnd":
                return distil_noisy(context, inputs.collection, inputs.teacher, inputs.caches)
            case _:
                return distil(context, inputs.collection, inputs.synthetic, inputs.teacher, inputs.caches)

    def check_teacher(self, *, is_first: bool) -> None:
        """Measure the teacher unless the store has the record, and refuse one that cannot be right; once in a trial.

        Args:
            is_first: whether nothing is built on it yet, so that what it answers is said even if it is known.

        Raises:
            TeacherError: names the likely causes.
        """
        if self.is_teacher_checked:
            return
        context, validation = self.context(teacher_check_of(self.stages)), self.imported("validation")
        record = context.find()
        is_new = record is None
        if record is None:
            with explaining_out_of_memory(context.stage, self.config, self.device, inputs=self.inputs):
                candidates = self.inputs.artifact("candidates")
                record = context.by_first(lambda: measure_teacher(context, self.inputs.teacher, candidates, validation))
        judge_teacher(record, context, is_said=is_first or is_new)
        self.is_teacher_checked = True

    def context(self, stage: Stage) -> StageContext:
        """Return the context to build a stage of this trial in."""
        return StageContext(stage, self.config, self.store, self.device, self.observer, self.folder)

    def imported(self, split: str) -> Artifact | None:
        """Return an import, of a split by its name, and make it if need be; None where the trial has no such import."""
        if split not in self.stages:
            return None
        stage = self.stages[split]
        return self.context(stage).find() or self.build(stage)

    def _reuse(self, context: StageContext, found: Artifact) -> None:
        stage = context.stage
        self.reused.append(stage.role)
        self.seconds[stage.role] = float(found.meta.get("seconds", 0.0))
        self.observer.reused(stage, found.meta.get("seconds"))
        if stage.name == "distillation":
            replay(stage, found.metrics(), self.observer)
        if stage.name in LOOPS:  # the run that built it may have been killed before it could do so
            self.processes.from_first(context.clear_checkpoints)

    def _check_batches(self, until: str) -> None:
        """Refuse, before anything is built, what is still to be trained where the processes cannot share it."""
        missing = {stage.name for stage in needed(self.stages, until) if self.context(stage).find() is None}
        if "distillation" in missing:
            check_processes(self.config, self.processes.count)
        batches = dict(batch for stage, batch in self.config.batches.items() if stage in missing)
        check_shares(batches, self.processes.count)


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
        config: the trial; materials may lack their sha256, they are identified first.
        until: the last stage to build.
        folder: the folder for the trial's report (`hidfd.report.folder`); None = no report.
        device: `auto`, `cpu` or `cuda`.
        observer: is told of the progress and may stop the trial.
        name: the trial's name in its report.

    Raises:
        ConfigError: a batch cannot be shared equally by the processes.
        InputError, StoreError, DeviceError, OutOfMemoryError, DivergedError: see `hidfd.errors`.
        ProcessLostError: another process of this trial ended.
        Stopped: the observer asked for it; the same call goes on.
    """
    with joined() as processes:
        observer = observer_of_process(observer or Observer(), processes)
        trial = Trial(config, store, resolve_device(device, config.precision, processes), observer)

        def prepare() -> None:
            if folder is not None:
                trial.folder = folder
                trial.samples = trial_folder.prepare(folder, name, trial.config, store)
                trial.observer = LiveMetrics(trial.observer, folder)

        def explain() -> None:
            if folder is not None and trial.seconds:
                *_, last = needed(trial.stages, until)  # the pages ask the teacher about the user's own images
                with explaining_out_of_memory(last, trial.config, trial.device, inputs=trial.inputs):
                    trial_folder.write(folder, name, trial.built, until)

        processes.from_first(prepare)
        try:
            trial.run(until)
        except Stopped:
            processes.from_first(explain)  # up to here: a trial that a study has pruned gets no further
            raise
        metrics = processes.from_first(lambda: trial_folder.result_of(trial.built, until))
        processes.from_first(explain)
    return TrialResult(trial.config, trial.stages, metrics, trial.seconds, tuple(trial.reused), folder)


def evaluate_test(config: TrialConfig, store: Store, *, device: str = "auto") -> dict[str, Any]:
    """Evaluate the student of a finished trial on the test labels.

    The labels are read once: a second call returns what the first has recorded in the store.

    Returns:
        Accuracy (also per class and the teacher's), confusion matrix and calibration error; `opened`: when the labels
        were read.

    Raises:
        StoreError: the trial has not been run.
        ConfigError: the study file names no test split.
    """
    with joined() as processes:
        trial = Trial(config, store, resolve_device(device, config.precision, processes), Observer())
        stage = test_evaluation_of(trial.stages)
        trial.imported("test")

        def numbers() -> dict[str, Any]:
            with explaining_out_of_memory(stage, trial.config, trial.device, inputs=trial.inputs):
                record = run_test_evaluation(trial.context(stage), trial.inputs.student, trial.inputs.teacher)
            return record.meta | {"opened": record.created}

        return processes.from_first(numbers)


def know_networks(config: TrialConfig, store: Store, observer: Observer) -> None:
    """Learn of a trial's networks from elsewhere what the store does not know yet: their sizes, and the user's files.

    Raises:
        InputError: one cannot be built, or is no backbone.
    """
    Trial(config, store, resolve_device("cpu", "fp32"), observer)


def import_all(config: TrialConfig, store: Store, observer: Observer, folder: Path | None = None) -> TrialConfig:
    """Bring the teacher, the judge and every image of a trial into the store.

    Args:
        folder: the results folder, for lists of images that cannot be read; None = nowhere.

    Returns:
        The trial with the sha256 of every material.

    Raises:
        InputError: something cannot be read, or the checkpoint does not fit its architecture.
    """
    trial = Trial(config, store, resolve_device("cpu", "fp32"), observer)
    trial.folder = folder
    for stage in trial.stages.values():
        is_import = stage.name == "import" or (stage.name == "teacher" and trial.config.teacher.train is None)
        if is_import and store.find(stage.name, stage.digest) is None:
            trial.build(stage)
    return trial.config

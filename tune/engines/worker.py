"""Run one task in a worker: report its progress, and classify its end."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hidfd.errors
from hidfd.config.paths import with_values
from hidfd.pipeline.graph import Stage, needed
from hidfd.pipeline.observer import Observer, Row
from tune.engines.environment import before_torch
from tune.study.messages import (
    MAX_ROWS,
    Channel,
    ProgressReport,
    TaskBlocked,
    TaskDiverged,
    TaskEnd,
    TaskFailed,
    TaskFinished,
    TaskInfeasible,
    TaskStopped,
)
from tune.study.metrics import LATENCY
from tune.study.states import TaskKind
from tune.study.task import Task

REPORT_EVERY_SECONDS = 1.0
"""Seconds between two progress reports at least; measurements and pictures are reported at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """The settings that all tasks of a study share on a worker: plain values, so that they can be sent there.

    Attributes:
        store: URI of the store.
        folder: of the study's results.
        device: auto, cpu or cuda.
        threads: of one task.
        measures_latency: whether finished students are timed.
        accepts_teacher: whether the study file accepts its teacher now, whatever it did when a task was written down.
    """

    store: str
    folder: str
    device: str
    threads: int
    measures_latency: bool = False
    accepts_teacher: bool = False


Perform = Callable[[Task, WorkerContext, Channel], TaskEnd]
"""A function that runs one task to its end, as `perform` does."""


class ChannelError(Exception):
    """A report or a question did not reach the driver, which is not the task's fault.

    Attributes:
        cause: what the channel raised.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def perform(task: Task, context: WorkerContext, channel: Channel) -> TaskEnd:
    """Run a task to its end.

    Returns:
        Its end: `TaskInfeasible` where its settings cannot be built; `TaskBlocked` for an error of the store, the
            device or the teacher, or another one of the collection, on which every student depends.

    Raises:
        ProcessLostError: another process of the task is gone.
        Exception: an error that may have spoilt this process (a CUDA error), so that the process must not be used
            again; or an error of the channel.
    """
    started = time.process_time()
    try:
        finished = _run(task, context, channel)
    except hidfd.errors.Stopped as stopped:
        return TaskStopped(str(stopped), time.process_time() - started)
    except hidfd.errors.DivergedError as error:
        return TaskDiverged(str(error), time.process_time() - started)
    except hidfd.errors.ProcessLostError:
        raise
    except hidfd.errors.HidfdError as error:
        cpu_seconds = time.process_time() - started
        if isinstance(error, hidfd.errors.UnbuildableError | hidfd.errors.ConfigError):
            return TaskInfeasible(str(error), error.exit_code, cpu_seconds)
        blocking = hidfd.errors.StoreError | hidfd.errors.DeviceError | hidfd.errors.TeacherError
        blocks_study = isinstance(error, blocking)
        if blocks_study or task.spec.kind is TaskKind.COLLECTION:
            return TaskBlocked(str(error), error.exit_code, cpu_seconds)
        return TaskFailed(str(error), cpu_seconds)
    except ChannelError as error:
        raise error.cause from None
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        _log.exception("%s failed", task.label)
        where = _write_traceback(Path(context.folder) / task.label)
        return TaskFailed(f"{type(error).__name__}: {error} (traceback in {where})", time.process_time() - started)
    return replace(finished, cpu_seconds=time.process_time() - started)


def _run(task: Task, context: WorkerContext, channel: Channel) -> TaskFinished:
    """Build what a task makes, or find it in the store."""
    before_torch(context.threads)
    import torch

    from hidfd.stages.evaluation import answers_in
    from hidfd.store.store import Store
    from hidfd.trial import evaluate_test, run_trial

    torch.set_num_threads(context.threads)
    store = Store.open(context.store)
    observer = TaskObserver(channel, task.rungs)
    if task.spec.kind is TaskKind.TEST_EVALUATION:
        found = store.find(task.spec.kind.last_stage, task.key)
        if found is not None:
            observer.note(f"the test labels had been opened for it before, {found.created}; read again")
        return TaskFinished(
            numbers_of(evaluate_test(task.spec.config, store, device=context.device)), found is not None
        )
    try:
        result = run_trial(
            with_values(task.config, {"teacher.accept": True}) if context.accepts_teacher else task.config,
            store,
            until=task.spec.kind.last_stage,
            folder=Path(context.folder) / task.label,
            device=context.device,
            observer=observer,
            name=task.label,
        )
    except hidfd.errors.HidfdError:  # stopped, diverged, or at its end for another reason that is told
        observer.flush()
        raise
    chain = [stage.role for stage in needed(result.stages, task.spec.kind.last_stage) if stage.name != "import"]
    metrics = numbers_of(result.metrics)
    if context.measures_latency and task.spec.kind is TaskKind.STUDENT:
        from hidfd.latency import latency_milliseconds

        metrics[LATENCY] = latency_milliseconds(result.config, store)
    seconds = [result.seconds.get(stage) for stage in task.spec.kind.computed_stages]
    known = [taken for taken in seconds if taken]  # 0: its artifact does not say
    answers: dict[str, dict[str, Any]] = {}
    if task.spec.kind is TaskKind.STUDENT and task.role != "search":  # what the comparison at the end holds together
        evaluation = result.stages["evaluation"]
        answers = answers_in(store.get(evaluation.name, evaluation.digest))
    return TaskFinished(
        metrics,
        set(chain) <= set(result.reused),
        build_seconds=sum(known) if len(known) == len(seconds) else None,
        answers=answers,
    )


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single finite numbers of a `result.json`, those of the generator as `generator.<name>`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in numbers_of(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found


class TaskObserver(Observer):
    """An observer that reports a trial's progress over a channel, and stops the trial by its verdict."""

    def __init__(self, channel: Channel, rungs: tuple[int, ...]) -> None:
        self.measure_at_images = rungs
        self._channel = channel
        self._reported = 0.0
        self._rows: deque[dict[str, float]] = deque(maxlen=MAX_ROWS)

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        self._report(ProgressReport(stage.name, images_seen, target_images))

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_EVERY_SECONDS or images >= target_images:
            self._reported = now
            shown = {name: value for name, value in metrics.items() if "/" in name}
            self._report(ProgressReport(stage.name, images, target_images, shown))

    def logged(self, stage: Stage, row: Row) -> None:
        self._rows.append(dict(row))

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        is_student = stage.name == "distillation"
        self._report(ProgressReport(stage.name, images, None, metrics, measured=is_student))

    def picture(self, stage: Stage, images: int, path: Path) -> None:
        self._report(ProgressReport(stage.name, images, None, picture=str(path)))

    def reused(self, stage: Stage, seconds: float | None) -> None:
        self._report_generator(stage)

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        self.flush()
        self._report_generator(stage)

    def note(self, text: str) -> None:
        self._report(ProgressReport(note=text))

    def should_stop(self) -> str | None:
        with _channel_errors():
            return self._channel.verdict()

    def flush(self) -> None:
        """Report the rows that wait, if there are any."""
        if self._rows:
            self._report(ProgressReport())

    def _report_generator(self, stage: Stage) -> None:
        if stage.name == "generation":
            self._report(ProgressReport(generator=stage.digest))

    def _report(self, report: ProgressReport) -> None:
        with _channel_errors():
            self._channel.report(replace(report, rows=list(self._rows)))
        self._rows.clear()


@contextlib.contextmanager
def _channel_errors() -> Iterator[None]:
    """Tell errors of the channel apart from errors of the task."""
    try:
        yield
    except Exception as error:
        raise ChannelError(error) from error


def _write_traceback(folder: Path) -> str:
    """Write the traceback into a folder, and return its path; a folder that is not writable must not hide the error."""
    path = folder / "error.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"the log: {path} cannot be written, {error.strerror}"
    return str(path)

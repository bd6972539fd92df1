"""The end of a task, whose fault it was, and its reports. Without torch: the trial is a double."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hidfd.errors
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage, plan
from hidfd.store.disk import store_errors
from hidfd.store.store import Store
from tests.tune.world import World, definition, trial
from tune.engines import worker
from tune.engines.local import run_local
from tune.engines.worker import TaskObserver, WorkerContext, numbers_of, perform
from tune.errors import LedgerError
from tune.study.messages import ProgressReport, TaskBlocked, TaskDiverged, TaskFailed, TaskFinished, TaskStopped
from tune.study.states import Role, TaskKind
from tune.study.task import Task, task_specs

NUMBERS = {"agreement": 0.5, "generator.effective_classes": 9.0}


@pytest.fixture
def context(tmp_path: Path) -> WorkerContext:
    return WorkerContext(str(tmp_path / "store"), str(tmp_path / "results"), "cpu", 1)


def task_until(until: str) -> Task:
    spec = next(spec for spec in task_specs(trial()) if spec.kind.last_stage == until)
    return Task(0, spec, "search", f"{until}-0", 0, {}, rungs=(3200,))


def ends_by(action: Callable[[], object]) -> Callable[..., Any]:
    """Return a double of `_run` that does this and finishes with its numbers."""

    def run(task: Task, context: WorkerContext, channel: Any) -> TaskFinished:
        action()
        return TaskFinished(NUMBERS)

    return run


def raising(error: Exception) -> Callable[..., Any]:
    def fail() -> None:
        raise error

    return ends_by(fail)


class Channel:
    """A channel that keeps the reports, or raises an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.reports: list[ProgressReport] = []

    def report(self, report: ProgressReport) -> None:
        if self.error is not None:
            raise self.error
        self.reports.append(report)

    def verdict(self) -> str | None:
        if self.error is not None:
            raise self.error
        return "pruned"


@pytest.mark.parametrize(
    ("error", "until", "kind", "exit_code"),
    [
        (hidfd.errors.Stopped("pruned"), "evaluation", TaskStopped, None),
        (hidfd.errors.DivergedError("a loss was not finite"), "synthesis", TaskDiverged, None),
        (hidfd.errors.InputError("too few images"), "evaluation", TaskFailed, None),
        (hidfd.errors.InputError("too few images"), "collection", TaskBlocked, 3),
        (hidfd.errors.TeacherError("one class"), "evaluation", TaskBlocked, 3),
        (hidfd.errors.StoreError("the disk is full"), "evaluation", TaskBlocked, 4),
        (hidfd.errors.DeviceError("no CUDA"), "evaluation", TaskBlocked, 5),
        (hidfd.errors.OutOfMemoryError("out of memory"), "evaluation", TaskFailed, None),
        (hidfd.errors.OutOfMemoryError("out of memory"), "collection", TaskBlocked, 5),
        (ZeroDivisionError("by zero"), "evaluation", TaskFailed, None),
    ],
)
def test_an_error_is_the_tasks_own_or_blocks_the_study(
    error: Exception,
    until: str,
    kind: type[Any],
    exit_code: int | None,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_run", raising(error))
    end = perform(task_until(until), context, Channel())
    assert type(end) is kind
    assert str(error) in end.reason
    assert getattr(end, "exit_code", None) == exit_code
    left = Path(context.folder) / f"{until}-0" / "error.txt"
    assert left.is_file() == isinstance(error, ZeroDivisionError), "a bug leaves its traceback"


def test_what_was_measured_is_what_it_finished_with(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_run", ends_by(lambda: None))
    end = perform(task_until("evaluation"), context, Channel())
    assert isinstance(end, TaskFinished)
    assert (end.metrics, end.reused) == (NUMBERS, False)


@pytest.mark.parametrize(
    ("until", "is_asked", "is_timed"),
    [("evaluation", True, True), ("evaluation", False, False), ("synthesis", True, False)],
)
def test_only_students_are_timed_and_only_where_the_study_asks(
    until: str, is_asked: bool, is_timed: bool, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(config: TrialConfig, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(config=config, metrics=NUMBERS, stages=plan(config), reused=(), seconds={})

    monkeypatch.setattr("hidfd.trial.run_trial", run_trial)
    monkeypatch.setattr("hidfd.latency.latency_milliseconds", lambda config, store: 1.5)
    end = perform(task_until(until), replace(context, measures_latency=is_asked), Channel())
    assert isinstance(end, TaskFinished)
    assert end.metrics == NUMBERS | ({"latency_milliseconds": 1.5} if is_timed else {})


@pytest.mark.parametrize(
    ("until", "role", "kept"),
    [("evaluation", "control", True), ("evaluation", "search", False), ("synthesis", "control", False)],
)
def test_answers_to_single_images_are_sent_of_students_that_are_compared(
    until: str, role: Role, kept: bool, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(config: TrialConfig, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(config=config, metrics=NUMBERS, stages=plan(config), reused=(), seconds={})

    answers = {"agreement": {"images": "a", "sizes": [3], "hits": "oA=="}}
    monkeypatch.setattr("hidfd.trial.run_trial", run_trial)
    monkeypatch.setattr(Store, "get", lambda store, stage, digest: stage)
    monkeypatch.setattr("hidfd.stages.evaluation.answers_in", {"evaluation": answers}.get)
    task = task_until(until)
    task.role = role
    end = perform(task, context, Channel())
    assert isinstance(end, TaskFinished)
    assert end.answers == (answers if kept else {})


def test_a_cuda_error_throws_the_process_away(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_run", raising(RuntimeError("CUDA error: an illegal memory access")))
    with pytest.raises(RuntimeError, match="CUDA error"):
        perform(task_until("evaluation"), context, Channel())


@pytest.mark.parametrize("call", ["report", "verdict"])
def test_an_error_of_the_channel_is_not_the_tasks(
    call: str, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ConnectionError("the driver is gone")

    def run(task: Task, context: WorkerContext, channel: Any) -> TaskFinished:
        observer = TaskObserver(channel, ())
        with store_errors("writing", "a file"):  # what surrounds it may take it for an error of its own
            observer.note("begun") if call == "report" else observer.should_stop()
        return TaskFinished(NUMBERS)

    monkeypatch.setattr(worker, "_run", run)
    with pytest.raises(ConnectionError) as caught:
        perform(task_until("evaluation"), context, Channel(lost))
    assert caught.value is lost


def test_a_ledger_that_fails_beside_a_student_stops_the_study(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    planner = world.planner(definition({"pruner": {"kind": "none"}}))

    def run(task: Task, context: WorkerContext, channel: Any) -> TaskFinished:
        TaskObserver(channel, ()).note("begun")
        return TaskFinished(NUMBERS)

    def lost() -> None:
        if any(
            task.spec.kind is TaskKind.STUDENT and key in planner.running for key, task in planner.state.tasks.items()
        ):
            raise LedgerError("the ledger cannot be written")

    monkeypatch.setattr(worker, "_run", run)
    monkeypatch.setattr(planner, "tick", lost)
    with pytest.raises(LedgerError):
        run_local(planner, lambda task, channel: perform(task, context, channel))
    resumed = world.planner(definition({"pruner": {"kind": "none"}}))
    assert resumed.state.search_trials[0].state.value == "waiting", "it is tried again, not failed for good"


def test_a_student_that_does_not_fit_into_memory_fails_once_and_the_study_goes_on(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, tried = World(), list[str]()
    planner = world.planner(definition({"pruner": {"kind": "none"}}))

    def run(task: Task, context: WorkerContext, channel: Any) -> TaskFinished:
        tried.append(task.label)
        if task.label == "trial-1":
            raise hidfd.errors.OutOfMemoryError("distillation: out of memory on the GPU")
        return TaskFinished(NUMBERS)

    monkeypatch.setattr(worker, "_run", run)
    run_local(planner, lambda task, channel: perform(task, context, channel))
    states = {trial.number: trial.state.value for trial in planner.state.search_trials}
    assert states.pop(1) == "failed"
    assert set(states.values()) == {"complete"}
    assert tried.count("trial-1") == 1


def test_measurements_are_reported_at_once_and_progress_seldom() -> None:
    channel = Channel()
    observer = TaskObserver(channel, (3200,))
    stage: Stage = plan(trial())["distillation"]
    for images in range(0, 640, 64):
        observer.advanced(stage, images, 6400, {"distillation/total": 1.0, "images": 64.0})
    observer.measured(stage, 3200, {"agreement": 0.5})
    observer.advanced(stage, 6400, 6400, {})
    progress = [report for report in channel.reports if not report.measured]
    assert [report.images for report in progress] == [0, 6400]
    assert progress[0].metrics == {"distillation/total": 1.0}
    (measured,) = (report for report in channel.reports if report.measured)
    assert (measured.images, measured.metrics) == (3200, {"agreement": 0.5})
    observer.measured(plan(trial())["generation"], 100, {"agreement": 0.5})
    assert not channel.reports[-1].measured, "a rung compares students"
    assert observer.should_stop() == "pruned"


def test_rows_travel_with_the_reports_each_once_and_none_is_left_behind() -> None:
    channel = Channel()
    observer = TaskObserver(channel, ())
    stage: Stage = plan(trial())["distillation"]
    for images in (64, 128, 192):
        observer.logged(stage, {"images": images, "distillation/total": 1.0})
        observer.advanced(stage, images, 6400, {})
    observer.stage_finished(stage, 1.0)
    told = [[row["images"] for row in report.rows] for report in channel.reports]
    assert told == [[64], [128, 192]], "the first at once, the others together a second later or at the end"
    observer.stage_finished(stage, 1.0)
    assert len(channel.reports) == 2, "nothing new to tell"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(hidfd.errors.Stopped("pruned"), TaskStopped), (hidfd.errors.DivergedError("not finite"), TaskDiverged)],
)
def test_rows_that_wait_are_told_when_a_task_is_stopped_or_diverges(
    error: Exception, kind: type, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(config: TrialConfig, *_: Any, observer: TaskObserver, **__: Any) -> None:
        observer.logged(plan(config)["distillation"], {"images": 64.0})
        raise error

    monkeypatch.setattr("hidfd.trial.run_trial", run_trial)
    channel = Channel()
    assert isinstance(perform(task_until("evaluation"), context, channel), kind)
    assert [report.rows for report in channel.reports] == [[{"images": 64.0}]]


def test_a_message_stays_small_however_much_is_measured() -> None:
    channel = Channel()
    observer = TaskObserver(channel, ())
    stage: Stage = plan(trial())["distillation"]
    for images in range(5 * worker.MAX_ROWS):
        observer.logged(stage, {"images": images})
    observer.stage_finished(stage, 1.0)
    (report,) = channel.reports
    assert [row["images"] for row in report.rows] == list(range(4 * worker.MAX_ROWS, 5 * worker.MAX_ROWS))


def test_a_generator_is_reported_as_soon_as_it_is_stored() -> None:
    channel = Channel()
    observer = TaskObserver(channel, ())
    stages = plan(trial())
    for name in ("collection", "generation", "synthesis"):
        observer.stage_finished(stages[name], 1.0)
        observer.reused(stages[name], 1.0)
    digest = stages["generation"].digest
    assert [report.generator for report in channel.reports] == [digest, digest]


def test_numbers_of_a_result_are_its_finite_ones() -> None:
    result = {"agreement": 0.5, "classes": 10, "name": "x", "ok": True, "bad": float("nan"), "generator": {"a": 1.5}}
    assert numbers_of(result) == {"agreement": 0.5, "classes": 10.0, "generator.a": 1.5}


def test_a_lost_process_is_not_the_tasks_own_failure(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_run", raising(hidfd.errors.ProcessLostError("another process is lost")))
    with pytest.raises(hidfd.errors.ProcessLostError):
        perform(task_until("evaluation"), context, Channel())


@pytest.mark.parametrize(
    ("until", "seconds", "build_seconds"),
    [
        ("synthesis", {"collection": 9.0, "generation": 30.0, "synthesis": 2.0}, 32.0),
        ("evaluation", {"generation": 30.0, "synthesis": 2.0, "distillation": 5.0, "evaluation": 1.0}, 5.0),
        (
            "evaluation",
            {"distillation": 0.0, "evaluation": 1.0},
            None,
        ),  # in the store, by an artifact that does not say
    ],
)
def test_what_a_task_makes_took_as_long_as_its_artifacts_say_be_they_new_or_from_the_store(
    until: str,
    seconds: dict[str, float],
    build_seconds: float | None,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_trial(config: TrialConfig, *_: Any, **__: Any) -> SimpleNamespace:
        stages = plan(config)
        return SimpleNamespace(config=config, metrics=NUMBERS, stages=stages, reused=tuple(stages), seconds=seconds)

    monkeypatch.setattr("hidfd.trial.run_trial", run_trial)
    end = perform(task_until(until), context, Channel())
    assert isinstance(end, TaskFinished)
    assert (end.reused, end.build_seconds) == (True, build_seconds)


@pytest.mark.parametrize("accepts", [False, True])
def test_teacher_that_the_study_file_accepts_now_is_accepted_by_tasks_of_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accepts: bool
) -> None:
    seen: list[TrialConfig] = []

    def run(config: TrialConfig, *_: Any, **__: Any) -> Any:
        seen.append(config)
        raise hidfd.errors.Stopped("enough")

    monkeypatch.setattr("hidfd.trial.run_trial", run)
    task = task_until("evaluation")
    context = WorkerContext(str(tmp_path / "store"), str(tmp_path), "cpu", 1, accepts_teacher=accepts)
    perform(task, context, Channel())
    assert [config.teacher.accept for config in seen] == [accepts]
    assert plan(seen[0]) == plan(task.config)

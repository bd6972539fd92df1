"""The driver of a study: opens its ledger, runs its tasks by an engine, and writes its report."""

from __future__ import annotations

import logging
import resource
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hidfd.config.storage import redacted
from hidfd.errors import ConfigError, Stopped
from hidfd.formatting import plural
from hidfd.pipeline.graph import needed, plan
from hidfd.pipeline.observer import Observer
from hidfd.store.disk import store_errors
from tune.engines.environment import before_ray, before_torch
from tune.engines.worker import WorkerContext, perform
from tune.errors import StudyBlocked, StudyError
from tune.ledger.ledger import Ledger
from tune.ledger.opening import open_ledger
from tune.monitor import ImportObserver, StudyMonitor, live_snapshot
from tune.opened_study import Study
from tune.ownership import SharedPlaces, owner_of
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.definition import Definition, settings_of
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.background import BackgroundTracker
from tune.tracking.tracker import Tracker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """The result of a run that came to the study's end.

    Attributes:
        snapshot: of the study.
        report: path of its page.
        is_new: whether anything was left to do.
        tracking_error: why MLflow does not show all of the study; None if it does.
        cpu_seconds: of this process, its children (Ray's node) and the run's tasks.
    """

    snapshot: StudySnapshot
    report: Path
    is_new: bool
    tracking_error: str | None
    cpu_seconds: float


def _is_recorded(override: str) -> bool:
    """Whether the ledger keeps an override: all but those that locate the ledger, or concern only a cluster's pods."""
    key = override.partition("=")[0]
    return key.partition(".")[0] not in ("name", "cluster") and key != "storage.ledger"


def run_study(
    study: Study,
    *,
    engine: str,
    device: str,
    observer: Observer,
    show: Callable[[StudySnapshot], None],
    adopts: bool = False,
) -> RunSummary:
    """Run a study, or go on with it, to its report.

    Args:
        study: to run.
        engine: `ray`, or `local` for one task after another in this process.
        device: auto, cpu or cuda.
        observer: of imports; its `stop_reason` stops the study.
        show: called with a new snapshot, about once a second while something runs.
        adopts: whether the study takes over what another ledger has left under its name.

    Returns:
        A summary of the run.

    Raises:
        StudyLocked: another driver runs the study.
        OtherLedger: another ledger has written under the study's name.
        StudyError: the study ended without a single finished student.
        Stopped: the observer has a `stop_reason`; the same command goes on.
        StudyBlocked: an error that the user has to mend before anything can go on.
    """
    if engine == "local" and study.file.resources.num_workers > 1:
        raise ConfigError(
            f"resources.num_workers: {study.file.resources.num_workers}, but --engine local runs every task "
            f"in this one process; leave --engine out, or set resources.num_workers=1"
        )
    options = [*([] if engine == "ray" else ["--engine", engine]), *([] if device == "auto" else ["--device", device])]
    definition = replace(study.definition, command=shlex.join([*shlex.split(study.definition.command), *options]))
    storage = study.file.storage
    with store_errors("making the results folder", definition.folder):
        definition.folder.mkdir(parents=True, exist_ok=True)
    threads = study.file.resources.cpus_per_worker
    config = definition.study
    context = WorkerContext(
        _absolute(storage.store),
        _absolute(str(definition.folder)),
        device,
        threads,
        config.measures_latency,
        definition.base.teacher.accept,
    )

    def check_places(ledger: Ledger) -> int:
        places = _places(study, ledger)
        if adopts:
            return places.adopt(ledger, observer.note)
        places.check(ledger, observer.note)
        return 0

    with open_ledger(
        storage.ledger,
        definition.name,
        config.objective,
        observer.should_stop,
        config.further_objectives,
        check_places,
    ) as ledger:
        places = _places(study, ledger)
        owner = places.take(ledger, definition.base, observer.note, adopts=adopts)
        state = StudyState(definition, ledger, tries_again=True)
        cpu_seconds_before = sum(attempt.cpu_seconds or 0.0 for attempt in state.task_table.attempts())
        _record_arguments(study, ledger)
        _record_settings(definition, ledger)
        if definition.base.data.validation is not None and not definition.base.collection.leaves_out_validation:
            observer.note(
                "images of trial.data.validation are not left out of the candidates, as they were not when this study "
                "was begun; under another `name:` they are"
            )
        planner = Planner(state, time.monotonic, time.time)
        is_new = not planner.is_over()
        with BackgroundTracker(places.tracker) as projection:
            if is_new:
                monitor = StudyMonitor(planner, study.store, study.holder(), projection, observer, show, owner)
                monitor.write_references()
                _import_materials(study, threads, ImportObserver(observer, monitor.read_requests))
                if engine == "ray":
                    observer.note("starting Ray")
                _run(study, planner, context, engine, monitor)
                monitor.write_references()  # of tasks that began after the last change that the engine told of
            ledger.check_kept()
            snapshot = live_snapshot(planner)
            projection.offer(snapshot, planner.take_rows())
            show(snapshot)
            if planner.blocking_failure is not None:
                raise StudyBlocked(planner.blocking_failure.reason, planner.blocking_failure.exit_code)
            if observer.stop_reason is not None:
                raise Stopped(_stopped_in_words(snapshot, observer.stop_reason))
            report = _write_study_pages(snapshot, study)
            projection.finish(snapshot, study.store)
    if not any(task.state is TaskState.COMPLETE for task in snapshot.tasks if task.kind is TaskKind.STUDENT):
        raise StudyError(snapshot.undone or _without_result_in_words(snapshot, report))
    return RunSummary(snapshot, report, is_new, projection.error, _cpu_seconds(snapshot, engine, cpu_seconds_before))


def _places(study: Study, ledger: Ledger) -> SharedPlaces:
    storage, name = study.file.storage, study.definition.name
    where = owner_of(ledger, storage.ledger, epoch=ledger.num_claims)["where"]
    tracker = Tracker(storage.tracking, name, ledger.id, where)
    return SharedPlaces(name, study.store, study.definition.folder, tracker, storage.ledger)


def _record_arguments(study: Study, ledger: Ledger) -> None:
    """Write the run's arguments into the ledger, from which `open_last_run` takes them."""
    overrides = [override for override in study.overrides if _is_recorded(override)]
    store = study.store_given
    has_secret = store is not None and redacted(store) != store
    arguments = {"overrides": overrides, "seeds": study.num_seeds, "store": None if has_secret else store}
    if ledger.run_arguments != arguments:
        ledger.set_run_arguments(arguments)


def _record_settings(definition: Definition, ledger: Ledger) -> None:
    """Write the run's settings into the ledger, from which the study is read where its file has changed since."""
    settings = settings_of(definition)
    if ledger.settings != settings:
        ledger.set_settings(settings)


def write_pages(study: Study) -> Path:
    """Write the study's page again, and the pages of finished tasks whose folders are gone, from ledger and store.

    Returns:
        The path of the study's page.
    """
    state = study.state()
    without_page = [
        task
        for task in state.tasks.values()
        if task.spec.kind is not TaskKind.TEST_EVALUATION
        and state.state_of(task.key) is TaskState.COMPLETE
        and not (study.definition.folder / task.label / "report.html").exists()
        and all(study.store.find(s.name, s.digest) for s in needed(plan(task.spec.config), task.spec.kind.last_stage))
    ]
    if without_page:
        from hidfd.trial import run_trial

        for task in without_page:
            run_trial(
                task.spec.config,
                study.store,
                until=task.spec.kind.last_stage,
                folder=study.definition.folder / task.label,
                device="auto",
                name=task.label,
            )
    return _write_study_pages(snapshot_of(state), study)


def _write_study_pages(snapshot: StudySnapshot, study: Study) -> Path:
    """Write all pages of a study; return the path of its own."""
    from tune.report.pages import write_study_pages  # only here: other verbs need no matplotlib

    return write_study_pages(snapshot, study.definition.folder, study.store)


def _absolute(address: str) -> str:
    """Return a path that is valid in whatever folder a worker runs; an address is returned unchanged."""
    return address if "://" in address else str(Path(address).expanduser().absolute())


def _run(study: Study, planner: Planner, context: WorkerContext, engine: str, monitor: StudyMonitor) -> None:
    monitor()
    if engine == "local":
        from tune.engines.local import run_local

        run_local(planner, lambda task, channel: perform(task, context, channel), monitor)
        return
    concurrency = study.definition.study.concurrency
    environment = before_ray(context.threads, concurrency)
    from tune.engines.ray_engine import run_ray

    run_ray(
        planner,
        context,
        concurrency=concurrency,
        resources=study.file.resources,
        environment=environment,
        on_change=monitor,
    )


def _import_materials(study: Study, threads: int, observer: Observer) -> None:
    """Import the study's material once, before tasks that run side by side would each import it."""
    base, store = study.definition.base, study.store
    stages = plan(base).values()
    imports = [s for s in stages if s.name == "import" or (s.name == "teacher" and base.teacher.train is None)]
    if all(store.find(stage.name, stage.digest) for stage in imports):
        return
    before_torch(threads)
    from hidfd.trial import import_all

    import_all(base, store, observer, study.definition.folder)


def _cpu_seconds(snapshot: StudySnapshot, engine: str, before: float) -> float:
    """Return the CPU-seconds of this process and its children (Ray's node), and of attempts beyond those `before`."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + children.ru_utime + children.ru_stime
    if engine == "local":
        return own  # the tasks ran in this process
    return own + snapshot.cpu_seconds - before


def _stopped_in_words(snapshot: StudySnapshot, reason: str) -> str:
    done = sum(task.state.is_final for task in snapshot.tasks)
    halfway = sum(bool(task.attempts) and not task.state.is_final for task in snapshot.tasks)
    return (
        f"stopped by {reason}: {plural(done, 'finished task')} and all that is in the ledger are "
        f"kept; {plural(halfway, 'under way goes', 'under way go')} on from checkpoints, nothing is lost"
    )


def _without_result_in_words(snapshot: StudySnapshot, report: Path) -> str:
    found: dict[str, list[str]] = {}
    for task in snapshot.tasks:
        if task.reason:
            found.setdefault(f"{task.state}: {task.reason}", []).append(task.label)
    shown = "\n".join(f"  {', '.join(labels)}: {reason}" for reason, labels in list(found.items())[:8])
    return f"the study ended without a single finished student:\n{shown}\nreport: {report}"

"""`python -m tune`: a study over HiDFD trials, from its file to its report."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from hidfd.cli import Parser, Verb, parse, run_verb, trial_epilog
from hidfd.config.study_file import redacted
from hidfd.errors import ConfigError
from hidfd.formatting import percent
from hidfd.pipeline.console import console_observer, interruptible
from tune.driver import RunSummary, Study, open_last_run, open_study, run_study, write_pages
from tune.errors import StudyLocked
from tune.forget import forget as forget_study
from tune.planner.forecast import forecast_of
from tune.planner.snapshots import snapshot_of
from tune.promote import CHAMPION
from tune.promote import promote as promote_study
from tune.report.champion import champion_of
from tune.report.commands import mlflow_command, verb_command
from tune.report.objectives import front_in_words, missed, why_no_champion
from tune.report.summary import opened_labels, rank_words, result_in_words, teacher_accuracy
from tune.study.check import check_study
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.terminal.display import StudyDisplay
from tune.terminal.events import RunLines
from tune.terminal.explanation import explain as explain_task
from tune.terminal.tables import (
    budget_in_words,
    forecast_lines,
    forecast_table,
    rows_table,
    short_value,
    task_table,
    trials_table,
)

OWN_EXIT_CODES = {
    7: "the ledger cannot be opened, read or written",
    8: "another driver runs this study now",
    9: "the study ended without a single finished student, or has none yet to promote",
    10: "Ray does not start, or the cluster of RAY_ADDRESS does not answer",
    11: "MLflow cannot be reached, or refuses (`promote`)",
}
"""Exit codes of a study besides `hidfd.cli.EXIT_CODES`, with their meaning."""

WATCH_EVERY_SECONDS = 2.0
"""How often `status --watch` looks at the ledger."""

WAIT_SECONDS = 600.0
"""How long `run --wait` waits for another driver to end."""

POLL_SECONDS = 0.5
"""How often `stop` looks whether the study has stopped."""

PLAIN_WIDTH = 160
"""Columns of a table that is not shown on a terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return run_verb(parse(_parser(), words), "python -m tune", words)


def check(options: argparse.Namespace) -> None:
    """Check a study file that is meant for another machine: places, material and variables are left to that one."""
    check_study(options.file, options.overrides)
    print(json.dumps({"valid": True}) if options.json else f"{options.file}: valid")


def plan(options: argparse.Namespace) -> None:
    """Say what the study would do, how long it takes and what it costs; checks everything, runs nothing."""
    study = _open(options)
    forecast, definition = forecast_of(study.state(), study.store), study.definition
    if options.json:
        print(json.dumps(forecast.to_json() | {"concurrency": forecast.side, "command": definition.command}))
        return
    if definition.search:
        asked, num_parameters = definition.study, len(definition.space.parameters)
        least = "at least " if asked.sampler == "stage-aware" else ""
        print(
            f"{definition.name}: {definition.limit} students by {asked.sampler} over {num_parameters} parameters, "
            f"{least}{definition.students_per_generator} per generator, "
            f"objective {asked.objective}"
        )
    _print(forecast_table(forecast))
    for line in forecast_lines(forecast, definition):
        print(line)
    print(f"next: {definition.command}")


def run(options: argparse.Namespace) -> None:
    """Run the study, or go on with it: a search, then the best trial beside its controls on fresh seeds."""
    study = _open(options)
    lines = RunLines(sys.stdout)
    if options.wait:
        _wait_for_its_end(study)
    try:
        with (
            console_observer(quiet=options.json, prefix="import: ") as observer,
            interruptible(observer),
            StudyDisplay(quiet=options.json) as display,
        ):
            show = lines.show if options.json else display.show
            ended = run_study(study, engine=options.engine, device=options.device, observer=observer, show=show)
    except StudyLocked as error:
        raise StudyLocked(f"{error}; look on with: {_command('status', options)} --watch") from error
    if options.json:
        lines.end(ended.snapshot, ended.report)
        return
    _print_result(ended)


def _wait_for_its_end(study: Study) -> None:
    """A driver that a cluster replaces may take a while to save what runs."""
    holder = study.holder()
    if holder is not None:
        print(f"waiting for the end of {holder}", file=sys.stderr, flush=True)
    until = time.monotonic() + WAIT_SECONDS
    while study.holder() is not None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def status(options: argparse.Namespace) -> None:
    """Say where the study stands, whoever runs it."""
    study = _open_last_run(options)
    if options.watch:
        _watch(study, as_json=options.json)
    state = study.state()
    snapshot = snapshot_of(state)
    if options.json:
        if not options.watch:
            left = {"plan": forecast_of(state, study.store).to_json()}
            print(json.dumps(snapshot.to_json() | left, default=str))
        return
    holder = study.holder()
    if not _has_begun(snapshot):
        begun = f"its material is imported, or Ray starts; run by {holder}"
        print(f"{snapshot.name}: {begun if holder else f'not started; next: {snapshot.command}'}")
        return
    ended = sum(task.state.is_final for task in snapshot.tasks)
    words = f"{snapshot.name}: {ended} of {len(snapshot.tasks)} tasks so far have ended"
    if snapshot.num_students:
        students = sum(trial.state.is_final for trial in snapshot.trials)
        words += f", {students} of {snapshot.num_students} students of the search"
    print(f"{words}; run by {holder}" if holder else words)
    running = [task for task in snapshot.tasks if task.state is TaskState.RUNNING]
    if running:
        _print(task_table(running))
    _print_tables(snapshot)
    print(f"CPU-seconds of work so far: {snapshot.cpu_seconds:,.0f}")
    budget = budget_in_words(snapshot)
    if budget is not None:
        print(f"budget: {budget}")
    if snapshot.finished:
        print(f"next: {_command('show', options, 'TRIAL')}")
        return
    forecast = forecast_of(state, study.store)
    _print(forecast_table(forecast))
    for line in forecast_lines(forecast, study.definition):
        print(line)
    if holder is None:
        print(f"nobody runs it now; goes on with: {snapshot.command}")
    else:
        print(f"next: {_command('status', options)} --watch")


def _watch(study: Study, *, as_json: bool) -> None:
    """Shows a study as its driver would, until it ends or nobody runs it any more; before it begins, waits for that."""
    told = ""
    snapshot = study.snapshot()
    if not _has_begun(snapshot) and study.holder() is None:
        waiting = f"{snapshot.name}: not started; waiting until somebody runs: {snapshot.command} (Ctrl-C ends this)"
        print(waiting, file=sys.stderr, flush=True)
    with StudyDisplay(sys.stdout, quiet=as_json) as display:
        while True:
            is_run = study.holder() is not None
            snapshot = study.snapshot()
            display.show(snapshot)
            if as_json:
                line = json.dumps(snapshot.to_json(), default=str)
                if line != told:
                    print(line, flush=True)
                told = line
            if not is_run and _has_begun(snapshot):
                return
            time.sleep(WATCH_EVERY_SECONDS)


def _has_begun(snapshot: StudySnapshot) -> bool:
    return any(task.attempts or task.state.is_final for task in snapshot.tasks)


def stop(options: argparse.Namespace) -> None:
    """Ask whoever runs the study, on whatever machine, to save what runs and stop; `tune run` goes on later."""
    study = _open_last_run(options)
    holder = study.holder()
    if holder is not None:
        study.ask_to_stop(holder, now=options.now)
        if not options.json:
            print(f"asked {holder} to stop{' at once' if options.now else ': what runs is saved first'}", flush=True)
        while (again := study.holder()) == holder:
            time.sleep(POLL_SECONDS)
        holder = again
    snapshot = study.snapshot()
    if options.json:
        print(json.dumps({"stopped": holder is None, "run_by": holder, "finished": snapshot.finished}))
        return
    ended = sum(task.state.is_final for task in snapshot.tasks)
    print(f"{snapshot.name}: {f'run by {holder} now' if holder else 'nobody runs it'}; {ended} tasks have ended")
    print(f"next: {_command('status', options) if snapshot.finished or holder else snapshot.command}")


def show(options: argparse.Namespace) -> None:
    """Show one trial, by its number or by the name of its folder: settings, numbers, what it rests on."""
    study = _open_last_run(options)
    snapshot = study.snapshot()
    if _show_unplanned(snapshot, options):
        return
    task = _find(snapshot, options.trial)
    if options.json:
        print(json.dumps(task.to_json()))
        return
    print(f"{task.label}: {result_in_words(task) if task.state.is_final else task.state.value}")
    table = Table(box=None, show_header=False)
    for path, value in task.params.items():
        table.add_row(f"trial.{path}", short_value(value))
    table.add_row("seed", str(task.seed))
    for name, value in task.metrics.items():
        table.add_row(name, short_value(value, 4))
    if (
        task.state is TaskState.COMPLETE
        and task.kind is TaskKind.STUDENT
        and (misses := missed(task.metrics, snapshot))
    ):
        table.add_row(*misses.split(": ", 1))
    for rung in task.rungs:
        table.add_row(
            f"at {rung.images:,} images",
            f"agreement {percent(rung.value)}, {'kept' if rung.kept else 'pruned'}: "
            f"{rung.num_better} of {rung.num_others} others did better",
        )
    _print(table)
    needs = [need for key in task.needs if (need := snapshot.task(key)) is not None]
    if needs:
        _print(task_table(needs))
    for attempt in task.attempts:
        end, reached = attempt.end or "running", attempt.images_to
        print(f"attempt {attempt.number}: {end} on {attempt.node}, reached {reached:,} images")
    if task.kind is not TaskKind.TEST_EVALUATION:
        print(f"folder: {task.folder}")
        print(f"report: {task.folder}/report.html")
    if (Path(task.folder) / "config.yaml").is_file():
        print(f"alone: python -m hidfd run {shlex.quote(task.folder)}/config.yaml")
    print(f"next: {_command('status', options)}")


def explain(options: argparse.Namespace) -> None:
    """Say why a trial has its parameters, what it reused and built, and why it stopped where it did."""
    study = _open_last_run(options)
    snapshot = study.snapshot()
    if _show_unplanned(snapshot, options):
        return
    task = _find(snapshot, options.trial)
    sentences = explain_task(snapshot, task)
    if options.json:
        print(json.dumps({"label": task.label, "key": task.key, "state": task.state, "sentences": sentences}))
        return
    print(f"{task.label}: {result_in_words(task) if task.state.is_final else task.state.value}")
    for sentence in sentences:
        print(f"  {sentence}")
    print(f"next: {_command('show', options, options.trial)}")


def report(options: argparse.Namespace) -> None:
    """Write the study's page anew, and those of its trials that are gone."""
    study = _open_last_run(options)
    path = write_pages(study)
    if options.json:
        print(json.dumps({"report": str(path)}))
        return
    print(f"report: {path}")
    has_trials = bool(study.snapshot().trials)
    print(f"next: {_command('show', options, 'TRIAL') if has_trials else study.definition.command}")


def promote(options: argparse.Namespace) -> None:
    """Register the study's best student in MLflow, from where it loads without this project."""
    done = promote_study(_open_last_run(options), name=options.name, alias=options.alias)
    if options.json:
        print(json.dumps(done.to_json()))
        return
    print(done.in_words())
    print(f"verdict: {done.verdict}")
    print(done.takes)
    print(f"load it:\n    {done.load}")
    shown = mlflow_command(done.tracking)
    if shown:
        print(f"next: {shown}")


def _open(options: argparse.Namespace) -> Study:
    return open_study(options.file, options.overrides, store=options.store, num_seeds=options.seeds)


def _open_last_run(options: argparse.Namespace) -> Study:
    return open_last_run(options.file, options.overrides, store=options.store, num_seeds=options.seeds)


def _command(verb: str, options: argparse.Namespace, *more: str) -> str:
    """Another verb on the same study, as it is typed."""
    words = ["python", "-m", "tune", verb, options.file, *more, *options.overrides]
    words += [] if options.seeds is None else ["--seeds", str(options.seeds)]
    words += [] if options.store is None else ["--store", redacted(options.store)]
    return shlex.join(words)


def _find(snapshot: StudySnapshot, wanted: str) -> TaskSnapshot:
    keys = {str(trial.number): trial.key for trial in snapshot.trials}
    for task in snapshot.tasks:
        if wanted == task.label or (wanted in keys and keys[wanted] == task.key):
            return task
    labels = ", ".join(task.label for task in snapshot.tasks) or "none yet"
    raise ConfigError(f"{wanted}: study {snapshot.name!r} has no such trial; it has: {labels}")


def _show_unplanned(snapshot: StudySnapshot, options: argparse.Namespace) -> bool:
    """Shows a trial whose values did not fit together, so that it has no task; False where it has one."""
    for trial in snapshot.trials:
        if str(trial.number) == options.trial and trial.key is None:
            if options.json:
                print(json.dumps(asdict(trial)))
                return True
            print(f"trial-{trial.number}: {trial.state}{f': {trial.reason}' if trial.reason else ''}")
            for path, value in trial.params.items():
                print(f"  trial.{path}: {short_value(value)}")
            print(f"  why: {trial.why}")
            print(f"next: {_command('status', options)}")
            return True
    return False


def forget(options: argparse.Namespace) -> None:
    """Take away for good what a study has left in ledger, store and MLflow; registered models stay."""
    study = _open_last_run(options)
    found = forget_study(study, really=options.yes)
    if options.json:
        print(json.dumps({"forgotten": options.yes, **found.to_json()}))
        return
    words = (
        f"{found.num_tasks} tasks in the ledger, {found.num_artifacts} artifacts of "
        f"{found.num_bytes / 1e6:,.1f} MB in the store that no other study refers to, {found.num_runs} runs in MLflow"
    )
    if options.yes:
        print(f"{study.definition.name}: forgotten: {words}")
        print(f"the pages in {study.definition.folder} stay, and so do registered models")
    else:
        print(f"{study.definition.name}: would forget {words}; nothing is deleted yet")
        print(f"next: {_command('forget', options)} --yes")


def _print_result(ended: RunSummary) -> None:
    snapshot = ended.snapshot
    _print_tables(snapshot)
    if not ended.is_new:
        print("everything was there already; nothing was run")
    task = f"CPU-seconds: {snapshot.cpu_seconds:,.0f} by the study's tasks over all its runs"
    print(f"{task}; {ended.cpu_seconds:,.0f} by this command and all that it started")
    if ended.tracking_error:
        print(f"MLflow could not be written ({ended.tracking_error}); this makes up for it: {snapshot.command}")
    print(f"report: {ended.report}")
    print(f"MLflow: {mlflow_command(snapshot.tracking) or snapshot.tracking}  (there: Model training, {snapshot.name})")
    if snapshot.rows and snapshot.rows[0].role == "finalist" and len(snapshot.rows[0].keys) == 1:
        print(f"more seeds: {snapshot.command} --seeds 3")
    if champion_of(snapshot) is not None:
        print(f"next: {verb_command('promote', snapshot)}")


def _print_tables(snapshot: StudySnapshot) -> None:
    for table in (trials_table(snapshot), rows_table(snapshot)):
        if table is not None:
            _print(table)
    words, teacher = rank_words(snapshot), teacher_accuracy(snapshot)
    if teacher is not None:
        print(f"the teacher: {percent(teacher)} validation accuracy")
    if words is not None:
        print(words)
    opened = opened_labels(snapshot) if snapshot.finished or snapshot.test_evaluations else None
    if opened is not None:
        print(opened)
    front, missing = front_in_words(snapshot), why_no_champion(snapshot)
    if front is not None:
        print(front)
    if missing is not None:
        print(f"no champion: {missing}")
    if snapshot.verdict:
        print(f"verdict: {snapshot.verdict}")
    if snapshot.undone:
        print(f"undone: {snapshot.undone}")


def _print(what: RenderableType) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(what)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number of seeds from 1 to 1000, found {text!r}")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m tune",
        description="Hybrid data-free knowledge distillation: studies over trials. Only plan and run need the "
        "overrides of a run again; where none are given, the other verbs take those of the last run.",
        epilog=trial_epilog("study.num_students=12\nor search.distillation.inflation.high=80", OWN_EXIT_CODES),
    )

    def add(name: str, verb: Verb, *more: str, json: str = "print JSON instead of text") -> Parser:
        sub = parser.add_verb(name, verb, f"{' '.join(('FILE', *more))} [options] [key=value ...]", json)
        sub.add_argument("--seeds", type=_count, metavar="N", help="compare on so many fresh seeds")
        sub.add_argument("--store", help="folder or s3:// URI; default HIDFD_STORE, the file's, ./.hidfd/store")
        return sub

    add("plan", plan)
    add("check", check)
    running = add("run", run, json="print a JSON line for each change (docs/run-lines.md) instead of text")
    running.add_argument("--engine", choices=["ray", "local"], default="ray", help="local = one by one, without Ray")
    running.add_argument(
        "--wait", action="store_true", help="for the end of another driver of the study, at most 10 min"
    )
    running.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    watching = add("status", status)
    watching.add_argument("--watch", action="store_true", help="go on showing it until it ends; Ctrl-C ends this only")
    stopping = add("stop", stop)
    stopping.add_argument("--now", action="store_true", help="save nothing; work goes on from its last checkpoint")
    for name, verb in (("show", show), ("explain", explain)):
        add(name, verb, "TRIAL").add_argument("trial", metavar="TRIAL", help="number of a trial, or name of its folder")
    add("report", report)
    promoting = add("promote", promote)
    forgetting = add("forget", forget)
    forgetting.add_argument("--yes", action="store_true", help="do it; without, it is only counted")
    promoting.add_argument("--name", help="of the registered model; default the study's name")
    promoting.add_argument("--alias", default=CHAMPION, help=f"by which it is loaded; default {CHAMPION}")
    return parser


if __name__ == "__main__":
    sys.exit(main())

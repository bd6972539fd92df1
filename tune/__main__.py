"""`python -m tune`: a study over HiDFD trials, from its file to its report; see `tune.inspection` for other verbs."""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import json
import logging
import os
import sys
import time
from collections.abc import Sequence

from hidfd.cli import Parser, Verb, parse, run_verb, trial_epilog
from hidfd.config import study_file as studyfile
from hidfd.deployment import add_export_options
from hidfd.errors import InputError, StoreError
from hidfd.formatting import percent, plural
from hidfd.pipeline.console import console_observer, interruptible
from tune.browse import open_pages
from tune.driver import RunSummary, run_study
from tune.engines.environment import crowding_in_words
from tune.errors import StudyLocked, TrackingError
from tune.export import export
from tune.forget import forget as forget_study
from tune.inspection import (
    command_line,
    explain,
    open_study_of,
    print_results,
    print_table,
    report,
    show,
    status,
    words_of,
)
from tune.ledger.elsewhere import find_elsewhere
from tune.opened_study import Study, open_study
from tune.planner.buildable import check_buildable
from tune.planner.forecast import forecast_of
from tune.promote import promote as promote_study
from tune.report.champion import CHAMPION, champion_of
from tune.report.commands import is_server, mlflow_command, verb_command
from tune.report.selection import better_student
from tune.study.check import check_study
from tune.terminal.display import StudyDisplay
from tune.terminal.events import RunLines
from tune.terminal.tables import forecast_lines, forecast_table
from tune.tracking.connection import tracking_errors
from tune.tracking.pages import pages_of

OWN_EXIT_CODES = {
    7: "the ledger cannot be opened, read or written",
    8: "another driver runs this study now",
    9: "the study ended without a single finished student, or has none (yet) that `promote` or `export` would take",
    10: "Ray does not start, or the cluster of RAY_ADDRESS does not answer",
    11: "MLflow cannot be reached, or refuses (`promote`)",
    17: "the student cannot be converted, or its exported network gives other answers (`export`)",
}
"""Exit codes of a study besides `hidfd.cli.EXIT_CODES`, with their meaning."""

WAIT_SECONDS = 600.0
"""Seconds that `run --wait` waits at most for another driver to end."""

POLL_SECONDS = 0.5
"""Seconds after which `stop` and `run --wait` check again whether the other driver has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb of a command line, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = parse(_parser(), words)
    # A context of its own: a verb that reads a study plans with the stages' versions of that study.
    return contextvars.copy_context().run(run_verb, options, "python -m tune", words)


def check(options: argparse.Namespace) -> None:
    """Check a study file for another machine: storage, material and environment variables are left to that one."""
    check_study(options.file, options.overrides)
    print(json.dumps({"valid": True}) if options.json else f"{options.file}: valid")


def plan(options: argparse.Namespace) -> None:
    """Say what the study would do, how long that takes and what it costs; check all of it, and run nothing."""
    study = _open_checked(options)
    check_buildable(study.definition, study.store)
    forecast, definition = forecast_of(study.state(), study.store), study.definition
    places, elsewhere = study.file.storage.places(), find_elsewhere(study.file)
    if options.json:
        more = {"concurrency": forecast.side, "command": definition.command, "storage": places}
        print(json.dumps(forecast.to_json() | more))
        return
    if definition.search:
        config, num_parameters = definition.study, len(definition.space.parameters)
        least = "at least " if config.sampler == "stage-aware" else ""
        drawn: str = config.sampler
        if drawn in ("tpe", "stage-aware") and definition.limit <= config.startup_students:
            drawn += " (all drawn at random: it begins after study.startup_students)"
        print(
            f"{definition.name}: {plural(definition.limit, 'student')} by {drawn} over "
            f"{plural(num_parameters, 'parameter')}, {least}{definition.students_per_generator} per generator, "
            f"objective {config.objective}"
        )
    print_table(forecast_table(forecast))
    for line in forecast_lines(forecast, definition):
        print(line)
    resources = study.file.resources
    each = resources.num_workers * resources.cpus_per_worker
    warning = crowding_in_words(definition.study.concurrency, each, os.cpu_count() or 1, "this machine")
    if warning is not None and "RAY_ADDRESS" not in os.environ:
        print(warning)
    for name, place in places.items():
        print(f"{name}: {place}")
    if elsewhere is not None:
        print(f"this would begin anew: {elsewhere.error(*words_of(options))}")
    print(f"next: {definition.command}")


def run(options: argparse.Namespace) -> None:
    """Run the study, or go on with it: a search, then the best trial beside its controls on fresh seeds."""
    _refuse_to_begin_anew(options)
    study = _open(options, writes=True)
    if not options.json:
        places = ", ".join(f"{name} {place}" for name, place in study.file.storage.places().items())
        print(places, file=sys.stderr, flush=True)
    lines = RunLines(sys.stdout)
    if options.wait:
        _wait_for_its_end(study)
    try:
        with (
            console_observer(quiet=options.json, prefix="import: ") as observer,
            interruptible(observer),
            StudyDisplay(quiet=options.json) as display,
        ):
            shown_by = lines.show if options.json else display.show
            summary = run_study(
                study,
                engine=options.engine,
                device=options.device,
                observer=observer,
                show=shown_by,
                adopts=options.adopt,
            )
    except StudyLocked as error:
        raise StudyLocked(f"{error}; watch it with: {command_line('status', options)} --watch") from error
    if options.json:
        lines.end(summary.snapshot, summary.report)
        return
    _print_summary(summary, study.file.storage.tracking)


def _wait_for_its_end(study: Study) -> None:
    """Wait until another driver has ended: one that a cluster replaces may take a while to save what runs."""
    holder = study.holder()
    if holder is not None:
        print(f"waiting for the end of {holder}", file=sys.stderr, flush=True)
    until = time.monotonic() + WAIT_SECONDS
    while study.holder() is not None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def stop(options: argparse.Namespace) -> None:
    """Ask the driver of the study, on whatever machine, to save what runs and stop; `tune run` goes on later."""
    study = open_study_of(options)
    holder = study.holder()
    if holder is not None:
        study.ask_to_stop(holder, now=options.now)
        if not options.json:
            print(f"asked {holder} to stop{' at once' if options.now else ': what runs is saved first'}", flush=True)
        while (now_held_by := study.holder()) == holder:
            time.sleep(POLL_SECONDS)
        holder = now_held_by
    snapshot = study.snapshot()
    if options.json:
        print(json.dumps({"stopped": holder is None, "run_by": holder, "finished": snapshot.finished}))
        return
    ended = sum(task.state.is_final for task in snapshot.tasks)
    print(
        f"{snapshot.name}: {f'run by {holder} now' if holder else 'nobody runs it'}; "
        f"{plural(ended, 'task has', 'tasks have')} ended"
    )
    print(f"next: {command_line('status', options) if snapshot.finished or holder else snapshot.command}")


def promote(options: argparse.Namespace) -> None:
    """Register the study's best student in MLflow, from where it loads without this project."""
    promotion = promote_study(open_study_of(options), name=options.name, alias=options.alias, anyway=options.anyway)
    if options.json:
        print(json.dumps(promotion.to_json()))
        return
    print(promotion.in_words())
    print(f"verdict: {promotion.verdict}")
    if promotion.choice is not None:
        print(promotion.choice)
    if promotion.teacher_validation_accuracy is not None:
        print(f"the teacher's validation accuracy: {percent(promotion.teacher_validation_accuracy)}")
    print(promotion.takes)
    print(f"load it:\n    {promotion.load}")
    if not is_server(promotion.tracking):
        print(f"next: {command_line('open', options)}")


def _open(options: argparse.Namespace, *, writes: bool = False) -> Study:
    return open_study(options.file, options.overrides, store=options.store, num_seeds=options.seeds, writes=writes)


def _open_checked(options: argparse.Namespace) -> Study:
    """Open a study and look at every path of its file.

    Raises:
        InputError, StoreError: one message for all that is missing or cannot be written to.
    """
    storage = studyfile.load(options.file, options.overrides, store=options.store).storage
    problems = storage.unwritable(("store", "ledger", "tracking", "results"))
    try:
        study = _open(options)
    except (InputError, StoreError) as error:
        raise type(error)("\n".join([str(error), *problems])) from error
    if problems:
        raise StoreError("\n".join(problems))
    return study


def _refuse_to_begin_anew(options: argparse.Namespace) -> None:
    """Refuse to begin a study that another folder's ledger has, unless its place is named for this command.

    Raises:
        LedgerError: says where it is, and the commands to go on there and to begin anew here.
    """
    elsewhere = find_elsewhere(studyfile.load(options.file, options.overrides, store=options.store))
    if elsewhere is None:
        return
    if elsewhere.folder is not None and not elsewhere.is_chosen:
        raise elsewhere.error(*words_of(options), begins=True)
    print(f"this begins anew: {elsewhere.error(*words_of(options))}", file=sys.stderr, flush=True)


def forget(options: argparse.Namespace) -> None:
    """Delete for good what a study has left in ledger, store and MLflow; registered models are kept."""
    study = open_study_of(options)
    found = forget_study(study, really=options.yes)
    if options.json:
        print(json.dumps({"forgotten": options.yes, **found.to_json()}))
        return
    words = (
        f"{plural(found.num_tasks, 'task')} in the ledger, {plural(found.num_artifacts, 'artifact')} of "
        f"{found.num_bytes / 1e6:,.1f} MB in the store that no other study refers to, "
        f"{plural(found.num_runs, 'run')} in MLflow"
    )
    if options.yes:
        print(f"{study.definition.name}: forgotten: {words}")
        print(f"the pages in {study.definition.folder} stay, and so do registered models")
    else:
        print(f"{study.definition.name}: would forget {words}; nothing is deleted yet")
        print(f"next: {command_line('forget', options)} --yes")


def _print_summary(summary: RunSummary, tracking: str) -> None:
    snapshot = summary.snapshot
    print_results(snapshot)
    if not summary.is_new:
        print("everything was there already; nothing was run")
    by_tasks = f"CPU-seconds: {snapshot.cpu_seconds:,.0f} by the study's tasks over all its runs"
    print(f"{by_tasks}; {summary.cpu_seconds:,.0f} by this command and all that it started")
    if summary.tracking_error:
        print(f"MLflow could not be written ({summary.tracking_error}); this makes up for it: {snapshot.command}")
    print(f"report: {summary.report}")
    print(f"MLflow: {_mlflow_in_words(summary, tracking)}")
    first = next(iter(snapshot.comparison_rows), None)
    if first is not None and first.role == "finalist" and len(first.keys) == 1:
        print(f"more seeds: {snapshot.command} --seeds 3")
    if champion_of(snapshot) is None:
        return
    better = better_student(snapshot)
    if better is None:
        print(f"next: {verb_command('promote', snapshot)}")
    else:
        print("a control has beaten the champion: `promote` refuses it, unless --anyway")
        print(f"next: {verb_command('show', snapshot, better.label)}")


def _mlflow_in_words(summary: RunSummary, tracking: str) -> str:
    """Return the address of the study's runs on a server, or the command that shows them.

    Args:
        summary: of the run.
        tracking: MLflow's URI, which may hold a password.
    """
    snapshot = summary.snapshot
    command = mlflow_command(snapshot)
    if command is not None:
        return command
    if summary.tracking_error is None:
        with contextlib.suppress(TrackingError), tracking_errors(tracking):
            pages = pages_of(tracking, snapshot.name, None)
            if pages is not None:
                return f"{snapshot.tracking.rstrip('/')}/{pages.view}"
    return snapshot.tracking


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number of seeds from 1 to 1000, found {text!r}")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m tune",
        description="Hybrid data-free knowledge distillation: studies over trials. Only plan and run need the "
        "overrides of a run again; where none are given, the verbs that read a study take those of its last run.",
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
        "--wait", action="store_true", help="first wait for another driver of the study to end, at most 10 min"
    )
    running.add_argument(
        "--adopt",
        action="store_true",
        help="take over what another ledger has left in store, results folder and MLflow under the study's name",
    )
    running.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    watching = add("status", status)
    watching.add_argument(
        "--watch", action="store_true", help="go on showing it until it ends; Ctrl-C ends only the showing"
    )
    stopping = add("stop", stop)
    stopping.add_argument("--now", action="store_true", help="save nothing; tasks go on from their last checkpoints")
    for name, verb in (("show", show), ("explain", explain)):
        add(name, verb, "TRIAL").add_argument("trial", metavar="TRIAL", help="number of a trial, or name of its folder")
    add("report", report)
    opening = add("open", open_pages)
    opening.add_argument("--no-browser", action="store_true", help="print the addresses, and open no browser")
    promoting = add("promote", promote)
    forgetting = add("forget", forget)
    forgetting.add_argument("--yes", action="store_true", help="delete; without, it is only counted")
    promoting.add_argument("--name", help="of the registered model; default the study's name")
    promoting.add_argument("--alias", default=CHAMPION, help=f"by which it is loaded; default {CHAMPION}")
    promoting.add_argument("--anyway", action="store_true", help="register it although a control has beaten it")
    exporting = add("export", export, "--to FOLDER")
    add_export_options(exporting)
    exporting.add_argument(
        "--trial", metavar="N", help="number of a trial, or name of its folder; default the champion"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

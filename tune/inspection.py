"""Verbs that look at a study: `status`, `show`, `explain`, `report`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from hidfd.config.storage import redacted
from hidfd.errors import ConfigError
from hidfd.formatting import part_of, percent, short_setting
from hidfd.text_table import TextColumn, TextTable
from tune.driver import write_pages
from tune.errors import LedgerError
from tune.ledger.elsewhere import find_elsewhere
from tune.opened_study import Study, open_last_run
from tune.planner.forecast import forecast_of
from tune.planner.snapshots import snapshot_of
from tune.report.cautions import choice_in_words, opened_test_labels
from tune.report.labels import result_in_words
from tune.report.objectives import front_in_words, missed_constraints, why_no_champion
from tune.report.selection import leading_finalist, teacher_accuracy
from tune.report.summary import rank_agreement_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.terminal.display import StudyDisplay
from tune.terminal.explanation import explain as explain_task
from tune.terminal.tables import (
    budget_in_words,
    comparison_table,
    forecast_lines,
    forecast_table,
    shared_reasons,
    task_table,
    trials_table,
)
from tune.terminal.verdict import verdict_text
from tune.terminal.worth import worth_table, worth_text

WATCH_EVERY_SECONDS = 2.0
"""Seconds after which `status --watch` reads the ledger again."""

PLAIN_WIDTH = 160
"""Width in columns of a table that is not printed on a terminal."""


def status(options: argparse.Namespace) -> None:
    """Say how far the study is, whoever runs it."""
    study = _watch(options) if options.watch else open_study_of(options)
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
    words = f"{snapshot.name}: {part_of(ended, len(snapshot.tasks), 'task so far has', 'tasks so far have')} ended"
    if snapshot.num_students:
        students = sum(trial.state.is_final for trial in snapshot.trials)
        words += f", {part_of(students, snapshot.num_students, 'student')} of the search"
    print(f"{words}; run by {holder}" if holder else words)
    running = [task for task in snapshot.tasks if task.state is TaskState.RUNNING]
    if running:
        print_table(task_table(running))
    print_results(snapshot)
    print(f"CPU-seconds of tasks so far: {snapshot.cpu_seconds:,.0f}")
    budget = budget_in_words(snapshot)
    if budget is not None:
        print(f"budget: {budget}")
    if snapshot.finished:
        print(f"next: {command_line('show', options, 'TRIAL')}")
        return
    forecast = forecast_of(state, study.store)
    print_table(forecast_table(forecast))
    for line in forecast_lines(forecast, study.definition):
        print(line)
    if holder is None:
        print(f"nobody runs it now; goes on with: {snapshot.command}")
    else:
        print(f"next: {command_line('status', options)} --watch")


def _watch(options: argparse.Namespace) -> Study:
    """Show a study as its driver does, until no driver runs it any more; before it begins, wait for that.

    Returns:
        The study with the arguments of its last run.
    """
    study = open_study_of(options)
    arguments, printed = study.last_arguments(), ""
    snapshot, ledger_id = study.snapshot(), study.ledger_id()
    has_begun = _has_begun(snapshot)
    if not has_begun and study.holder() is None:
        waiting = f"{snapshot.name}: not started; waiting until somebody runs: {snapshot.command} (Ctrl-C ends this)"
        print(waiting, file=sys.stderr, flush=True)
    with StudyDisplay(sys.stdout, quiet=options.json) as display:
        while True:
            if ledger_id is not None and study.ledger_id() != ledger_id:
                raise _not_there_any_more(study)
            is_run = study.holder() is not None
            if (newest := study.last_arguments()) != arguments:  # another run has begun
                study, arguments = open_study_of(options), newest
            try:
                snapshot = study.snapshot()
            except ConfigError:  # a run with other settings has just begun; its arguments are recorded a moment later
                time.sleep(WATCH_EVERY_SECONDS)
                study, arguments = open_study_of(options), study.last_arguments()
                snapshot = study.snapshot()
            if has_begun and not _has_begun(snapshot):
                raise _not_there_any_more(study)
            has_begun, ledger_id = _has_begun(snapshot), study.ledger_id()
            display.show(snapshot)
            if options.json:
                line = json.dumps(snapshot.to_json(), default=str)
                if line != printed:
                    print(line, flush=True)
                printed = line
            if not is_run and has_begun:
                return study
            time.sleep(WATCH_EVERY_SECONDS)


def _not_there_any_more(study: Study) -> LedgerError:
    return LedgerError(
        f"{redacted(study.file.storage.ledger)}: the ledger does not have the study any more that was shown: it was "
        f"deleted, moved or replaced, or the study was forgotten. Unless that was meant, put the ledger back; a driver "
        f"ends at its next write, and finished artifacts are in the store"
    )


def _has_begun(snapshot: StudySnapshot) -> bool:
    return any(task.attempts or task.state.is_final for task in snapshot.tasks)


def show(options: argparse.Namespace) -> None:
    """Show one trial, by its number or by the name of its folder: settings, numbers, and the tasks it needs."""
    study = open_study_of(options)
    snapshot = study.snapshot()
    if _show_unplanned(snapshot, options):
        return
    task = find_task(snapshot, options.trial)
    if options.json:
        print(json.dumps(task.to_json()))
        return
    print(f"{task.label}: {result_in_words(task) if task.state.is_final else task.state.value}")
    table = TextTable([TextColumn(""), TextColumn("", wraps=True, says_all=True)], has_rule=False, has_headings=False)
    for path, value in task.params.items():
        table.add_row(f"trial.{path}", short_setting(value))
    table.add_row("seed", str(task.seed))
    for name, value in task.metrics.items():
        table.add_row(name, short_setting(value, 4))
    if (
        task.state is TaskState.COMPLETE
        and task.kind is TaskKind.STUDENT
        and (misses := missed_constraints(task.metrics, snapshot))
    ):
        table.add_row(*misses.split(": ", 1))
    for rung in task.rungs:
        table.add_row(
            f"at {rung.images:,} images",
            f"agreement {percent(rung.value)}, {'kept' if rung.kept else 'pruned'}: "
            f"{part_of(rung.num_better, rung.num_others, 'other')} did better",
        )
    print_table(table)
    needs = [need for key in task.needs if (need := snapshot.task(key)) is not None]
    if needs:
        print_table(task_table(needs))
    for attempt in task.attempts:
        end, reached = attempt.end or "running", attempt.images_to
        print(f"attempt {attempt.number}: {end} on {attempt.node}, reached {reached:,} images")
    if task.kind is not TaskKind.TEST_EVALUATION:
        print(f"folder: {task.folder}")
        print(f"report: {task.folder}/report.html")
    if (Path(task.folder) / "config.yaml").is_file():
        print(f"alone: python -m hidfd run {shlex.quote(task.folder)}/config.yaml")
    print(f"next: {command_line('status', options)}")


def explain(options: argparse.Namespace) -> None:
    """Say why a trial has its parameters, what it reused and built, and why it stopped where it did."""
    study = open_study_of(options)
    snapshot = study.snapshot()
    if _show_unplanned(snapshot, options):
        return
    task = find_task(snapshot, options.trial)
    sentences = explain_task(snapshot, task)
    if options.json:
        print(json.dumps({"label": task.label, "key": task.key, "state": task.state, "sentences": sentences}))
        return
    print(f"{task.label}: {result_in_words(task) if task.state.is_final else task.state.value}")
    for sentence in sentences:
        print(f"  {sentence}")
    print(f"next: {command_line('show', options, options.trial)}")


def report(options: argparse.Namespace) -> None:
    """Write the study's page again, and the pages of its trials that are gone."""
    study = open_study_of(options)
    path = write_pages(study)
    if options.json:
        print(json.dumps({"report": str(path)}))
        return
    print(f"report: {path}")
    has_trials = bool(study.snapshot().trials)
    print(f"next: {command_line('show', options, 'TRIAL') if has_trials else study.definition.command}")


def open_study_of(options: argparse.Namespace) -> Study:
    """Open the study of a command line, with the arguments of its last run where none are given.

    Raises:
        LedgerError: another ledger than that of `storage:` has it.
    """
    study = open_last_run(options.file, options.overrides, store=options.store, num_seeds=options.seeds)
    elsewhere = find_elsewhere(study.file)
    if elsewhere is not None:
        raise elsewhere.error(*words_of(options))
    return study


def words_of(options: argparse.Namespace) -> tuple[list[str], str, list[str]]:
    """Return the words of a command line in front of the study file, the study file, and the words behind it."""
    program = ["python", "-m", "tune", options.verb_name]
    defaults: dict[str, Any] = {"engine": "ray", "device": "auto", "to": None, "format": "onnx"}
    is_export = "to" in options
    defaults |= {"trial": None} if is_export else {}
    given = [options.trial] if "trial" in options and not is_export else []
    own = [(name, getattr(options, name, default), default) for name, default in defaults.items()]
    given_to_run = [word for name, value, default in own if value != default for word in (f"--{name}", value)]
    return program, options.file, [*_rest(options, *given), *given_to_run]


def command_line(verb: str, options: argparse.Namespace, *more: str) -> str:
    """Return the command line of another verb on the same study."""
    return shlex.join(["python", "-m", "tune", verb, options.file, *_rest(options, *more)])


def _rest(options: argparse.Namespace, *more: str) -> list[str]:
    words = [*more, *options.overrides]
    words += [] if options.seeds is None else ["--seeds", str(options.seeds)]
    return words + ([] if options.store is None else ["--store", redacted(options.store)])


def print_results(snapshot: StudySnapshot) -> None:
    """Print the trials and comparisons of a study, and what they say."""
    for table in (trials_table(snapshot), comparison_table(snapshot), worth_table(snapshot)):
        if table is not None:
            print_table(table)
    for line in shared_reasons(snapshot):
        print(line)
    words, teacher = rank_agreement_in_words(snapshot), teacher_accuracy(snapshot)
    if teacher is not None:
        print(f"the teacher: {percent(teacher)} validation accuracy")
    if words is not None:
        print(words)
    opened = opened_test_labels(snapshot) if snapshot.finished or snapshot.test_evaluations else None
    if opened is not None:
        print(opened)
    front, missing = front_in_words(snapshot), why_no_champion(snapshot)
    if front is not None:
        print(front)
    if missing is not None:
        print(f"no champion: {missing}")
    if leading_finalist(snapshot) is not None and (choice := choice_in_words(snapshot)) is not None:
        print(choice)
    verdict = verdict_text(snapshot)
    if verdict is not None:
        Console(highlight=False).print(verdict, soft_wrap=True)
    answer = worth_text(snapshot)
    if answer is not None:
        Console(highlight=False).print(answer, soft_wrap=True)
    for note in snapshot.worth.notes if snapshot.worth is not None else ():
        print(note)
    if snapshot.undone:
        print(f"undone: {snapshot.undone}")


def print_table(table: RenderableType) -> None:
    """Print a table, as wide as the terminal, or `PLAIN_WIDTH` where there is none."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    console.print(table, crop=False)


def find_task(snapshot: StudySnapshot, wanted: str) -> TaskSnapshot:
    """Return the task of a trial, by the number of the trial or the name of its folder.

    Raises:
        ConfigError: there is none.
    """
    keys = {str(trial.number): trial.key for trial in snapshot.trials}
    for task in snapshot.tasks:
        if wanted == task.label or (wanted in keys and keys[wanted] == task.key):
            return task
    labels = ", ".join(task.label for task in snapshot.tasks) or "none yet"
    raise ConfigError(f"{wanted}: study {snapshot.name!r} has no such trial; it has: {labels}")


def _show_unplanned(snapshot: StudySnapshot, options: argparse.Namespace) -> bool:
    """Show a trial without a task, since its values did not fit together; return whether the trial was one of these."""
    for trial in snapshot.trials:
        if str(trial.number) == options.trial and trial.key is None:
            if options.json:
                print(json.dumps(asdict(trial)))
                return True
            print(f"trial-{trial.number}: {trial.state}{f': {trial.reason}' if trial.reason else ''}")
            for path, value in trial.params.items():
                print(f"  trial.{path}: {short_setting(value)}")
            print(f"  why: {trial.why}")
            print(f"next: {command_line('status', options)}")
            return True
    return False

"""`python -m tune export`: a study's champion, or any student of it, in a folder that needs nothing of this project."""

from __future__ import annotations

import argparse
from pathlib import Path

from hidfd.deployment import print_export
from hidfd.export.card import StudentOrigin
from hidfd.export.formats import check_can_write
from hidfd.export.target import check_target
from hidfd.formatting import relative_paths
from tune.errors import StudyError
from tune.inspection import find_task, open_study_of
from tune.report.cautions import choice_in_words
from tune.report.champion import Champion, champion_of, config_of, loss_in_words, verdict_or_why_none
from tune.report.labels import settings_in_markdown
from tune.report.objectives import why_no_champion
from tune.report.selection import students, teacher_accuracy, winning_controls
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState


def export(options: argparse.Namespace) -> None:
    """Export the champion, or another student, into a folder that another machine can use without this project."""
    check_target(Path(options.to))
    check_can_write(options.format)
    study = open_study_of(options)
    snapshot = study.snapshot()
    champion = champion_of(snapshot) if options.trial is None else None
    student = _student(snapshot, champion, options.trial)
    if champion is not None and not options.json:
        for gain in winning_controls(snapshot):
            print(f"note: {loss_in_words(gain)}; --trial exports another student")
    from hidfd.export.bundle import export_student

    origin = origin_of(student, champion, snapshot)
    config, folder = config_of(student, snapshot), Path(options.to)
    exported = export_student(config, study.store, origin, format_=options.format, folder=folder)
    print_export(exported, as_json=options.json)


def origin_of(student: TaskSnapshot, champion: Champion | None, snapshot: StudySnapshot) -> StudentOrigin:
    """Return what the model card says of a student beside its settings.

    Args:
        student: of the study.
        champion: of the study, where the student is handed over as such.
        snapshot: of the study.
    """
    settings = settings_in_markdown(student.params)
    found = [f"Settings that differ from the study's own: {settings}."] if settings else []
    metrics = dict(student.metrics)
    if (accuracy := teacher_accuracy(snapshot)) is not None:
        metrics["teacher_validation_accuracy"] = accuracy
    if champion is None:
        row = next((row for row in snapshot.comparison_rows if student.key in row.keys and row.num_complete > 1), None)
        of_row = "" if row is None else f", one of {row.num_complete} of `{row.name}` on fresh seeds"
        return StudentOrigin(
            study=snapshot.name,
            label=student.label,
            command=_command(snapshot),
            metrics=metrics,
            means={} if row is None else row.means,
            deviations={} if row is None else row.deviations,
            num_seeds=1 if row is None else row.num_complete,
            remarks=(f"A student of seed {student.seed}{of_row}, which was picked by hand.", *found),
        )
    nearest = "" if champion.row.num_complete == 1 else ", whose value is the nearest to their mean"
    chosen = f"The champion of the study: the student of seed {student.seed}{nearest}."
    choice = choice_in_words(snapshot)
    return StudentOrigin(
        study=snapshot.name,
        label=student.label,
        command=_command(snapshot),
        metrics=metrics,
        means=champion.row.means,
        deviations=champion.row.deviations,
        num_seeds=champion.row.num_complete,
        remarks=(
            chosen,
            f"**{verdict_or_why_none(snapshot)}**",
            *([] if choice is None else [choice]),
            *found,
        ),
    )


def _student(snapshot: StudySnapshot, champion: Champion | None, wanted: str | None) -> TaskSnapshot:
    """Return the student that is asked for.

    Raises:
        ConfigError: the study has no such trial.
        StudyError: it has no champion (yet), or the trial no finished student.
    """
    if wanted is None:
        if champion is None:
            raise StudyError(_why_no_champion(snapshot))
        return champion.student
    task = find_task(snapshot, wanted)
    if task.kind is not TaskKind.STUDENT or task.state is not TaskState.COMPLETE:
        found = "is no student" if task.kind is not TaskKind.STUDENT else f"is no finished student ({task.state.value})"
        raise StudyError(f"{task.label}: {found}; study {snapshot.name!r} has these: {_finished(snapshot)}")
    return task


def _why_no_champion(snapshot: StudySnapshot) -> str:
    missing = why_no_champion(snapshot)
    if missing is None and not snapshot.num_students:
        missing = "it compares variants, and chooses none"
    if missing is None and not snapshot.finished:
        missing = f"it has not ended; it goes on with: {relative_paths(snapshot.command)}"
    why = missing or "no finalist ran to its end on every fresh seed"
    return (
        f"study {snapshot.name!r} has no champion to export: {why}. Name another student, --trial N; finished ones: "
        f"{_finished(snapshot)}"
    )


def _finished(snapshot: StudySnapshot) -> str:
    labels = [task.label for task in students(snapshot) if task.state is TaskState.COMPLETE]
    return ", ".join(labels) or "none yet"


def _command(snapshot: StudySnapshot) -> str:
    return relative_paths(snapshot.command)

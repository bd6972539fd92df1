"""The tasks, trials and rows of a snapshot that pages, terminals and MLflow ask for."""

from __future__ import annotations

from tune.study.snapshot import GainSnapshot, RowSnapshot, StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskKind
from tune.study.verdict import best_finalist, best_row


def students(snapshot: StudySnapshot) -> list[TaskSnapshot]:
    """Return every student of the study."""
    return [task for task in snapshot.tasks if task.kind is TaskKind.STUDENT]


def generator_of(task: TaskSnapshot, snapshot: StudySnapshot) -> TaskSnapshot | None:
    """Return the generator that a student learns from, or the task itself if it is one; None with real images only."""
    chain = [task, *(found for key in task.needs if (found := snapshot.task(key)))]
    return next((found for found in chain if found.kind is TaskKind.GENERATOR), None)


def best_trial(snapshot: StudySnapshot) -> TrialSnapshot | None:
    """Return the feasible search trial with the highest value so far."""
    return next((trial for trial in snapshot.trials if trial.number == snapshot.best), None)


def leading_finalist(snapshot: StudySnapshot) -> RowSnapshot | None:
    """Return the row of the best finalist on fresh seeds; until there is one, of the first finalist with a number."""
    numbered = (row for row in snapshot.comparison_rows if row.role == "finalist" and row.num_complete)
    return best_finalist(snapshot.comparison_rows, snapshot.objective) or next(numbered, None)


def best_of_comparison(snapshot: StudySnapshot) -> RowSnapshot | None:
    """Return the best row of the comparison, be it a finalist or a control; None until one has all its numbers."""
    return best_row(snapshot.comparison_rows, snapshot.objective)


def winning_controls(snapshot: StudySnapshot) -> list[GainSnapshot]:
    """Return the controls that beat the champion beyond the interval over seeds."""
    return [gain for gain in snapshot.gains if gain.role == "control" and gain.standing == "lost"]


def better_student(snapshot: StudySnapshot) -> TaskSnapshot | None:
    """Return the first student of the control that beats the champion by most; None where no control does."""
    winner = min(winning_controls(snapshot), key=lambda gain: gain.gain, default=None)
    return None if winner is None else first_student(winner.other, snapshot)


def first_student(row_name: str, snapshot: StudySnapshot) -> TaskSnapshot | None:
    """Return the student of the first seed that a row of the comparison has."""
    keys = [key for row in snapshot.comparison_rows if row.name == row_name for key in row.keys]
    return next((task for key in keys if (task := snapshot.task(key)) is not None), None)


def teacher_accuracy(snapshot: StudySnapshot) -> float | None:
    """Return the teacher's accuracy on the validation images, as measured beside a student; None without labels."""
    found = (task.metrics.get("teacher_validation_accuracy") for task in students(snapshot))
    return next((accuracy for accuracy in found if accuracy is not None), None)

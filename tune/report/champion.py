"""Which student a study hands over, and the words and tags that go with it. Torch-free, and MLflow-free.

The champion is a finalist: the best trial on fresh seeds. Of its students the one nearest to their mean is handed over:
what the study says of a setting then holds of the very network that is deployed. The best of them would be one more
maximum over noise, and the first can be an outlier.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hidfd.config.schema import TrialConfig
from hidfd.formatting import percent, percent_with_error, relative_paths, setting
from tune.planner.comparison import TABLE_METRICS, best_finalist
from tune.report.objectives import further_columns
from tune.report.summary import METRIC_NAMES, best_trial
from tune.study.definition import FRESH_SEEDS
from tune.study.search_space import changed
from tune.study.snapshot import RowSnapshot, StudySnapshot, TaskSnapshot
from tune.study.states import TaskState
from tune.study.task import task_specs

DIGEST_TAG = "digest"
"""Identifies a student: what a promotion recognises it by."""

ACCURACIES = TABLE_METRICS[:3]
"""What a student is worth, as far as it was measured."""

NUM_DIGITS = 9
"""Distances from a mean that differ by less are equal: two values lie equally far from theirs."""

NO_VERDICT = (
    "There is no verdict: the controls have not all ended with a number, so the worth of the generator is open."
)


@dataclass(frozen=True)
class Champion:
    """What a study hands over.

    Attributes:
        row: the finalist over its seeds; its numbers are the ones to quote.
        student: of the seed nearest to the mean of the objective.
    """

    row: RowSnapshot
    student: TaskSnapshot


def champion_of(snapshot: StudySnapshot) -> Champion | None:
    """The champion, once everything that it is held against has ended too; None until then.

    It is the row that the verdict is about (`tune.planner.comparison.best_finalist`). None as well where no finalist
    has a number from every fresh seed, or none keeps the study's constraints there.
    """
    row = best_finalist(snapshot.rows, snapshot.objective)
    if row is None or not snapshot.finished:
        return None
    mean = row.means[snapshot.objective]
    students = _complete(row, snapshot)
    return Champion(row, min(students, key=lambda task: round(abs((task.value or 0.0) - mean), NUM_DIGITS)))


def best_student(snapshot: StudySnapshot) -> TaskSnapshot | None:
    """The champion's student; before there is one, that of the best trial of the search; or none."""
    champion = champion_of(snapshot)
    if champion is not None:
        return champion.student
    best = best_trial(snapshot)
    return snapshot.task(best.key) if best is not None and best.key else None


def config_of(task: TaskSnapshot, snapshot: StudySnapshot) -> TrialConfig:
    """The trial that a student belongs to."""
    seeds = {} if task.role == "search" else dict.fromkeys(FRESH_SEEDS, task.seed)
    config = changed(snapshot.trial, {**task.params, **seeds})
    assert task_specs(config)[-1].key == task.key, task.label
    return config


def numbers(champion: Champion) -> str:
    """What the champion is worth: `agreement 84.0 ± 0.5 %, validation accuracy 82.1 ± 0.7 % (mean ± sd, n = 3)`."""
    row = champion.row
    parts = [
        f"{METRIC_NAMES[metric]} {percent_with_error(row.means[metric], row.deviations.get(metric))}"
        for metric in ACCURACIES
        if metric in row.means
    ]
    how = f"mean ± sd, n = {row.num_complete}" if row.num_complete > 1 else "n = 1"
    return f"{', '.join(parts)} ({how})"


def tags_of(champion: Champion, snapshot: StudySnapshot) -> dict[str, str]:
    """What the registered student can be told by, as a registry keeps it: a name and a text each."""
    row, student, trial = champion.row, champion.student, snapshot.trial
    teacher = trial.teacher
    checkpoint = teacher.checkpoint.sha256 if teacher.checkpoint else None
    tags = {
        "study": snapshot.name,
        "command": relative_paths(snapshot.command),
        DIGEST_TAG: student.key,
        "run": student.label,
        "seed": str(student.seed),
        "teacher": f"{teacher.architecture} {f'sha256:{checkpoint}' if checkpoint else 'trained by the study'}",
        "student": trial.distillation.architecture,
        "settings": json.dumps(student.params),
        "n": str(row.num_complete),
    }
    if "deployed_parameters" in student.metrics:
        tags["parameters"] = f"{student.metrics['deployed_parameters']:.0f}"
    for metric in further_columns(snapshot):
        tags[metric], tags[f"{metric}_mean"] = f"{student.metrics[metric]:.6g}", f"{row.means[metric]:.6g}"
    for metric in ACCURACIES:
        if metric in row.means:
            tags[metric] = f"{student.metrics[metric]:.4f}"
            tags[f"{metric}_mean"] = f"{row.means[metric]:.4f}"
        if metric in row.deviations:
            tags[f"{metric}_sd"] = f"{row.deviations[metric]:.4f}"
    return tags


def load_expression(name: str, alias: str) -> str:
    """What loads the registered student, after `import mlflow`."""
    return f'mlflow.pytorch.load_model("models:/{name}@{alias}")'


def description_of(champion: Champion, snapshot: StudySnapshot, name: str, alias: str) -> str:
    """Markdown that a person reads first, on the page of the student that is registered under a name and an alias."""
    student, trial = champion.student, snapshot.trial
    settings = ", ".join(f"`{path}` {setting(value)}" for path, value in student.params.items())
    which = "" if champion.row.num_complete == 1 else ", the one nearest to their mean"
    own = ", ".join(
        f"{METRIC_NAMES[metric]} {percent(student.metrics[metric])}"
        for metric in ACCURACIES
        if metric in student.metrics
    )
    worth = (
        f"The best setting of study `{snapshot.name}`, on fresh seeds: {numbers(champion)}. This is the student of "
        f"seed {student.seed}{which}, by itself: {own}."
    )
    what = (
        f"A {trial.distillation.architecture} distilled from a {trial.teacher.architecture}; "
        f"{settings or 'settings as in the study file'}."
    )
    use = (
        f"{input_in_words(snapshot)} Load it with `{load_expression(name, alias)}`; that takes torch and MLflow, "
        f"nothing else."
    )
    made = f"Made by `{relative_paths(snapshot.command)}`."
    return "\n\n".join((f"**{snapshot.verdict or NO_VERDICT}**", worth, what, use, made))


def input_in_words(snapshot: StudySnapshot) -> str:
    """What the network takes and gives. Normalisation is inside; uint8 images are the caller's to divide by 255."""
    data = snapshot.trial.data
    channels, side = data.channels, data.image_size_pixels
    classes = f": {', '.join(data.class_names)}" if data.class_names else ""
    return (
        f"Takes float32 images in [0, 1] (uint8 ones divided by 255; normalisation is inside), batch x {channels} x "
        f"{side} x {side} with any batch; gives logits of {data.num_classes} classes{classes}."
    )


def _complete(row: RowSnapshot, snapshot: StudySnapshot) -> list[TaskSnapshot]:
    tasks = [snapshot.task(key) for key in row.keys]
    return [task for task in tasks if task is not None and task.state is TaskState.COMPLETE and task.value is not None]

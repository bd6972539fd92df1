"""The champion of a study: which student it is, and the words and tags that describe it. Free of torch and MLflow.

The champion is the best finalist on fresh seeds. Of its students the one nearest to their mean is handed over, so that
the study's numbers for a setting hold for the network that is deployed. Its best student would be one more maximum over
noise, and its first one may be an outlier.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hidfd.config.schema import TrialConfig
from hidfd.formatting import percent, percent_with_error, relative_paths
from tune.planner.comparison import TABLE_METRICS
from tune.report.cautions import choice_in_words
from tune.report.labels import METRIC_NAMES, settings_in_markdown
from tune.report.objectives import further_columns
from tune.report.selection import best_trial, teacher_accuracy
from tune.study.definition import FRESH_SEEDS
from tune.study.search_space import changed
from tune.study.snapshot import GainSnapshot, RowSnapshot, StudySnapshot, TaskSnapshot
from tune.study.states import TaskState
from tune.study.task import task_specs
from tune.study.verdict import best_finalist

CHAMPION = "champion"
"""The default alias of a study's champion in MLflow's registry."""

DIGEST_TAG = "digest"
"""Tag with the digest of a student, by which a promotion recognises it."""

ACCURACIES = TABLE_METRICS[:3]
"""Accuracies that describe a champion, as far as they were measured."""

NUM_DIGITS = 9
"""Digits that distances from the mean are rounded to: two values are equally far from theirs, but for float errors."""

NO_VERDICT = (
    "There is no verdict: the controls have not all ended with a number, so the worth of the generator is open."
)
"""The words instead of a verdict where the champion has controls."""

NOTHING_BESIDE = (
    "There is no verdict: neither a control nor a second finalist ran beside the champion, so the worth of the "
    "generator is open."
)
"""The words instead of a verdict where `study.controls` are off, or none makes sense beside the champion."""

IN_EVAL_MODE = "The network is in eval mode already; do not call `.eval()` or `.train()`, which torch refuses here."
"""The first thing to know of a registered student: it is an exported program, on which the usual call is an error."""


@dataclass(frozen=True)
class Champion:
    """The result of a study.

    Attributes:
        row: the best finalist over its seeds; its numbers are the ones to quote.
        student: the student that is handed over, whose objective is nearest to the mean over the seeds.
    """

    row: RowSnapshot
    student: TaskSnapshot


def champion_of(snapshot: StudySnapshot) -> Champion | None:
    """Return the champion once the study has finished; None until then.

    It is the row that the verdict is about (`tune.study.verdict.best_finalist`). None as well if no finalist has a
    number from every fresh seed, or none keeps the study's constraints there.
    """
    row = best_finalist(snapshot.comparison_rows, snapshot.objective)
    if row is None or not snapshot.finished:
        return None
    mean = row.means[snapshot.objective]
    students = _complete(row, snapshot)
    return Champion(row, min(students, key=lambda task: round(abs((task.value or 0.0) - mean), NUM_DIGITS)))


def best_student(snapshot: StudySnapshot) -> TaskSnapshot | None:
    """Return the champion's student; before there is a champion, that of the best search trial, if there is one."""
    champion = champion_of(snapshot)
    if champion is not None:
        return champion.student
    best = best_trial(snapshot)
    return snapshot.task(best.key) if best is not None and best.key else None


def config_of(task: TaskSnapshot, snapshot: StudySnapshot) -> TrialConfig:
    """Return the settings of the trial that a student belongs to."""
    seeds = {} if task.role == "search" else dict.fromkeys(FRESH_SEEDS, task.seed)
    config = changed(snapshot.trial, {**task.params, **seeds})
    assert task_specs(config)[-1].key == task.key, task.label
    return config


def numbers_in_words(champion: Champion) -> str:
    """Return the champion's accuracies: `agreement 84.0 ± 0.5 %, test accuracy 82.1 ± 0.7 % (mean ± sd, n = 3)`."""
    row = champion.row
    parts = [
        f"{METRIC_NAMES[metric]} {percent_with_error(row.means[metric], row.deviations.get(metric))}"
        for metric in ACCURACIES
        if metric in row.means
    ]
    how = f"mean ± sd, n = {row.num_complete}" if row.num_complete > 1 else "n = 1"
    return f"{', '.join(parts)} ({how})"


def verdict_or_why_none(snapshot: StudySnapshot) -> str:
    """Return the verdict on a champion, or why there is none."""
    is_alone = len([row for row in snapshot.comparison_rows if row.role in ("finalist", "control")]) == 1
    return snapshot.verdict or (NOTHING_BESIDE if is_alone else NO_VERDICT)


def loss_in_words(gain: GainSnapshot) -> str:
    """Say that a control beat the champion: `hybrid lost to real-only by 23.0 points of agreement (...)`."""
    assert gain.low is not None
    assert gain.high is not None
    return (
        f"{gain.name} lost to {gain.other} by {-100 * gain.gain:.1f} points of {METRIC_NAMES[gain.metric]} "
        f"({percent(gain.value)} against {percent(gain.other_value)}, 95 % interval {-100 * gain.high:.1f} to "
        f"{-100 * gain.low:.1f}, n = {gain.num_seeds})"
    )


def tags_of(champion: Champion, snapshot: StudySnapshot) -> dict[str, str]:
    """Return the tags of the registered student: where it comes from, and its numbers."""
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
    if row.search_value is not None:
        tags[f"{snapshot.objective}_in_search"] = f"{row.search_value:.4f}"
    if (accuracy := teacher_accuracy(snapshot)) is not None:
        tags["teacher_validation_accuracy"] = f"{accuracy:.4f}"
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
    """Return the Python expression that loads the registered student, after `import mlflow`."""
    return f'mlflow.pytorch.load_model("models:/{name}@{alias}")'


def description_of(champion: Champion, snapshot: StudySnapshot, name: str, alias: str) -> str:
    """Return the description of the student registered under a name and an alias, in Markdown."""
    student, trial = champion.student, snapshot.trial
    which = "" if champion.row.num_complete == 1 else ", the nearest to their mean"
    own_numbers = ", ".join(
        f"{METRIC_NAMES[metric]} {percent(student.metrics[metric])}"
        for metric in ACCURACIES
        if metric in student.metrics
    )
    worth = (
        f"The best setting of study `{snapshot.name}`, on fresh seeds: {numbers_in_words(champion)}. This is the "
        f"student of seed {student.seed}{which}; its own numbers: {own_numbers}."
    )
    accuracy = teacher_accuracy(snapshot)
    measured = "" if accuracy is None else f" ({percent(accuracy)} validation accuracy)"
    what = (
        f"A {trial.distillation.architecture} distilled from a {trial.teacher.architecture}{measured}; "
        f"{settings_in_markdown(student.params) or 'settings as in the study file'}."
    )
    use = f"{input_in_words(snapshot)} Load it with `{load_expression(name, alias)}`; this needs torch and MLflow only."
    made = f"Made by `{relative_paths(snapshot.command)}`."
    chosen = choice_in_words(snapshot) or ""
    return "\n\n".join(
        part for part in (IN_EVAL_MODE, f"**{verdict_or_why_none(snapshot)}**", worth, chosen, what, use, made) if part
    )


def input_in_words(snapshot: StudySnapshot) -> str:
    """Return what the network takes and gives. It normalises by itself, but the caller divides uint8 images by 255."""
    data = snapshot.trial.data
    channels, side = data.channels, data.image_size_pixels
    classes = f": {', '.join(data.readable_names)}" if data.class_names else ""
    return (
        f"Takes float32 images in [0, 1] (uint8 ones divided by 255; normalisation is inside), batch x {channels} x "
        f"{side} x {side} with any batch; gives logits of {data.num_classes} classes{classes}."
    )


def _complete(row: RowSnapshot, snapshot: StudySnapshot) -> list[TaskSnapshot]:
    tasks = [snapshot.task(key) for key in row.keys]
    return [task for task in tasks if task is not None and task.state is TaskState.COMPLETE and task.value is not None]

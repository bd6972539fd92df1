"""The handover of a study, for the top of its page: settings, numbers, where weights are, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hidfd.errors import ConfigError, StoreError
from hidfd.formatting import percent, percent_with_error, relative_paths, setting
from hidfd.pipeline.graph import plan
from hidfd.report.links import REPORT, Link, link_to
from hidfd.store.store import Store
from tune.report.champion import CHAMPION, best_student, champion_of, numbers_in_words
from tune.report.commands import tracking_address, verb_command
from tune.report.labels import METRIC_NAMES
from tune.report.selection import better_student
from tune.study.definition import FRESH_SEEDS
from tune.study.search_space import changed
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskState

WEIGHTS = "student.safetensors"
"""File of a student's artifact that holds its weights."""


@dataclass(frozen=True)
class Handover:
    """The champion that a study hands over, or the best student that it has so far.

    Attributes:
        title: who that is: the champion, or the best student so far.
        student: its label, with a link to its page.
        settings: dotted path and value, where it differs from the study's own `trial:`.
        numbers: its accuracies, in words.
        weights: what an address holds, and the address: in the store and in MLflow.
        steps: what to do next: a purpose, and the command.
    """

    title: str
    student: Link | None
    settings: list[tuple[str, str]]
    numbers: str
    weights: list[tuple[str, str]]
    steps: list[tuple[str, str]]


def handover_of(snapshot: StudySnapshot, folder: Path, store: Store | None) -> Handover:
    """Return what a study hands over.

    Args:
        snapshot: of the study, at any moment.
        folder: of its page, which links are relative to.
        store: that holds its students; None where it is not known.
    """
    champion, student = champion_of(snapshot), best_student(snapshot)
    steps = _steps(snapshot, student)
    if student is None:
        return Handover("What to do next", None, [], "", [], steps)
    own = ", ".join(f"{METRIC_NAMES[name]} {_own_number(name, student)}" for name in _measured(student))
    if champion is None:
        chosen = f"its {METRIC_NAMES[snapshot.objective]} chose it, so that is too high"
        title, numbers = "The best student so far", f"{own}; {chosen}"
    elif champion.row.num_complete > 1:
        title, numbers = "The champion", f"{numbers_in_words(champion)}; this student, the nearest to the mean: {own}"
    else:
        title, numbers = "The champion", numbers_in_words(champion)
    settings = [(path, setting(value)) for path, value in student.params.items() if path not in FRESH_SEEDS]
    weights = _weights(student, snapshot, store)
    if champion is not None:
        where = f"In MLflow at {tracking_address(snapshot.tracking)}, once it is promoted"
        weights.append((where, f"models:/{snapshot.name}@{CHAMPION}"))
    page = link_to(student.label, Path(student.folder) / REPORT, folder)
    return Handover(title, page, settings, numbers, weights, steps)


def _steps(snapshot: StudySnapshot, student: TaskSnapshot | None) -> list[tuple[str, str]]:
    """Return what to do next, the most useful first."""
    steps = []
    if not snapshot.finished:
        steps.append(("Go on with the study; what is finished is kept", relative_paths(snapshot.command)))
        steps.append(("See how far it is", verb_command("status", snapshot)))
    elif (better := better_student(snapshot)) is not None:
        steps.append(("See the control that has beaten it", verb_command("show", snapshot, better.label)))
    elif champion_of(snapshot) is not None:
        steps.append(("Register the champion in MLflow", verb_command("promote", snapshot)))
    if student is not None:
        steps.append(("See where its numbers come from", verb_command("show", snapshot, student.label)))
    elif snapshot.finished:
        steps.append(("See all of its students", verb_command("status", snapshot)))
    return steps


def _weights(student: TaskSnapshot, snapshot: StudySnapshot, store: Store | None) -> list[tuple[str, str]]:
    """Return where a student's weights are in the store; nothing where that is not known."""
    if store is None or student.state is not TaskState.COMPLETE:
        return []
    seeds = {} if student.role == "search" else dict.fromkeys(FRESH_SEEDS, student.seed)
    try:
        stages = plan(changed(snapshot.trial, {**student.params, **seeds}))
    except ConfigError:
        return []
    if stages["evaluation"].digest != student.key:  # an older version made it, which computed other digests
        return []
    stage = stages["distillation"]
    address = relative_paths(f"{store.uri}/{stage.name}/{stage.digest}")
    try:
        artifact = store.find(stage.name, stage.digest)
    except StoreError:
        return [("In the store, which cannot be read there now", address)]
    if artifact is None:
        return [("Not in the store any more; they were at", address)]
    return [("In the store", f"{address}/{artifact.attempt}/{WEIGHTS}")]


def _measured(student: TaskSnapshot) -> list[str]:
    return [name for name in ("agreement", "validation_accuracy", "test_accuracy") if name in student.metrics]


def _own_number(name: str, student: TaskSnapshot) -> str:
    error = student.metrics.get(f"{name}_standard_error")
    return percent_with_error(student.metrics[name], error) if error is not None else percent(student.metrics[name])

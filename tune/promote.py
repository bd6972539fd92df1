"""Register a study's champion in MLflow, from where it loads without this project."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from hidfd.config.study_file import NAME_PATTERN, why_no_name
from hidfd.errors import ConfigError
from hidfd.formatting import relative_paths
from tune.errors import StudyError, StudyLocked
from tune.opened_study import Study
from tune.report.cautions import choice_in_words
from tune.report.champion import (
    CHAMPION,
    IN_EVAL_MODE,
    champion_of,
    input_in_words,
    load_expression,
    loss_in_words,
    numbers_in_words,
    verdict_or_why_none,
)
from tune.report.commands import tracking_address, verb_command
from tune.report.objectives import why_no_champion
from tune.report.selection import better_student, teacher_accuracy, winning_controls
from tune.study.snapshot import StudySnapshot
from tune.tracking.connection import tracking_errors
from tune.tracking.tracker import Tracker

ALIAS_PATTERN = r"(?!latest$|[vV]\d+$)[\w-]{1,255}"
"""Form of an alias; MLflow keeps `latest` and `v<number>` for versions."""


@dataclass(frozen=True)
class Promotion:
    """The champion as it is registered now.

    Attributes:
        name, version, alias: in MLflow's registry.
        is_new: whether this version was made just now; the same student is never registered twice.
        is_moved: whether the alias pointed to another version, or to none, before.
        student, digest, seed: its label, the digest of its last artifact, its seed.
        numbers: mean and spread of its setting over fresh seeds, in words.
        verdict: of the study.
        search_value, fresh_value: the objective that chose the trial, and its mean over the fresh seeds; 0 to 1.
        choice: these two in a sentence, with what the first is worth.
        teacher_validation_accuracy: of the teacher, from 0 to 1; None without labelled validation images.
        takes: input and output of the network, in words.
        load: the command that loads it; torch and MLflow are enough.
        tracking: the MLflow URI, without its password.
    """

    name: str
    version: str
    alias: str
    is_new: bool
    is_moved: bool
    student: str
    digest: str
    seed: int
    numbers: str
    verdict: str
    search_value: float | None
    fresh_value: float
    choice: str | None
    teacher_validation_accuracy: float | None
    takes: str
    load: str
    tracking: str

    def in_words(self) -> str:
        """Say what was registered, and that it is in eval mode, in one line."""
        news = "is now" if self.is_new or self.is_moved else "already was, and nothing was registered anew:"
        what = f"{self.name} version {self.version} {news} the {self.alias}: {self.student}, {self.numbers}"
        return f"{what}. {IN_EVAL_MODE}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as `--json` prints it."""
        return asdict(self)


def promote(study: Study, *, name: str | None = None, alias: str = CHAMPION, anyway: bool = False) -> Promotion:
    """Register the champion of a study, and give it an alias.

    The runs in MLflow are completed first, so that a server that was away during the study is no obstacle.

    Args:
        study: whose champion is registered.
        name: of the registered model; the study's name if None.
        alias: that is moved to the champion.
        anyway: whether to register a champion that a control has beaten, too.

    Raises:
        ConfigError: MLflow does not accept the name or the alias.
        StudyLocked: the study still runs, and its driver writes to MLflow.
        StudyError: the study has no champion (yet), or a control has beaten it by more than its seeds scatter.
        StoreError: the student or its teacher is not in the store.
        TrackingError: MLflow cannot be reached, or refuses, or what it keeps does not load.
    """
    name = study.definition.name if name is None else name
    _check_names(name, alias)
    holder = study.holder()
    if holder is not None:
        raise StudyLocked(
            f"study {study.definition.name!r} is still run by {holder}; promote its best student when that has ended"
        )
    snapshot = study.snapshot()
    champion = champion_of(snapshot)
    if champion is None:
        raise StudyError(_why_nothing_to_promote(snapshot))
    if not anyway and winning_controls(snapshot):
        raise StudyError(_why_not_worth_promoting(snapshot))
    uri = study.file.storage.tracking
    with tracking_errors(uri):
        tracker = Tracker(uri, snapshot.name, study.ledger_id())
        tracker.sync(snapshot, is_driven=False)
        registered = tracker.register(champion, snapshot, study.store, name, alias)
    return Promotion(
        name=name,
        version=registered.version,
        alias=alias,
        is_new=registered.is_new,
        is_moved=registered.is_moved,
        student=champion.student.label,
        digest=champion.student.key,
        seed=champion.student.seed,
        numbers=numbers_in_words(champion),
        verdict=verdict_or_why_none(snapshot),
        search_value=champion.row.search_value,
        fresh_value=champion.row.means[snapshot.objective],
        choice=choice_in_words(snapshot),
        teacher_validation_accuracy=teacher_accuracy(snapshot),
        takes=input_in_words(snapshot),
        load=_load_command(name, alias, snapshot.tracking),
        tracking=snapshot.tracking,
    )


def _check_names(name: str, alias: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"--name: {why_no_name(name)}")
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise ConfigError(
            f"--alias: {alias!r}; expected letters, digits, `_` and `-`, and neither `latest` nor `v` with a number, "
            f"which MLflow keeps for versions"
        )


def _why_nothing_to_promote(snapshot: StudySnapshot) -> str:
    if not snapshot.num_students:
        return (
            f"study {snapshot.name!r} compares variants and searches nothing, so it has no best student to promote; "
            f"give it `search:` parameters"
        )
    finalists = [row for row in snapshot.comparison_rows if row.role == "finalist"]
    wanted = sum(len(row.keys) for row in finalists)
    missing = why_no_champion(snapshot)
    if missing is not None:
        return (
            f"study {snapshot.name!r} has no champion: {missing}; relax them in a study of another name, or search more"
        )
    if snapshot.finished:
        return (
            f"study {snapshot.name!r} has ended without a finalist that ran to its end on every fresh seed, so there "
            f"is no student to promote; its report says why: {snapshot.folder}/report.html"
        )
    progress = f"{sum(row.num_complete for row in finalists)} of {wanted} have ended" if finalists else "none was begun"
    return (
        f"study {snapshot.name!r} has no champion yet: only a student of fresh seeds is promoted, after its controls "
        f"and the test labels, and {progress}; "
        f"the study goes on with: {relative_paths(snapshot.command)}"
    )


def _why_not_worth_promoting(snapshot: StudySnapshot) -> str:
    """Return why a champion is not registered that its controls have beaten, and what to do instead."""
    losses = winning_controls(snapshot)
    best = min(losses, key=lambda gain: gain.gain)
    student = better_student(snapshot)
    folder = "" if student is None else f", whose settings and first student are in {relative_paths(student.folder)}"
    return (
        f"study {snapshot.name!r}: {'; '.join(map(loss_in_words, losses))}, so nothing is registered. Either use "
        f"{best.other}{folder}; or search more or other settings; or register {best.name} all the same: "
        f"{verb_command('promote', snapshot)} --anyway"
    )


def _load_command(name: str, alias: str, tracking: str) -> str:
    code = f"import mlflow; student = {load_expression(name, alias)}"
    return f"MLFLOW_TRACKING_URI={shlex.quote(tracking_address(tracking))} python -i -c {shlex.quote(code)}"

"""The content of a task's run in MLflow, as plain data: settings, data sets, tags to filter by, numbers and curves.

Curves are few, so that MLflow's pages stay quick.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from hidfd.config.paths import is_section
from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from hidfd.store.disk import DAMAGE
from tune.report.objectives import constraints_in_words, missed_constraints
from tune.report.selection import generator_of
from tune.study.definition import FRESH_SEEDS
from tune.study.metrics import LATENCY
from tune.study.search_space import changed
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.points import Point, Series

FINAL_METRICS = (
    *("agreement", "agreement_standard_error", "validation_accuracy", "test_accuracy"),
    *("kl_to_teacher", "deployed_parameters", LATENCY),
    *("generator.effective_classes", "generator.label_agreement", "generator.memorisation"),
    *("generator.teacher_deviation", "judge_fid", "judge_kid"),
)
"""The final numbers that become metrics of a run."""

CURVES = (
    "teacher/cross_entropy",
    "teacher/accuracy",
    "generation/hinge_d",
    "generation/hinge_g",
    "generation/trans",
    "generation/blend",
    "generation/reg",
    "generation/teacher_agreement",
    "generation/effective_classes",
    "generation/memorisation",
    "distillation/feature",
    "distillation/total",
    "distillation/agreement",
)
"""The curves that MLflow shows; the report has all others. MLflow's comparison page is slow with many."""

TRAININGS = {
    TaskKind.COLLECTION: "teacher",
    TaskKind.GENERATOR: "generation",
    TaskKind.STUDENT: "distillation",
}
"""Kind of a task -> the stage whose curves its run shows; before the collection the teacher may be trained."""

OF_COLLECTION = ("precision", "seeds", "data", "teacher", "collection", "judge")
SECTIONS = {TaskKind.COLLECTION: OF_COLLECTION, TaskKind.GENERATOR: (*OF_COLLECTION, "generation", "synthesis")}
"""Kind of a task -> the parts of `trial:` that it depends on; every other kind depends on all."""

NUM_DIGITS_OF_DATA = 32
"""Hex digits of a sha256 that name a data set; MLflow takes at most 36."""

MAX_VALUE = 500
"""Characters of a setting that MLflow shows; of a longer one the beginning."""

IMAGES_PER_SECOND, SECONDS_LEFT = "progress/images_per_second", "progress/seconds_left"
"""Curves of a task while it trains."""


@dataclass(frozen=True)
class DataSet:
    """Images that a run reads, as MLflow names them.

    Attributes:
        role: in the trial: candidates, validation, test, synthetic or teacher_images.
        name: the last part of its path.
        digest: the beginning of its sha256.
        source_type: `local` or `s3`.
        source: its path as JSON.
    """

    role: str
    name: str
    digest: str
    source_type: str
    source: str


def settings_of(task: TaskSnapshot, snapshot: StudySnapshot) -> dict[str, str]:
    """Return the settings of a task that are searched or differ from their defaults, by dotted path, as text.

    Paths of files are left out, and parts of `trial:` on which a task of this kind does not depend.
    """
    seeds = {} if task.role == "search" else dict.fromkeys(FRESH_SEEDS, task.seed)
    try:
        config = changed(snapshot.trial, {**task.params, **seeds})
    except ConfigError:  # an older version has made it, which took other settings
        return {path: _text(value) for path, value in task.params.items()}
    found = dict(_leaves(config.model_dump(mode="json", exclude_defaults=True))) | task.params
    parts = SECTIONS.get(task.kind)
    return {path: _text(value) for path, value in found.items() if parts is None or path.split(".")[0] in parts}


def data_sets_of(config: TrialConfig) -> list[DataSet]:
    """Return the images that a trial reads, under the names and digests by which they can be found again."""
    data, train = config.data, config.teacher.train
    named = {"candidates": data.candidates, "validation": data.validation, "test": data.test}
    named |= {"synthetic": data.synthetic, "teacher_images": None if train is None else train.images}
    roles: dict[tuple[str, str], list[str]] = {}  # MLflow keeps one role of each data set
    for role, material in named.items():
        if material is not None and material.sha256 is not None:
            path = material.path or f"sha256:{material.sha256}"
            roles.setdefault((path, material.sha256[:NUM_DIGITS_OF_DATA]), []).append(role)
    return [
        DataSet(
            role=", ".join(of),
            name=path.rstrip("/").rpartition("/")[2],
            digest=digest,
            source_type="s3" if path.startswith("s3://") else "local",
            source=json.dumps({"path": path}),
        )
        for (path, digest), of in roles.items()
    ]


def origin_tags(command: str, commit: str | None) -> dict[str, str]:
    """Return tags that say where runs come from: user, command, commit of the study file, and version of this project.

    Args:
        command: that runs the study.
        commit: of the repository in which the study file lies; None where it lies in none.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a process in a container may have a number and no name
        user = f"uid {os.getuid()}"
    tags = {"mlflow.user": user, "mlflow.source.name": command, "mlflow.source.type": "LOCAL"}
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    return tags | {"hidfd.version": _version()}


def machine_tags(task: TaskSnapshot, manifest: Path) -> dict[str, str | None]:
    """Return tags that say where a task ran last: its host and, once it has ended, the device that it computed on.

    Args:
        task: that has an attempt.
        manifest: of its folder; it may not exist.
    """
    device = None
    if manifest.is_file():
        with contextlib.suppress(*DAMAGE):
            device = str(json.loads(manifest.read_text(encoding="utf-8"))["device"])
    return {"host": task.attempts[-1].node if task.attempts else None, "device": device}


def _version() -> str:
    try:
        return version("hidfd")
    except PackageNotFoundError:  # run from its source without being installed
        return "not installed"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested sections by dotted path, without paths of files and the name of the preset."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and is_section(path):
            yield from _leaves(value, f"{path}.")
        elif name != "path" and path != "preset":
            yield path, value


def _text(value: object) -> str:
    return (json.dumps(value) if isinstance(value, list | dict) else str(value))[:MAX_VALUE]


def tags_of_run(task: TaskSnapshot, snapshot: StudySnapshot) -> dict[str, str]:
    """Return the tags that a run can be filtered by, except its state."""
    tags = {"kind": task.kind.recorded_as, "role": task.role, "until": task.kind.last_stage, "seed": str(task.seed)}
    build = generator_of(task, snapshot)
    if build is not None:
        tags["generator"] = build.label
    if task.trial is not None:
        tags |= {"trial": str(task.trial), "group": str(snapshot.trials[task.trial].group)}
    return tags


def feasible_tag(task: TaskSnapshot, snapshot: StudySnapshot) -> str | None:
    """Return whether a complete student keeps the study's constraints, as a tag; None where there are none to keep."""
    if task.kind is not TaskKind.STUDENT or task.state is not TaskState.COMPLETE or not constraints_in_words(snapshot):
        return None
    return "false" if missed_constraints(task.metrics, snapshot) else "true"


def final_metrics(task: TaskSnapshot, now: float) -> Series:
    """Return a task's duration and, unless it was pruned, its final numbers: a rung is a point of its curve instead.

    Args:
        task: that has ended.
        now: seconds since 1970, the time of numbers of a task that ended without an attempt.
    """
    ended = end_of([task]) or now
    series: Series = {"seconds": [Point(len(task.attempts), task.seconds, ended)]} if task.attempts else {}
    if task.state is not TaskState.PRUNED:
        series |= {
            name: [Point(task.images, task.metrics[name], ended)] for name in FINAL_METRICS if name in task.metrics
        }
    return series


def rungs_of(task: TaskSnapshot) -> Series:
    """Return the agreement at a student's rungs, which the ledger knows even if the task's folder is gone."""
    ended = end_of([task])
    return {"distillation/agreement": [Point(rung.images, rung.value, ended) for rung in task.rungs if ended]}


def curves_of(rows: Iterable[Mapping[str, Any]], task: TaskSnapshot) -> Series:
    """Return the curves of what a task trains. Rows that somebody has damaged, and numbers that are none, are left out.

    Args:
        rows: of `metrics.jsonl`; one that lacks its time, as older ones do, has that of the next row, or of the end.
        task: whose rows they are.
    """
    wanted = [name for name in CURVES if name.startswith(f"{TRAININGS[task.kind]}/")]
    moment = end_of([task]) or time.time()
    curves: Series = {}
    for row in reversed(list(rows)):
        with contextlib.suppress(*DAMAGE):
            moment = float(row.get("unix_time") or moment)
            images = int(row["images"])
            for name in wanted:
                value = row.get(name)
                if value is not None and math.isfinite(value):
                    curves.setdefault(name, []).append(Point(images, float(value), moment))
    return {name: points[::-1] for name, points in curves.items()}


def progress_of(rows: Iterable[Mapping[str, Any]], target_images: int | None) -> Series:
    """Return the speed of a running task and the seconds that it has left, from its rows one after another.

    Args:
        rows: of one stage; those without `seconds` of training do not count.
        target_images: at which the stage ends; None where nobody knows.
    """
    series: Series = {}
    for before, row in pairwise(row for row in rows if row.get("seconds") is not None):
        images, seconds = row["images"] - before["images"], row["seconds"] - before["seconds"]
        if images <= 0 or seconds <= 0:
            continue
        step, moment, rate = int(row["images"]), float(row["unix_time"]), images / seconds
        series.setdefault(IMAGES_PER_SECOND, []).append(Point(step, rate, moment))
        if target_images is not None:
            left = max(0.0, (target_images - step) / rate)
            series.setdefault(SECONDS_LEFT, []).append(Point(step, left, moment))
    return series


def end_of(tasks: Iterable[TaskSnapshot]) -> float | None:
    """Return the end of the last attempt at one of these tasks, in seconds since 1970; None where none has ended."""
    return max((attempt.ended or 0.0 for task in tasks for attempt in task.attempts), default=0.0) or None

"""The content of a task's run in MLflow: tags to filter by, final numbers and curves; few, so that pages stay quick."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hidfd.store.disk import DAMAGE
from tune.report.objectives import constraints_in_words, missed_constraints
from tune.report.selection import generator_of
from tune.study.metrics import LATENCY
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState

Series = dict[str, list[tuple[int, float]]]
"""Name of a metric -> its points, each of a step and a value."""

FINAL_METRICS = (
    *("agreement", "agreement_standard_error", "validation_accuracy", "test_accuracy"),
    *("kl_to_teacher", "deployed_parameters", LATENCY),
    *("generator.effective_classes", "generator.label_agreement", "generator.memorisation"),
    *("generator.teacher_deviation", "judge_fid", "judge_kid"),
)
"""The final numbers that become metrics of a run."""

CURVES = (
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


def final_metrics(task: TaskSnapshot) -> Series:
    """Return a task's duration and, unless it was pruned, its final numbers: a rung is a point of its curve instead."""
    series: Series = {"seconds": [(0, task.seconds)]}
    if task.state is not TaskState.PRUNED:
        series |= {name: [(task.images, task.metrics[name])] for name in FINAL_METRICS if name in task.metrics}
    return series


def curves_of(path: Path, kind: TaskKind) -> Series:
    """Return the curves in a trial folder: of the distillation for a student's run, of the generation for a build's.

    Args:
        path: of `metrics.jsonl`; it may not exist, and a damaged one counts as far as it is readable.
        kind: of the task.
    """
    if not path.is_file():
        return {}
    wanted = [name for name in CURVES if name.startswith("distillation/") == (kind is TaskKind.STUDENT)]
    curves: Series = {}
    with contextlib.suppress(*DAMAGE):
        for line in path.read_text(encoding="utf-8").splitlines():
            row: dict[str, Any] = json.loads(line)
            for name in wanted:
                if row.get(name) is not None:
                    point = (int(row["images"]), float(row[name]))
                    curves.setdefault(name, []).append(point)
    return curves

"""What of a task its run in MLflow shows: tags to filter by, final numbers, curves. Few, and well-named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tune.report.objectives import constraints_in_words, missed
from tune.report.summary import generator_of
from tune.study.metrics import LATENCY
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState

Series = dict[str, list[tuple[int, float]]]
"""Metric -> (step, value)."""

SHOWN = (
    *("agreement", "agreement_standard_error", "validation_accuracy", "test_accuracy"),
    *("kl_to_teacher", "deployed_parameters", LATENCY),
    *("generator.effective_classes", "generator.label_agreement", "generator.memorisation"),
)
"""Final numbers that become metrics of a run."""

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
"""Curves that MLflow shows; every other one stands in the report. Few, because its comparison page is slow."""


def tags_of_run(task: TaskSnapshot, snapshot: StudySnapshot) -> dict[str, str]:
    """What a run can be filtered by, its state apart."""
    tags = {"kind": task.kind.recorded_as, "role": task.role, "until": task.kind.last_stage, "seed": str(task.seed)}
    build = generator_of(task, snapshot)
    if build is not None:
        tags["generator"] = build.label
    if task.trial is not None:
        tags |= {"trial": str(task.trial), "group": str(snapshot.trials[task.trial].group)}
    return tags


def feasible_tag(task: TaskSnapshot, snapshot: StudySnapshot) -> str | None:
    """Whether a student that came to its end keeps the study's constraints; None where there is nothing to keep."""
    if task.kind is not TaskKind.STUDENT or task.state is not TaskState.COMPLETE or not constraints_in_words(snapshot):
        return None
    return "false" if missed(task.metrics, snapshot) else "true"


def final_metrics(task: TaskSnapshot) -> Series:
    """A pruned student has none: its last rung is no result, and stands in its curve."""
    found = {name: [(task.images, task.metrics[name])] for name in SHOWN if name in task.metrics}
    return {"seconds": [(0, task.seconds)]} | ({} if task.state is TaskState.PRUNED else found)


def curves_of(path: Path, kind: TaskKind) -> Series:
    """Curves of a trial folder; a student's run shows the student's own, a build's the generator's."""
    if not path.is_file():
        return {}
    wanted = [name for name in CURVES if name.startswith("distillation/") == (kind is TaskKind.STUDENT)]
    curves: Series = {}
    for line in path.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        for name in wanted:
            if row.get(name) is not None:
                curves.setdefault(name, []).append((int(row["images"]), float(row[name])))
    return curves

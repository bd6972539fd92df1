"""What a study will have built when it is over, and what of it stands already. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hidfd.config import TrialConfig
from hidfd.costs import Costs
from hidfd.stages import Stage, plan
from hidfd.store import Store
from tune.comparison import controls_of
from tune.definition import Definition
from tune.state import StudyState

SHOWN = ("teacher", "collection", "generation", "distillation")
"""Stages that a plan counts; the others cost next to nothing beside them."""


@dataclass(frozen=True)
class Row:
    """One kind of artifact.

    Attributes:
        what: stage.
        count: how many the study asks for, at most.
        built: how many of them stand in the store.
        seconds_each: expected, None where that is not counted.
    """

    what: str
    count: int
    built: int
    seconds_each: float | None


def forecast_of(state: StudyState, store: Store, costs: Costs) -> list[Row]:
    """One row per stage that the study needs.

    Args:
        state: as far as the study is.
        store: where artifacts stand.
        costs: what they are expected to take.
    """
    known: dict[str, dict[str, Stage]] = {name: {} for name in SHOWN}
    example: dict[str, Stage] = {}
    for config in _configs(state):
        for stage in plan(config).values():
            if stage.name in known:
                known[stage.name][stage.digest] = stage
                example.setdefault(stage.name, stage)
    unseen = _unseen(state)
    rows = []
    for name in SHOWN:
        built = sum(store.find(name, digest) is not None for digest in known[name])
        count = len(known[name]) + unseen.get(name, 0)
        if count:
            stage = example.get(name) or plan(state.definition.base)[name]
            rows.append(Row(name, count, built, costs.seconds(stage)))
    return rows


def _configs(state: StudyState) -> Iterator[TrialConfig]:
    """Of everything that is certain by now."""
    for work in state.works.values():
        yield work.piece.config
    for row in state.rows:
        yield from row.configs


def _unseen(state: StudyState) -> dict[str, int]:
    """Stage -> how many will come on top: suggestions not made yet, and the comparison after the search."""
    definition = state.definition
    students = state.limit - len(state.suggestions)
    groups = max(0, _num_groups(definition) - len({suggestion.group for suggestion in state.suggestions}))
    counts = {"distillation": students, "generation": 0, "collection": 0, "teacher": 0}
    if definition.base.uses_generator:
        counts["generation"] = groups
    if definition.limit and not any(row.role == "finalist" for row in state.rows):
        seeds = len(definition.study.seeds)
        counts["distillation"] += seeds * (1 + len(controls_of(definition, definition.base)))
        counts["generation"] += seeds * definition.base.uses_generator
    if not state.works:
        counts |= {"collection": 1, "teacher": 1}
    if any(path.startswith("collection.") for path in definition.space.upstream):
        counts["collection"] = groups
    return counts


def _num_groups(definition: Definition) -> int:
    if not definition.space.upstream or not definition.limit:
        return min(1, definition.limit)
    return math.ceil(definition.limit / definition.students_per_generator)

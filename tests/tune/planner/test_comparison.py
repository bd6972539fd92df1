"""Comparison rows, and how agreement ranks students: numbers that one can follow with pencil and paper."""

import math
from typing import Any

import pytest

from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.planner.comparison import controls_of, kendall_tau, rank_agreement, summarise
from tune.study.states import TaskState
from tune.study.task import Outcome, Task


@pytest.mark.parametrize(
    ("groups", "tau"),
    [
        ([[(1, 1), (2, 2), (3, 3)]], 1.0),
        ([[(1, 3), (2, 2), (3, 1)]], -1.0),
        ([[(1, 1), (2, 3), (3, 2)]], 1 / 3),  # two pairs agree, one does not
        ([[(1, 1), (1, 2), (2, 3)]], 2 / math.sqrt(2 * 3)),  # a tie on one side
        ([[(1, 1), (1, 2), (1, 3)]], None),
        ([[(1, 2), (2, 1)], [(11, 12), (12, 11)]], -1.0),  # as one group: four of six pairs agree
        ([], None),
    ],
)
def test_kendall_tau_by_hand(groups: list[list[tuple[float, float]]], tau: float | None) -> None:
    assert kendall_tau(groups) == (None if tau is None else pytest.approx(tau))


def students(accuracies: dict[str, list[tuple[float, float]]], **study: Any) -> list[Task]:
    """Complete students: variant -> (agreement, validation accuracy) on each seed."""
    variants = {
        "hybrid": {},
        "real-only": {"synthesis.num_images": 0},
        "own-head": {"distillation.head": "own", "distillation.feature_weight": 0.0, "distillation.kl_weight": 1.0},
        "small": {"collection.num_images": 50},
    }
    state = World().planner(definition({"variants": variants, "seeds": [1, 2]} | study, search={})).state
    for row in state.comparison_rows:
        for key, (agreement, accuracy) in zip(row.keys, accuracies.get(row.name, []), strict=False):
            metrics = {"agreement": agreement, "validation_accuracy": accuracy}
            state.tasks[key].outcome = Outcome(TaskState.COMPLETE, None, metrics)
    return list(state.tasks.values())


def test_rank_agreement_pairs_students_of_one_kind_only() -> None:
    apart = {
        "hybrid": [(0.90, 0.91), (0.91, 0.90)],
        "real-only": [(0.80, 0.81), (0.81, 0.80)],
        "own-head": [(0.70, 0.71), (0.71, 0.70)],
        "small": [(0.60, 0.61), (0.61, 0.60)],
    }
    assert rank_agreement(students(apart)) == (-1.0, 8), "whatever the distance between kinds suggests"


def test_rank_agreement_needs_three_students_that_have_company() -> None:
    assert rank_agreement(students({"hybrid": [(0.9, 0.9), (0.8, 0.8)], "small": [(0.7, 0.7)]})) == (None, 2)
    assert rank_agreement(students({name: [(0.5, 0.5)] for name in ("hybrid", "real-only", "small")})) == (None, 0)


def test_row_is_summed_up_over_what_has_ended() -> None:
    world = World()
    planner = world.planner(definition({"variants": {"a": {}}, "seeds": [1, 2]}, search={}))
    run_local(planner, world.execute)
    (found,) = planner.state.comparison_rows
    first, second = (planner.state.tasks[key] for key in found.keys)
    assert first.outcome is not None
    assert second.outcome is not None
    values = [first.outcome.metrics["agreement"], second.outcome.metrics["agreement"]]
    summary = summarise(found, planner.state.tasks, planner.state.definition.study)
    assert summary.num_complete == 2
    assert summary.means["agreement"] == pytest.approx(sum(values) / 2)
    assert summary.deviations["agreement"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    second.outcome = Outcome(TaskState.FAILED, "out of memory")
    summary = summarise(found, planner.state.tasks, planner.state.definition.study)
    assert (summary.num_complete, summary.deviations) == (1, {})
    assert summary.means["agreement"] == values[0]
    assert summary.values["agreement"] == (values[0], None), "each number stays with its seed"


def test_controls_are_those_that_make_sense_beside_a_trial() -> None:
    study = definition()
    hybrid = study.base
    assert list(controls_of(study, hybrid)) == ["real-only", "synthetic-only", "plain-kd"]
    synthetic = study.with_seed({"distillation.inflation": 0.0}, 1)
    assert list(controls_of(study, synthetic)) == ["plain-kd"]


def test_real_only_control_has_its_own_values_instead_of_those_of_the_best_trial() -> None:
    own = {"distillation.crop_scale_min": 0.3, "distillation.learning_rate": 0.2}
    search = {
        "distillation.learning_rate": {"type": "categorical", "choices": [0.01, 0.1]},
        "distillation.momentum": {"type": "categorical", "choices": [0.5, 0.8]},
    }
    study = definition({"num_students": 2, "controls": {"real_only_values": own}}, search=search)
    world = World()
    planner = world.planner(study)
    run_local(planner, world.execute)
    rows = {row.name: row for row in planner.state.comparison_rows}
    real_only, hybrid = rows["real-only"].configs[0].distillation, rows["hybrid"].configs[0].distillation
    assert (real_only.crop_scale_min, real_only.learning_rate) == (0.3, 0.2)
    assert real_only.momentum == hybrid.momentum, "all else is the best trial's"
    assert (hybrid.crop_scale_min, rows["synthetic-only"].configs[0].distillation.crop_scale_min) == (0.08, 0.08)

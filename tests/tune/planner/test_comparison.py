"""Comparison rows and the verdict: numbers that one can follow with pencil and paper."""

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.planner.comparison import controls_of, kendall_tau, rank_agreement, summarise, verdict_of
from tune.study.snapshot import RowSnapshot
from tune.study.states import Role, TaskState
from tune.study.task import Outcome, Task


def row(name: str, role: Role, mean: float, deviation: float = 0.0, *, n: int = 1, wanted: int = 0) -> RowSnapshot:
    metrics = {"agreement": mean + 0.5, "validation_accuracy": mean}
    deviations = {"validation_accuracy": deviation, "agreement": deviation} if n > 1 else {}
    keys = tuple(f"{name}-{number}" for number in range(wanted or n))
    return RowSnapshot(name, role, {}, keys, n, metrics, deviations)


def test_verdict_on_one_seed_has_the_sign_of_the_gain_and_no_error() -> None:
    rows = [row("hybrid", "finalist", 0.80), row("real-only", "control", 0.75), row("plain-kd", "control", 0.82)]
    assert verdict_of(rows, "agreement") == (
        "hybrid +5.0 over real-only, -2.0 over plain-kd (n = 1): validation accuracy 80.0 % against 75.0, 82.0; "
        "one seed decides nothing, seeds differ by 1-2 points: --seeds 3 says more"
    )


def test_verdict_on_three_seeds_has_an_error_and_says_what_cannot_be_told_apart() -> None:
    rows = [
        row("hybrid", "finalist", 0.80, 0.03, n=3),
        row("real-only", "control", 0.70, 0.04, n=3),  # 10 points, +- sqrt(9 + 16) / sqrt(3) = 2.9
        row("plain-kd", "control", 0.81, 0.04, n=3),
    ]
    assert verdict_of(rows, "agreement") == (
        "hybrid +10.0 over real-only ± 2.9, -1.0 over plain-kd ± 2.9 (not separable) (n = 3): "
        "validation accuracy 80.0 % against 70.0, 81.0"
    )


def test_verdict_says_whether_the_winner_can_be_told_from_the_second() -> None:
    def verdict(second: float) -> str:
        rows = [
            row("trial-4", "finalist", 0.60, 0.01, n=3),
            row("trial-2", "finalist", 0.80, 0.03, n=3),
            row("trial-7", "finalist", second, 0.04, n=3),
            row("real-only", "control", 0.70, 0.04, n=3),
        ]
        return verdict_of(rows, "agreement") or ""

    assert verdict(0.79).startswith(
        "trial-2 +1.0 over trial-7 ± 2.9 (not separable), +10.0 over real-only ± 2.9 (n = 3)"
    )
    assert verdict(0.72).startswith("trial-2 +8.0 over trial-7 ± 2.9, +10.0 over real-only ± 2.9 (n = 3)")


def test_verdict_without_controls_is_about_the_second() -> None:
    rows = [row("trial-2", "finalist", 0.8, 0.01, n=3), row("trial-5", "finalist", 0.7, 0.02, n=3)]
    verdict = verdict_of(rows, "agreement")
    assert verdict is not None
    assert verdict.startswith("trial-2 +10.0 over trial-5 ± 1.3 (n = 3): ")
    assert verdict.endswith("80.0 % against 70.0")
    assert verdict_of(rows[:1], "agreement") is None


def test_no_verdict_before_every_seed_has_a_number() -> None:
    finalist, control = row("hybrid", "finalist", 0.8), row("real-only", "control", 0.7)
    assert verdict_of([finalist, row("real-only", "control", 0.7, wanted=2)], "agreement") is None
    assert verdict_of([row("hybrid", "finalist", 0.8, wanted=2), control], "agreement") is None
    assert verdict_of([control], "agreement") is None
    assert verdict_of([finalist, row("small", "variant", 0.7)], "agreement") is None


def test_verdict_repeats_the_accuracy_of_the_teacher() -> None:
    rows = [
        replace(found, means=found.means | {"teacher_validation_accuracy": 0.912})
        for found in (row("hybrid", "finalist", 0.8), row("real-only", "control", 0.75))
    ]
    assert "validation accuracy 80.0 % against 75.0; the teacher's is 91.2 %" in (verdict_of(rows, "agreement") or "")


def test_verdict_without_labels_is_about_the_objective() -> None:
    rows = [
        replace(found, means={"agreement": found.means["agreement"] - 0.5})
        for found in (row("hybrid", "finalist", 0.8), row("real-only", "control", 0.75))
    ]
    assert (verdict_of(rows, "agreement") or "").startswith("hybrid +5.0 over real-only (n = 1): agreement 80.0 %")


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


def test_controls_are_those_that_make_sense_beside_a_trial() -> None:
    study = definition()
    hybrid = study.base
    assert list(controls_of(study, hybrid)) == ["real-only", "synthetic-only", "plain-kd"]
    synthetic = study.with_seed({"distillation.inflation": 0.0}, 1)
    assert list(controls_of(study, synthetic)) == ["plain-kd"]

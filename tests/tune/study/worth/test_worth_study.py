"""A study that asks when a generator pays, from its file to its answer, in a world without torch."""

import math
from dataclasses import replace
from typing import Any

import pytest

from hidfd.errors import ConfigError
from tests.tune.world import definition, run
from tests.tune.worth_world import WORTH, WorthWorld, shown
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.messages import TaskFailed
from tune.study.states import TaskKind
from tune.study.task import Task


def test_each_budget_has_a_student_of_either_kind_on_every_seed_over_one_generator_for_each_seed() -> None:
    world = WorthWorld()
    planner = run(definition(WORTH, search={}), world)
    students = [task for task in planner.state.tasks.values() if task.spec.kind is TaskKind.STUDENT]
    generators = [task for task in planner.state.tasks.values() if task.spec.kind is TaskKind.GENERATOR]
    assert len(generators) == 3
    assert len(students) == 3 * (2 + 2 + 1)
    assert {task.role for task in students} == {"worth"}
    _, worth = shown(planner)
    names = [budget.name for budget in worth.budgets]
    longest = worth.budgets[-1].steps
    assert names == [
        *("hybrid-20-steps", "hybrid-80-steps", "real-only-20-steps", "real-only-80-steps"),
        f"real-only-{longest}-steps",
    ]
    by_name = {row.name: row for row in planner.state.comparison_rows}
    assert by_name["hybrid-80-steps"].configs[0].distillation.target_images == 80 * 64
    operations = {
        name: sum(planner.state.tasks[key].spec.operations for key in (*needs(planner, row.keys[0]), row.keys[0]))
        for name, row in by_name.items()
    }
    assert operations[names[-1]] == pytest.approx(1.5 * operations["hybrid-80-steps"], rel=0.01)


def needs(planner: Planner, key: str) -> list[str]:
    """The keys of a student's generator, if it has one."""
    tasks = planner.state.tasks
    return [need for need in tasks[key].spec.needs if tasks[need].spec.kind is TaskKind.GENERATOR]


def test_cost_counts_the_whole_generator_for_each_hybrid_student_and_the_answer_compares_at_equal_cost() -> None:
    snapshot, worth = shown(run(definition(WORTH, search={}), WorthWorld()))
    costs = [budget.costs[0] for budget in worth.budgets]
    assert costs[:4] == pytest.approx([30 + 12.8, 30 + 51.2, 12.8, 51.2])
    first, second = (budget.difference for budget in worth.budgets[:2])
    assert first is not None
    assert first.mean is not None
    between = math.log(42.8 / 12.8) / math.log(51.2 / 12.8)
    real_only = 0.3 + 0.1 * (math.log10(20) + between * math.log10(4))
    noise = sum(0.001 * math.sin(seed) for seed in (1, 2, 3)) / 3
    assert first.mean == pytest.approx(0.28 - real_only - noise)
    assert second is not None
    assert second.mean is not None
    assert second.mean > 0 > first.mean
    assert worth.unit == "CPU-seconds"
    assert worth.metric == "validation_accuracy"
    assert worth.answer is not None
    assert worth.answer.startswith("a generator pays from ")
    assert worth.answer.endswith("n = 3")
    assert not worth.notes
    assert snapshot.comparison_rows == (), "the table of variants and controls has other rows"
    assert snapshot.rank_agreement_count == 0
    plain = snapshot.to_json()["worth"]
    assert plain["answer"] == worth.answer
    assert plain["budgets"][0]["difference"]["mean"] == first.mean
    free = worth.budgets[0].at_equal_steps
    assert free is not None, "as if the generator cost nothing"
    assert free.mean == pytest.approx(0.28 - (0.3 + 0.1 * math.log10(20)) - noise)
    assert plain["budgets"][0]["at_equal_steps"]["mean"] == free.mean
    assert all(budget.at_equal_steps is None for budget in worth.budgets if budget.arm == "real-only")


def test_real_only_has_its_own_values() -> None:
    own = {"distillation.crop_scale_min": 0.3}
    planner = run(definition({**WORTH, "controls": {"real_only_values": own}}, search={}), WorthWorld())
    scales = {
        row.name.rpartition("-steps")[0]: row.configs[0].distillation.crop_scale_min
        for row in planner.state.comparison_rows
    }
    assert {scale for name, scale in scales.items() if name.startswith("real-only")} == {0.3}
    assert {scale for name, scale in scales.items() if name.startswith("hybrid")} == {0.08}


def test_on_gpus_the_cost_is_in_gpu_seconds_of_all_workers() -> None:
    study = replace(definition(WORTH, search={}), resources={"cpus": 4.0, "gpus": 0.5, "workers": 2.0})
    _, worth = shown(run(study, WorthWorld()))
    assert worth.unit == "GPU-seconds"
    assert worth.budgets[2].costs == pytest.approx((12.8,) * 3)


def test_unknown_cost_is_said_and_not_guessed() -> None:
    def seconds(task: Task) -> float | None:
        unknown = task.spec.kind is TaskKind.GENERATOR and task.spec.config.seeds.generation == 2
        return None if unknown else WorthWorld.build_seconds(task)

    _, worth = shown(run(definition(WORTH, search={}), WorthWorld(build_seconds=seconds)))
    assert worth.budgets[0].costs == (pytest.approx(42.8), None, pytest.approx(42.8))
    assert worth.budgets[0].difference is not None
    assert worth.budgets[0].cost == pytest.approx(42.8), "the work is the same on each seed"
    assert "hybrid-20-steps: the cost of 1 student of 3 is not known" in worth.notes


def test_a_machine_that_was_slow_for_one_student_leaves_no_seed_out() -> None:
    def seconds(task: Task) -> float | None:
        is_slow = task.label == "hybrid-80-steps-seed2"
        return (WorthWorld.build_seconds(task) or 0.0) * (3.0 if is_slow else 1.0)

    _, worth = shown(run(definition(WORTH, search={}), WorthWorld(build_seconds=seconds)))
    assert worth.budgets[1].costs[1] == pytest.approx(30 + 153.6)
    assert (worth.budgets[-1].cost or 0.0) < 30 + 153.6
    assert worth.budgets[1].difference is not None
    assert worth.budgets[1].difference.num_seeds == 3


def test_failed_student_is_left_out_and_said() -> None:
    world = WorthWorld(failing=lambda task: TaskFailed("no disk") if task.label == "hybrid-20-steps-seed2" else None)
    _, worth = shown(run(definition(WORTH, search={}), world))
    assert worth.budgets[0].num_complete == 2
    assert worth.answer is not None
    assert "n = 2 to 3" in worth.answer
    assert "hybrid-20-steps: no number of 1 student of 3" in worth.notes


def test_budget_dearer_than_what_real_only_was_measured_at_is_left_out_and_said() -> None:
    def seconds(task: Task) -> float | None:
        return 1000.0 if task.spec.kind is TaskKind.GENERATOR else WorthWorld.build_seconds(task)

    _, worth = shown(run(definition(WORTH, search={}), WorthWorld(build_seconds=seconds)))
    assert worth.answer is not None
    assert "no budget of hybrid could be compared" in worth.answer
    assert any(note.startswith("hybrid-80-steps is left out: it costs 1,051 CPU-seconds") for note in worth.notes)


def test_there_is_no_answer_before_the_last_student_has_ended() -> None:
    planner = WorthWorld().planner(definition(WORTH, search={}))
    assert shown(planner)[1].answer is None


def test_worth_beside_a_search_and_variants_changes_neither() -> None:
    study = {"num_students": 3, "variants": {"narrow": {"generation.width": 4}}, "seeds": [11, 12]}
    alone = run(definition(study), WorthWorld())
    both = run(definition({**study, "worth": [20, 80]}), WorthWorld())
    assert snapshot_of(both.state).comparison_rows == snapshot_of(alone.state).comparison_rows
    assert snapshot_of(both.state).gains == snapshot_of(alone.state).gains
    assert shown(both)[1].answer is not None


def test_a_study_goes_on_with_further_budgets() -> None:
    assert definition({"worth": [20, 80]}).identity() == definition().identity()
    world = WorthWorld()
    run(definition({**WORTH, "worth": [20]}, search={}), world)
    built = set(world.built)
    planner = run(definition(WORTH, search={}), world)
    assert set(world.built.values()) == {1}, "what was built is not built again"
    assert len(set(world.built) - built) > 0
    assert len(shown(planner)[1].budgets) == 5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"synthesis": {"num_images": 0}}, "it trains none"),
        ({"distillation": {"inflation": 0.0}}, "its students see no real images"),
    ],
)
def test_trial_without_a_generator_beside_real_images_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"study\.worth: asks when the generator .* pays.*{reason}"):
        definition({"worth": [20]}, search={}, **values)


def test_given_synthetic_images_are_refused() -> None:
    data = definition().base.data.model_dump() | {"synthetic": {"sha256": "e" * 64}}
    with pytest.raises(ConfigError, match=r"study\.worth: .*its synthetic images are given"):
        definition({"worth": [20]}, search={}, data=data)


def test_budgets_are_distinct_and_ascend_and_variants_have_other_names() -> None:
    for budgets in ([80, 20], [20, 20]):
        with pytest.raises(ValueError, match="ascending order, none of them twice"):
            definition({"worth": budgets}, search={})
    with pytest.raises(ConfigError, match=r"study\.variants\.hybrid-20-steps: study\.worth has a row of that name"):
        definition({"worth": [20], "variants": {"hybrid-20-steps": {}}}, search={})

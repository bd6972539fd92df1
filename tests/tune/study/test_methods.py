"""Studies of methods: rows share what they can, older studies stay the same, and what makes no sense is refused."""

from pathlib import Path
from typing import Any

import pytest

from hidfd.errors import ConfigError
from hidfd.pipeline.graph import OTHER_METHODS, STAGE_NAMES, VERSIONS
from hidfd.store.store import Store
from tests.tune.world import World, definition, run, trial
from tune.planner.budget import Pace
from tune.planner.comparison import controls_of, summarise, variant_rows
from tune.planner.forecast import forecast_of
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import define, restore_definition
from tune.study.search_space import build_space
from tune.study.states import TaskKind, TaskState
from tune.study.task import task_specs, upstream_key
from tune.study.worth.budgets import problems_of_worth

VARIANTS: dict[str, dict[str, Any]] = {
    "hidfd": {},
    "real-only": {"synthesis.num_images": 0},
    **{method: {"method": method} for method in OTHER_METHODS},
}


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_a_trial_of_another_method_has_a_collection_and_a_student_and_no_generator_task(method: str) -> None:
    specs = task_specs(trial(method=method))
    assert [spec.kind for spec in specs] == [TaskKind.COLLECTION, TaskKind.STUDENT]
    assert upstream_key(trial(method=method)) == specs[0].key == task_specs(trial())[0].key
    assert specs[-1].costs_like == (TaskKind.STUDENT, method)
    assert specs[0].costs_like == task_specs(trial())[0].costs_like
    assert task_specs(trial())[-1].costs_like == (TaskKind.STUDENT, "hidfd")


def test_a_table_of_methods_is_one_study_of_variants() -> None:
    study = definition({"variants": VARIANTS, "seeds": [1, 2]}, search={})
    world = World()
    planner = run(study, world)
    rows = [summarise(row, planner.state.tasks, study.study) for row in planner.state.comparison_rows]
    assert [row.name for row in rows] == list(VARIANTS)
    assert all(row.num_complete == 2 for row in rows)
    kinds = [task.spec.kind for task in planner.state.tasks.values()]
    assert kinds.count(TaskKind.GENERATOR) == 2, "one for each seed of HiDFD, none for the others"
    assert kinds.count(TaskKind.STUDENT) == 10
    assert all(task.outcome and task.outcome.state is TaskState.COMPLETE for task in planner.state.tasks.values())
    assert set(world.built.values()) == {1}


def test_identity_of_a_study_without_other_methods_is_what_it_was() -> None:
    before, searched = definition().identity(), definition(dafl={"width": 8}, cmi={"width": 8}).identity()
    assert before == searched
    assert before["stage_versions"].keys() == set(STAGE_NAMES)
    assert not {"method", *OTHER_METHODS} & before["trial"].keys()


def test_identity_of_a_study_holds_the_methods_that_it_uses() -> None:
    study = definition({"variants": {"dafl": {"method": "dafl"}}}, search={}, dafl={"width": 8}, cmi={"width": 8})
    identity = study.identity()
    assert identity["stage_versions"].keys() == {*STAGE_NAMES, "dafl"}
    assert identity["stage_versions"]["dafl"] == VERSIONS["dafl"]
    assert identity["trial"]["dafl"]["width"] == 8
    assert "cmi" not in identity["trial"]
    restored = restore_definition("s", identity, None, study.folder)
    assert [row.keys for row in variant_rows(restored)] == [row.keys for row in variant_rows(study)]
    assert definition(method="cmi", search={"cmi.width": {"type": "int", "low": 8, "high": 16}}).methods == {"cmi"}


def test_methods_are_no_parameter_of_a_search() -> None:
    search = SearchConfig.model_validate({"method": {"type": "categorical", "choices": ["hidfd", "dafl"]}})
    with pytest.raises(
        ConfigError, match=r"^search\.method: cannot be searched: .*compare methods in `study.variants`"
    ):
        build_space(search, StudyConfig(), trial())


def searched(path: str, low: float, high: float, **values: Any) -> Any:
    search = SearchConfig.model_validate({path: {"type": "float", "low": low, "high": high}})
    return build_space(search, StudyConfig(), trial(**values))


def test_a_method_is_searched_over_its_own_settings_alone() -> None:
    assert set(searched("dafl.entropy_weight", 1, 9, method="dafl").downstream) == {"dafl.entropy_weight"}
    for path, values in (
        ("dafl.entropy_weight", {}),
        ("dafl.entropy_weight", {"method": "cmi"}),
        ("distillation.inflation", {"method": "dafl"}),
        ("generation.smoothing.temperature", {"method": "dfnd"}),
        ("distillation.crop_scale_min", {"method": "dafl"}),
    ):
        with pytest.raises(ConfigError, match="does not change any result of this trial"):
            searched(path, 0.2 if "crop" in path else 1, 0.9 if "crop" in path else 9, **values)


def test_a_fresh_seed_for_every_generator_needs_one() -> None:
    search = SearchConfig.model_validate(
        {"seeds.generation": {"type": "fresh_seed"}, "cmi.class_weight": {"type": "float", "low": 0.1, "high": 1.0}}
    )
    with pytest.raises(ConfigError, match="this trial has no generator that could get a fresh seed"):
        build_space(search, StudyConfig(), trial(method="cmi"))


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_when_a_generator_pays_is_asked_of_hidfd_alone(method: str) -> None:
    study = StudyConfig.model_validate({"worth": [100, 200]})
    (problem,) = problems_of_worth(study, trial(method=method))
    assert f"its method trains none that is stored (trial.method: {method})" in problem


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_controls_of_another_method_are_those_that_exist_for_it(method: str) -> None:
    study = definition(
        method=method, search={"distillation.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}}
    )
    assert list(controls_of(study, study.base)) == ["plain-kd"]


@pytest.mark.parametrize("how", ["base", "variant"])
def test_several_processes_are_refused_before_anything_starts(how: str) -> None:
    resources = {"cpus": 1.0, "gpus": 0.0, "workers": 2.0}
    study = StudyConfig.model_validate({"variants": {"a": {"method": "cmi"} if how == "variant" else {}}})
    base = trial(method="cmi") if how == "base" else trial()
    folder = definition().folder
    with pytest.raises(ConfigError, match=r"trial\.method: cmi trains on one process, found 2; start one \(in a study"):
        define("s", study, SearchConfig.model_validate({}), base, folder, resources=resources)


def test_forecast_of_a_table_of_methods_counts_a_generator_for_each_seed_of_hidfd(tmp_path: Path) -> None:
    study = definition({"variants": VARIANTS, "seeds": [1, 2, 3]}, search={})
    planner = World().planner(study)
    planner.state.apply_outcomes()
    forecast = forecast_of(planner.state, Store.open(tmp_path / "store"))
    counts = {row.what: row.count for row in forecast.rows}
    assert counts == {"teacher": 1, "collection": 1, "generation": 3, "distillation": 15}
    assert (forecast.num_generators, forecast.num_users) == (3, 3)


def test_pace_of_one_method_says_nothing_of_another_whose_own_is_known() -> None:
    dafl, hidfd, cmi = (task_specs(trial(**values))[-1] for values in ({"method": "dafl"}, {}, {"method": "cmi"}))
    pace = Pace()
    pace.learn(dafl, 2e-9 * dafl.operations)
    pace.learn(hidfd, 1e-9 * hidfd.operations)
    assert pace.seconds(dafl) == pytest.approx(2e-9 * dafl.operations)
    assert pace.seconds(hidfd) == pytest.approx(1e-9 * hidfd.operations)
    both = 2e-9 * dafl.operations + 1e-9 * hidfd.operations
    assert pace.seconds(cmi) == pytest.approx(both / (dafl.operations + hidfd.operations) * cmi.operations)

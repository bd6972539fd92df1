from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hidfd.config.study_file import load
from hidfd.errors import ConfigError
from tests.tune.world import definition, trial
from tune.study.config import FloatParameter, SearchConfig, StudyConfig
from tune.study.definition import define
from tune.study.search_space import build_space, changed


def build(search: dict[str, Any], **study: Any) -> Any:
    return build_space(SearchConfig.model_validate(search), StudyConfig.model_validate(study), trial())


def number(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high} | more


def test_parameters_are_sorted_by_whether_they_change_the_generator() -> None:
    space = build(
        {
            "distillation.inflation": number(1, 20),
            "generation.discriminator_learning_rate": number(1e-4, 1e-3, log=True),
            "collection.num_images": {"type": "int", "low": 50, "high": 100},
            "distillation.learning_rate": number(0.01, 0.1),
            "synthesis.num_images": {"type": "int", "low": 100, "high": 400},
        }
    )
    assert set(space.upstream) == {
        "generation.discriminator_learning_rate",
        "collection.num_images",
        "synthesis.num_images",
    }
    assert set(space.downstream) == {"distillation.inflation", "distillation.learning_rate"}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"generation.smoothing.temprature": number(1, 2)}, r"did you mean trial\.generation\.smoothing\.temperature"),
        ({"generation.smoothing.temperature": number(0.01, 2)}, r"0\.01 is not allowed there: .*greater than or equal"),
        ({"generation.smoothing.temperature": number(1, 200)}, r"200\.0 is not allowed there"),
        ({"generation.latent_dim": number(1.5, 2.5)}, r"1\.5 is not allowed there"),
        ({"generation.width": number(8.0, 16.0)}, r"the field takes int"),
        ({"distillation.head": {"type": "categorical", "choices": ["shared", "mine"]}}, r"'mine' is not allowed"),
        ({"distillation.architecture": {"type": "categorical", "choices": ["resnet9"]}}, r"unknown architecture"),
        ({"distillation.zzz": number(1, 2)}, r"known in trial\.distillation: architecture, width"),
        ({"seeds.generation": {"type": "int", "low": 0, "high": 9}}, r"cannot be searched"),
        ({"data.image_size_pixels": {"type": "int", "low": 28, "high": 32}}, r"cannot be searched"),
        ({"collection.holdout_images": {"type": "int", "low": 100, "high": 200}}, r"the hold-out is what students"),
        ({"generation.grid_every_images": {"type": "int", "low": 100, "high": 200}}, r"does not change any result"),
        ({"distillation.kl_temperature": number(1, 4)}, r"does not change any result"),
        ({"distillation.target_images": {"type": "int", "low": 64, "high": 640}}, r"ASHA compares students"),
    ],
)
def test_impossible_search_is_one_clear_error(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(search)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"generation.widht": number(1, 2), "distillation.inflaton": number(1, 2)})
    assert "generation.width" in str(caught.value)
    assert "distillation.inflation" in str(caught.value)


def test_parameter_that_another_one_switches_on_is_allowed() -> None:
    space = build({"distillation.kl_weight": number(0, 1), "distillation.kl_temperature": number(1, 4)})
    assert set(space.downstream) == {"distillation.kl_weight", "distillation.kl_temperature"}


def test_grid_needs_finite_parameters() -> None:
    with pytest.raises(ConfigError, match="a grid needs"):
        build({"distillation.inflation": number(1, 20)}, sampler="grid")
    space = build({"distillation.inflation": number(1, 2, step=0.5)}, sampler="grid")
    assert [point["distillation.inflation"] for point in space.grid()] == [1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [
        (0.1, 0.3, 0.1, (0.1, 0.2, 0.3)),  # 0.1 + 2 * 0.1 is above 0.3
        (0.0, 1.0, 0.3, (0.0, 0.3, 0.6, 0.9)),
        (1e-4, 5e-4, 2e-4, (1e-4, 3e-4, 5e-4)),
        (2.0, 2.0, 0.5, (2.0,)),
    ],
)
def test_steps_of_a_grid_are_those_that_are_written(
    low: float, high: float, step: float, expected: tuple[float, ...]
) -> None:
    parameter = FloatParameter(type="float", low=low, high=high, step=step)
    assert parameter.grid() == expected


def test_range_of_millions_of_whole_numbers_is_searched_without_listing_them() -> None:
    lengths = {"type": "int", "low": 1000, "high": 10**15}
    assert build({"generation.target_images": lengths}).values["generation.target_images"][0] == 1000
    with pytest.raises(ConfigError, match="999,999,999,999,001 values are too many for a grid"):
        build({"generation.target_images": lengths}, sampler="grid")


def test_grid_of_too_many_combinations_to_apply_conditions_to_is_refused() -> None:
    lengths = {"type": "int", "low": 1000, "high": 100_000}
    inflations = number(1, 100, step=0.01) | {"when": {"generation.target_images": 1000}}
    with pytest.raises(ConfigError, match="at most 1,000,000 combinations before they are applied"):
        build({"generation.target_images": lengths, "distillation.inflation": inflations}, sampler="grid")


def test_step_far_smaller_than_its_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="makes more than 1,000,000 values"):
        FloatParameter(type="float", low=0.0, high=1e300, step=1e-9)


def test_hundreds_of_choices_beside_others_are_checked_in_seconds() -> None:
    rates = {"type": "categorical", "choices": [number / 10_000 for number in range(1, 500)]}
    space = build({"distillation.learning_rate": rates, "distillation.inflation": number(1, 20)})
    assert set(space.downstream) == {"distillation.learning_rate", "distillation.inflation"}


def test_size_of_a_grid_is_known_without_walking_it() -> None:
    fine = number(1, 2, step=0.0001)
    search = {"distillation.inflation": fine, "distillation.learning_rate": number(0.01, 1, step=0.0001)}
    space = build(search, sampler="grid")
    assert space.grid_size() == 10_001 * 9_901
    assert next(space.grid()) == {"distillation.inflation": 1.0, "distillation.learning_rate": 0.01}


@pytest.mark.parametrize("parameter", [number(2, 1), number(0, 1, log=True), number(1, 2, log=True, step=0.1)])
def test_range_that_is_none_is_refused(parameter: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"low|log"):
        SearchConfig.model_validate({"distillation.inflation": parameter})


def test_changed_trial_names_the_path_of_its_error() -> None:
    with pytest.raises(ConfigError, match=r"trial\.generation\.width: .*found -1"):
        changed(trial(), {"generation.width": -1})


def test_study_without_anything_to_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        definition(search={})


def test_fresh_seeds_must_be_fresh() -> None:
    with pytest.raises(ConfigError, match="must be others"):
        definition({"seeds": [0, 1001]})


def test_variants_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"study\.variants\.small: .*did you mean trial\.generation\.width"):
        definition({"variants": {"small": {"generation.widht": 8}}})


OTHER = "d" * 64


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"data.candidates.path": "elsewhere"}, "data.candidates"),
        ({"data.candidates": {"path": "elsewhere"}}, "data.candidates"),
        ({"data.validation.sha256": OTHER}, "data.validation"),
        ({"data.test": {"sha256": OTHER}}, "data.test"),
        ({"data.synthetic": {"path": "diffusion", "sha256": OTHER}}, "data.synthetic"),
        ({"teacher.checkpoint.path": "other.safetensors"}, "teacher.checkpoint"),
        (
            {"teacher": {"architecture": "resnet14", "train": {"images": {"path": "elsewhere"}}}},
            "teacher.train.images",
        ),
    ],
)
def test_variant_with_material_of_its_own_is_refused(values: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=rf"study\.variants\.odd: trial\.{where}: .*a second study file"):
        definition({"variants": {"odd": values}}, search={})


def test_variant_may_leave_material_out() -> None:
    variants = {
        "real-only": {"data.synthetic": None, "synthesis.num_images": 0},
        "unlabelled": {"data.validation": None},
    }
    assert definition({"variants": variants}, search={}).study.variants == variants


@pytest.mark.parametrize("name", ["hybrid", "best", "real-only", "synthetic-only", "plain-kd"])
def test_variant_beside_a_search_needs_a_name_of_its_own(name: str) -> None:
    variants = {"variants": {name: {"distillation.inflation": 2.0}}}
    with pytest.raises(ConfigError, match=f"study.variants.{name}: a search has a row of that name"):
        definition(variants)
    definition(variants, search={})


def test_objective_needs_its_labels(tmp_path: Any) -> None:
    config = trial()
    without = config.model_copy(update={"data": config.data.model_copy(update={"validation": None})})
    study = StudyConfig.model_validate({"objective": "validation_accuracy"})
    search = SearchConfig.model_validate({"distillation.inflation": number(1, 20)})
    with pytest.raises(ConfigError, match=r"needs labelled images in trial\.data\.validation"):
        define("s", study, search, without, tmp_path)


def conditional(**when: Any) -> dict[str, Any]:
    return {
        "generation.smoothing.mode": {"type": "categorical", "choices": ["inverse", "effective", "off"]},
        "generation.smoothing.temperature": number(0.5, 4) | {"when": when},
    }


def test_conditional_parameter_is_searched_only_where_its_condition_holds() -> None:
    space = build(conditional(**{"generation.smoothing.mode": ["inverse", "effective"]}))
    assert list(space.upstream) == ["generation.smoothing.mode", "generation.smoothing.temperature"]
    assert space.is_active("generation.smoothing.temperature", {"generation.smoothing.mode": "inverse"})
    assert not space.is_active("generation.smoothing.temperature", {"generation.smoothing.mode": "off"})


def test_grid_tries_a_conditional_parameter_only_where_it_is_on() -> None:
    search = conditional(**{"generation.smoothing.mode": "inverse"})
    search["generation.smoothing.temperature"] |= {"step": 1.0, "low": 1.0}
    space = build(search, sampler="grid")
    points = [tuple(point.values()) for point in space.grid()]
    assert points == [("inverse", 1.0), ("inverse", 2.0), ("inverse", 3.0), ("inverse", 4.0), ("effective",), ("off",)]
    assert space.grid_size() == 6


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (conditional(**{"generation.smoothing.mod": "off"}), "did you mean generation.smoothing.mode?"),
        (conditional(**{"generation.smoothing.mode": "on"}), "'on' is none of its values"),
        (
            {
                "distillation.inflation": number(1, 20),
                "distillation.learning_rate": number(0.01, 0.1) | {"when": {"distillation.inflation": 5.0}},
            },
            "is continuous; conditions need int or categorical",
        ),
        (
            {
                "distillation.flip": {
                    "type": "categorical",
                    "choices": [True, False],
                    "when": {"distillation.schedule": "cosine"},
                },
                "distillation.schedule": {
                    "type": "categorical",
                    "choices": ["cosine", "steps"],
                    "when": {"distillation.flip": True},
                },
            },
            "depend on each other in a circle",
        ),
        (
            {
                "distillation.flip": {"type": "categorical", "choices": [True, False]},
                "generation.width": {"type": "int", "low": 8, "high": 9, "when": {"distillation.flip": True}},
            },
            "distillation.flip changes the student only",
        ),
    ],
)
def test_condition_that_cannot_be_met_is_refused(search: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        build(search)


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"distillation.inflation": 50.0}, "study.points[0].distillation.inflation: 50.0 is outside"),
        ({"distillation.inflaton": 5.0}, "did you mean distillation.inflation?"),
        ({"distillation.inflation": "5"}, "'5' is outside"),
    ],
)
def test_given_point_outside_the_space_is_refused(point: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        build({"distillation.inflation": number(1, 20)}, points=[point])


def test_fresh_seed_has_one_place() -> None:
    with pytest.raises(ValidationError, match=r"has its place at seeds\.generation only"):
        build({"distillation.inflation": {"type": "fresh_seed"}})


def test_choice_that_is_no_single_value_is_told_with_what_one_is(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nsearch:\n"
        "  a: {type: categorical, choices: [null, 4]}\n"
        "  b: {type: categorical, choices: [[], [x]]}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(path).section("search", SearchConfig)
    told = [line.split(" (")[0].partition(": search.")[2] for line in str(caught.value).splitlines()]
    keys = ("a.choices.0", "b.choices.0", "b.choices.1")
    assert told == [f"{key}: expected a word, a number or true/false" for key in keys]


@pytest.mark.parametrize("name", ["efficientnet", "vit-b-16", "densenet121", ""])
def test_architecture_with_nothing_near_is_told_which_there_are(name: str) -> None:
    search = {"distillation.architecture": {"type": "categorical", "choices": [name]}}
    for make in (lambda: build(search), lambda: changed(trial(), {"distillation.architecture": name})):
        with pytest.raises(ConfigError) as caught:
            make()
        said = str(caught.value)
        assert f"trial.distillation.architecture: unknown architecture {name!r}; known: resnet8, resnet14," in said
        assert "wrn-40-2" in said
        assert "did you mean" not in said


@pytest.mark.parametrize("path", ["foo.bar", "distillation.foo", "inflammation"])
def test_search_path_with_nothing_near_is_told_which_settings_there_are(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^search\.{path}: trial\.{path}: no such setting; known in trial"):
        build({path: number(1, 2)})

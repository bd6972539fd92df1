"""Digests: the settings and inputs that they depend on, and above all those that they do not."""

from typing import Any

import pytest

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from hidfd.pipeline.graph import STAGE_NAMES, Stage, needed, plan

SHA256 = {name: digit * 64 for name, digit in (("candidates", "a"), ("test", "b"), ("teacher", "c"), ("other", "d"))}


@pytest.fixture
def config() -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "preset": "quick",
            "data": {
                "candidates": {"path": "/here", "sha256": SHA256["candidates"]},
                "validation": {"sha256": SHA256["test"]},
            },
            "teacher": {"checkpoint": {"sha256": SHA256["teacher"]}, "mean": [0.5] * 3, "std": [0.5] * 3},
        }
    )


def changed(config: TrialConfig, values: dict[str, Any]) -> set[str]:
    """Return the roles whose digests differ with other values, or that only one of the two trials has."""
    before, after = plan(config), plan(with_values(config, values))
    return {
        role
        for role in before | after
        if (role in before and before[role].digest) != (role in after and after[role].digest)
    }


@pytest.mark.parametrize(
    "values",
    [
        {"data.candidates.path": "/elsewhere"},
        {"data.candidates.path": None},
        {"teacher.checkpoint.path": "weights.pt"},
        {"data.class_names": [str(k) for k in range(10)]},
        {"data.candidates_in_domain": True},
        {"generation.grid_every_images": 5, "generation.proxies_every_images": 6},
        {"distillation.measure_every_images": 7},
        {"log_every_images": 8, "checkpoint_every_seconds": 9.0},
        {"distillation.mix": "none", "distillation.mix_fraction": 0.5, "distillation.mix_across": True},
        {"distillation.mix": None, "distillation.view_bank": None, "distillation.crop_fraction": None},
        {"distillation.view_bank": 0, "distillation.crop_fraction": 1.0, "distillation.crop_fraction_synthetic": None},
    ],
)
def test_digest_holds_nothing_that_changes_no_result(config: TrialConfig, values: dict[str, Any]) -> None:
    assert changed(config, values) == set()


@pytest.mark.parametrize(
    "values",
    [
        {"distillation.mix": "cutmix"},
        {"distillation.view_bank": 8_000},
        {"distillation.crop_fraction": 0.5},
        {"distillation.crop_fraction_synthetic": 0.0},
    ],
)
def test_views_of_a_student_are_in_its_digest_alone(config: TrialConfig, values: dict[str, Any]) -> None:
    assert changed(config, values) == {"distillation", "evaluation"}


def test_a_bank_of_views_makes_a_student_cheaper(config: TrialConfig) -> None:
    fresh, banked, larger = (
        plan(with_values(config, {"distillation.view_bank": views}))["distillation"].operations
        for views in (0, 8_000, 10**8)
    )
    assert banked < fresh == larger  # no more views than the student sees are answered


def test_preset_itself_is_in_no_digest(config: TrialConfig) -> None:
    without = config.model_copy(update={"preset": None})
    assert {role: stage.digest for role, stage in plan(without).items()} == {
        role: stage.digest for role, stage in plan(config).items()
    }


def test_preset_cannot_be_changed_once_its_values_lie_under_the_files(config: TrialConfig) -> None:
    with pytest.raises(ConfigError, match=r"trial\.preset: .* change its settings one by one"):
        with_values(config, {"preset": "paper"})


GENERATOR_ON = {"generation", "synthesis", "distillation", "evaluation"}
STUDENT_ON = {"distillation", "evaluation"}

UNLABELLED_COLLECTION = "3a4cd29216144140314574220ef595973d0a009d12adc0fe40885b7730560dd3"
TESTED_COLLECTION = "914e30578a721612019972b0d2117c01273973cd69f6401d2a35f3e4ef4a4a6c"
"""Digests of collections without labelled validation, as they were before it was an input."""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"distillation.learning_rate": 0.01}, STUDENT_ON),
        ({"seeds.distillation": 1}, STUDENT_ON),
        ({"distillation.inflation": 2.0}, STUDENT_ON),
        ({"synthesis.num_images": 9}, {"synthesis"} | STUDENT_ON),
        ({"generation.smoothing.temperature": 2.0}, GENERATOR_ON),
        ({"seeds.generation": 1}, GENERATOR_ON),
        ({"collection.num_images": 9}, {"collection"} | GENERATOR_ON),
        ({"teacher.checkpoint.sha256": SHA256["other"]}, {"teacher", "collection"} | GENERATOR_ON),
        ({"data.candidates.sha256": SHA256["other"]}, {"candidates", "collection"} | GENERATOR_ON),
        ({"data.validation.sha256": SHA256["other"]}, {"validation", "collection"} | GENERATOR_ON),
        ({"precision": "bf16"}, {"collection"} | GENERATOR_ON),
        ({"distillation.kl_temperature": 2.0}, set()),
        ({"seeds.teacher": 1}, set()),
    ],
)
def test_change_reaches_exactly_the_stages_that_depend_on_it(
    config: TrialConfig, values: dict[str, Any], expected: set[str]
) -> None:
    assert changed(config, values) == expected


def test_labelled_splits_reach_the_collection_that_leaves_them_out_and_no_digest_changes_without_them(
    config: TrialConfig,
) -> None:
    unlabelled = with_values(config, {"data.validation": None})
    assert plan(config)["collection"].inputs.keys() == {"candidates", "teacher", "validation"}
    assert plan(unlabelled)["collection"].digest == UNLABELLED_COLLECTION
    before = with_values(config, {"collection.leaves_out_validation": False})
    assert plan(before)["collection"].digest == UNLABELLED_COLLECTION
    tested = with_values(unlabelled, {"data.test": {"sha256": SHA256["test"]}})
    assert plan(tested)["collection"].digest == TESTED_COLLECTION


def test_temperature_of_a_loss_counts_only_where_the_loss_does(config: TrialConfig) -> None:
    with_kl = with_values(config, {"distillation.kl_weight": 1.0})
    assert changed(with_kl, {"distillation.kl_temperature": 2.0}) == STUDENT_ON


def test_settings_of_smoothing_do_not_count_while_it_is_off(config: TrialConfig) -> None:
    off = with_values(config, {"generation.smoothing.mode": "off"})
    assert changed(off, {"generation.smoothing.temperature": 2.0}) == set()
    assert changed(off, {"generation.smoothing.mode": "inverse", "generation.smoothing.weight": 0.0}) == set()


def test_real_only_student_is_shared_by_all_generators(config: TrialConfig) -> None:
    real_only = with_values(config, {"synthesis.num_images": 0})
    stages = plan(real_only)
    assert not {"generation", "synthesis"} & set(stages)
    assert stages["distillation"].inputs.keys() == {"teacher", "collection"}
    values = {"generation.width": 8, "seeds.generation": 5, "seeds.synthesis": 6, "distillation.inflation": 3.0}
    assert changed(real_only, values) == set()


def test_student_of_own_synthetic_images_depends_on_the_holdout_that_shapes_it(config: TrialConfig) -> None:
    own = with_values(config, {"distillation.inflation": 0, "data.synthetic": {"sha256": SHA256["other"]}})
    assert changed(own, {"collection.holdout_images": 11}) == {"collection"} | STUDENT_ON


def test_settings_that_others_have_switched_off_do_not_count(config: TrialConfig) -> None:
    assert changed(config, {"generation.smoothing.beta": 0.5}) == set()
    effective = with_values(config, {"generation.smoothing.mode": "effective"})
    assert changed(effective, {"generation.smoothing.beta": 0.5}) == GENERATOR_ON
    no_blend = with_values(config, {"generation.integration.blend_weight": 0.0})
    assert changed(no_blend, {"generation.integration.pairing": "class_mean"}) == set()
    assert changed(no_blend, {"generation.integration.hidden_width": 7}) == GENERATOR_ON
    neither = with_values(no_blend, {"generation.integration.trans_weight": 0.0})
    assert changed(neither, {"generation.integration.hidden_width": 7}) == set()
    no_teacher = with_values(neither, {"generation.smoothing.mode": "off"})
    assert changed(no_teacher, {"generation.teacher_terms_every": 4}) == set()
    cosine = with_values(config, {"distillation.schedule": "cosine"})
    assert changed(cosine, {"distillation.decay_factor": 0.5}) == set()


@pytest.mark.parametrize(
    ("name", "off", "on"), [("teacher_terms_every", 1, 4), ("consistency_weight", 0, 10), ("lecam_weight", 0.0, 0.1)]
)
def test_generation_setting_that_is_younger_than_the_digests_changes_them_only_where_it_is_on(
    config: TrialConfig, name: str, off: float, on: float
) -> None:
    assert changed(config, {f"generation.{name}": off}) == changed(config, {f"generation.{name}": None}) == set()
    assert changed(config, {f"generation.{name}": on}) == GENERATOR_ON
    assert name not in plan(config)["generation"].identity["settings"]


def test_teacher_that_is_asked_in_every_fourth_step_costs_a_quarter(config: TrialConfig) -> None:
    def operations(**values: Any) -> float:
        return plan(with_values(config, {f"generation.{name}": value for name, value in values.items()}))[
            "generation"
        ].operations

    without = operations(teacher_terms_every=1000)
    assert operations(teacher_terms_every=4) - without == pytest.approx((operations() - without) / 4, rel=0.01)
    assert operations(consistency_weight=1.0) > operations() == operations(lecam_weight=1.0)


JUDGE = {"checkpoint": {"sha256": SHA256["other"]}, "mean": [0.4] * 3, "std": [0.2] * 3}


def test_judge_reaches_the_evaluation_of_students_of_synthetic_images_alone(config: TrialConfig) -> None:
    assert changed(config, {"judge": None}) == set()
    assert changed(config, {"judge": JUDGE}) == {"judge", "evaluation"}
    assert changed(config, {"judge": JUDGE, "synthesis.num_images": 0}) == changed(config, {"synthesis.num_images": 0})
    judged = with_values(config, {"judge": JUDGE})
    assert changed(judged, {"judge.num_classes": 10}) == set()  # as many as the teacher's, said or not
    assert changed(judged, {"judge.num_classes": 100}) == {"judge", "evaluation"}
    assert plan(judged)["evaluation"].inputs["synthesis"] == plan(judged)["synthesis"].digest


def test_longer_generator_continues_the_same_trajectory(config: TrialConfig) -> None:
    short = plan(config)["generation"]
    long = plan(with_values(config, {"generation.target_images": 2 * config.generation.target_images}))["generation"]
    other = plan(with_values(config, {"generation.width": 8}))["generation"]
    assert short.trajectory == long.trajectory
    assert short.digest != long.digest
    assert other.trajectory != short.trajectory
    assert short.trajectory not in (short.digest, None)
    assert long.operations == pytest.approx(2 * short.operations)


def test_synthetic_images_of_ones_own_replace_the_generator(config: TrialConfig) -> None:
    stages = plan(with_values(config, {"data.synthetic": {"sha256": SHA256["other"]}}))
    assert "generation" not in stages
    assert stages["synthesis"].name == "import"
    assert stages["distillation"].inputs["synthesis"] == stages["synthesis"].digest


def test_collection_knows_the_test_images_only_to_leave_them_out(config: TrialConfig) -> None:
    with_test = {"data.test": {"sha256": SHA256["other"]}}
    assert changed(config, with_test) == {"test", "collection"} | GENERATOR_ON
    read = plan(with_values(config, with_test))["collection"].inputs.keys()
    assert read == {"candidates", "teacher", "validation", "test"}


def test_plan_needs_to_know_every_material_by_content(config: TrialConfig) -> None:
    with pytest.raises(ConfigError, match=r"candidates: no sha256 yet; run `python -m hidfd import FILE`"):
        plan(with_values(config, {"data.candidates.sha256": None}))


def test_stages_come_in_an_order_in_which_each_can_be_built(config: TrialConfig) -> None:
    built: set[str] = set()
    for stage in plan(config).values():
        assert set(stage.inputs.values()) <= built, stage.role
        built.add(stage.digest)


@pytest.mark.parametrize(
    ("until", "roles"),
    [
        ("import", ["candidates", "validation"]),
        ("teacher", ["teacher"]),
        ("collection", ["candidates", "validation", "teacher", "collection"]),
        (
            "distillation",
            ["candidates", "validation", "teacher", "collection", "generation", "synthesis", "distillation"],
        ),
    ],
)
def test_only_what_a_stage_depends_on_is_needed(config: TrialConfig, until: str, roles: list[str]) -> None:
    assert [stage.role for stage in needed(plan(config), until)] == roles


def test_stage_that_the_trial_lacks_is_refused(config: TrialConfig) -> None:
    stages: dict[str, Stage] = plan(with_values(config, {"synthesis.num_images": 0}))
    assert "generation" in STAGE_NAMES
    with pytest.raises(ConfigError, match="this trial has no stage 'generation'; it has: candidates, "):
        list(needed(stages, "generation"))

"""The plans of other methods: stages, digests and operations, and that HiDFD's digests do not know of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hidfd.config.methods import CmiConfig, DaflConfig
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.config.section import ABSENT_IF_DEFAULT, has_mark
from hidfd.networks.generator import classless_generator
from hidfd.pipeline.costs import FEW_MEASURED, OTHER_STAGES_MEASURED, Costs, bank_bytes
from hidfd.pipeline.graph import OTHER_METHODS, STAGE_NAMES, Stage, plan, use_versions, versions_in_use
from hidfd.pipeline.operations import _generator
from hidfd.store.store import Store

STUDENT_ON = {"distillation", "evaluation"}
SHA256 = "f" * 64


@pytest.fixture
def config() -> TrialConfig:
    """Return a trial of HiDFD with a bank of views, CutMix, a judge and KL."""
    return TrialConfig.model_validate(
        {
            "data": {"candidates": {"sha256": "a" * 64}, "channels": 1, "image_size_pixels": 28},
            "teacher": {"checkpoint": {"sha256": "c" * 64}, "mean": [0.5], "std": [0.5]},
            "distillation": {"mix": "cutmix", "view_bank": 8_000, "kl_weight": 1.0, "target_images": 64_000},
            "judge": {"checkpoint": {"sha256": "e" * 64}, "mean": [0.5], "std": [0.5]},
        }
    )


def changed(config: TrialConfig, values: dict[str, Any]) -> set[str]:
    """Return the roles whose digests differ with other values, or that only one of the two trials has."""
    before, after = plan(config), plan(with_values(config, values))
    digests = [{role: stage.digest for role, stage in stages.items()} for stages in (before, after)]
    return {role for role in before | after if digests[0].get(role) != digests[1].get(role)}


def test_a_section_that_is_given_as_a_whole_is_left_as_it_was_by_a_setting_inside_of_it(config: TrialConfig) -> None:
    given = {"width": 8}
    both = with_values(config, {"dafl": given, "dafl.latent_dim": 16})
    assert (both.dafl.width, both.dafl.latent_dim) == (8, 16)
    assert given == {"width": 8}


def test_method_and_the_sections_of_others_are_in_no_digest_of_hidfd(config: TrialConfig) -> None:
    assert config.method == "hidfd"
    assert all(has_mark(TrialConfig, name, ABSENT_IF_DEFAULT) for name in ("method", *OTHER_METHODS))
    assert changed(config, {"method": None}) == changed(config, {"method": "hidfd"}) == set()
    others = {"dafl.width": 8, "cmi.synthesis_steps": 7, "dfnd.noisy_weight": 0.5}
    assert changed(config, others) == set()
    stage = plan(config)["distillation"]
    assert (stage.identity["stage"], stage.builder) == ("distillation", "distillation")
    assert not {"method", *OTHER_METHODS} & stage.identity["settings"].keys()


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_another_method_replaces_generation_to_distillation_and_keeps_the_rest(
    method: str, config: TrialConfig
) -> None:
    assert changed(config, {"method": method}) == {"generation", "synthesis", "judge"} | STUDENT_ON
    other = with_values(config, {"method": method})
    assert (other.uses_generator, other.uses_synthetic_images, other.is_judged) == (False, False, False)
    assert other.uses_real_images is (method == "dfnd")
    assert list(other.batches) == ["distillation"]
    stages = plan(other)
    assert list(stages) == ["candidates", "teacher", "collection", "distillation", "evaluation"]
    student = stages["distillation"]
    assert (student.name, student.role, student.builder) == ("distillation", "distillation", method)
    assert student.identity["seed"] == config.seeds.distillation
    assert student.operations > 0
    assert method not in STAGE_NAMES


@pytest.mark.parametrize("method", OTHER_METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {"generation.width": 8, "generation.target_images": 9},
        {"synthesis.num_images": 0},
        {"distillation.inflation": 0.0},
        {"data.synthetic": {"sha256": SHA256}},
        {"seeds.generation": 5, "seeds.synthesis": 6},
    ],
)
def test_settings_of_hidfd_change_nothing_of_another_method(
    method: str, values: dict[str, Any], config: TrialConfig
) -> None:
    assert changed(with_values(config, {"method": method}), values) == set()


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_settings_of_one_method_change_no_other(method: str, config: TrialConfig) -> None:
    values: dict[str, Any] = {"dafl.entropy_weight": 1.0, "cmi.negatives": 5, "dfnd.adaptation_diagonal": 0.5}
    own = {path: value for path, value in values.items() if path.startswith(method)}
    others = {path: value for path, value in values.items() if path not in own}
    other = with_values(config, {"method": method})
    assert changed(other, own) == STUDENT_ON
    assert changed(other, others) == set()


VIEWS = {"crop_scale_min": 0.3, "crop_fraction": 0.5, "flip": False, "mix": "mixup", "mix_fraction": 0.5}


@pytest.mark.parametrize("name", list(VIEWS))
def test_views_count_for_the_methods_whose_students_see_some(name: str, config: TrialConfig) -> None:
    for method, expected in (("dafl", set()), ("cmi", STUDENT_ON), ("dfnd", STUDENT_ON)):
        assert changed(with_values(config, {"method": method}), {f"distillation.{name}": VIEWS[name]}) == expected, (
            method
        )


def test_crops_of_synthetic_views_are_those_of_cmi_and_a_bank_of_views_is_for_fixed_images(config: TrialConfig) -> None:
    for method, of_synthetic, of_bank in (("dafl", False, False), ("cmi", True, False), ("dfnd", False, True)):
        other = with_values(config, {"method": method})
        assert bool(changed(other, {"distillation.crop_fraction_synthetic": 0.5})) is of_synthetic, method
        assert bool(changed(other, {"distillation.view_bank": 100})) is of_bank, method
        assert (bank_bytes(other) > 0) is of_bank, method
    cmi = with_values(config, {"method": "cmi", "distillation.crop_fraction_synthetic": 0.5})
    assert changed(cmi, {"distillation.crop_fraction": 0.1}) == set()


@pytest.mark.parametrize(
    ("off", "values"),
    [
        ({"method": "cmi", "cmi.contrastive_weight": 0.0}, {"cmi.contrastive_temperature": 1.0, "cmi.negatives": 9}),
        ({"method": "dfnd", "dfnd.noisy_weight": 0.0}, {"dfnd.adaptation_diagonal": 0.5}),
    ],
)
def test_settings_that_others_have_switched_off_do_not_count(
    off: dict[str, Any], values: dict[str, Any], config: TrialConfig
) -> None:
    assert changed(with_values(config, off), values) == set()


def test_every_student_setting_of_the_hybrid_that_remains_counts_for_each_method(config: TrialConfig) -> None:
    values = {"architecture": "resnet8", "learning_rate": 0.1, "target_images": 640, "batch_images": 32}
    for method in OTHER_METHODS:
        for name, value in values.items():
            found = changed(with_values(config, {"method": method}), {f"distillation.{name}": value})
            assert found == STUDENT_ON, (method, name)


def test_a_study_that_is_older_than_a_method_has_no_version_of_it(config: TrialConfig) -> None:
    other = with_values(config, {"method": "dafl"})
    digest = plan(other)["distillation"].digest
    use_versions({name: version for name, version in versions_in_use().items() if name not in OTHER_METHODS})
    try:
        assert plan(other)["distillation"].digest == digest
    finally:
        use_versions(None)


@pytest.mark.parametrize("networks", ["light", "residual"])
@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_a_generator_are_those_that_it_computes(
    networks: str, size: int, channels: int, config: TrialConfig
) -> None:
    settings = DaflConfig.model_validate(
        {"networks": networks, "image_size_pixels": size, "width": 16, "latent_dim": 8}
    )
    generator = classless_generator(settings, channels)
    with FlopCounterMode(display=False) as counted:
        generator(torch.randn(1, 8), torch.zeros(1, dtype=torch.int64))
    data = config.data.model_copy(update={"channels": channels})
    expected = _generator(config.model_copy(update={"data": data}), settings)
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.05)  # without the linear layer


def test_operations_follow_the_rounds_of_cmi_and_the_networks(config: TrialConfig) -> None:
    def operations(**values: Any) -> float:
        settings = CmiConfig.model_validate(values).model_dump()
        return plan(with_values(config, {"method": "cmi", "cmi": settings}))["distillation"].operations

    once = operations(round_images=64_000)
    student = 2 * once - operations(round_images=32_000)  # without any round
    assert operations(round_images=16_000) - student == pytest.approx(4 * (once - student))
    assert operations(round_images=64_000, synthesis_steps=100) - student == pytest.approx((once - student) / 2)
    assert operations(round_images=64_000, width=64) < once
    dafl = plan(with_values(config, {"method": "dafl"}))["distillation"].operations
    assert dafl > plan(with_values(config, {"method": "dfnd"}))["distillation"].operations


def test_students_of_each_method_are_expected_to_take_what_its_own_took(config: TrialConfig, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    speeds = {"hidfd": 2e9, "dafl": 5e8}
    for method, speed in speeds.items():
        stage = plan(with_values(config, {"method": method}))["distillation"]
        with store.writer(stage.name, stage.digest, stage.identity) as writer:
            writer.path("student").write_text("weights")
            writer.commit({"operations": stage.operations, "seconds": stage.operations / speed})
    costs = Costs.of(store)
    for method, speed in speeds.items():
        stage = plan(with_values(config, {"method": method, "seeds.distillation": 1}))["distillation"]
        assert costs.seconds(stage) == pytest.approx(stage.operations / speed)
        assert high_of(costs, stage) == pytest.approx(FEW_MEASURED * stage.operations / speed)
    stage = plan(with_values(config, {"method": "cmi"}))["distillation"]
    assert high_of(costs, stage) == pytest.approx(OTHER_STAGES_MEASURED * stage.operations / costs.rate)


def high_of(costs: Costs, stage: Stage) -> float:
    expected = costs.range(stage)
    assert expected is not None
    return expected.high


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_methods_of_one_source_of_images_do_not_ask_what_is_mixed_with_what(method: str, config: TrialConfig) -> None:
    mixed = with_values(config, {"method": method, "distillation.mix": "cutmix", "distillation.view_bank": 0})
    assert changed(mixed, {"distillation.mix_across": True}) == set()


def test_a_term_of_cmi_that_is_off_asks_no_network(config: TrialConfig) -> None:
    def of_rounds(**weights: float) -> float:
        values = {"method": "cmi", **{f"cmi.{name}": weight for name, weight in weights.items()}}
        more, fewer = (
            plan(with_values(config, {**values, "cmi.synthesis_steps": steps}))["distillation"].operations
            for steps in (300, 200)
        )
        return more - fewer

    whole = of_rounds()
    alone = whole - of_rounds(contrastive_weight=0), whole - of_rounds(adversarial_weight=0)
    assert all(saved > 0 for saved in alone)
    assert whole - of_rounds(contrastive_weight=0, adversarial_weight=0) == pytest.approx(sum(alone))

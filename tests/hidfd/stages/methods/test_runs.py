"""Trials of other methods: the same again from the same seed, resumed to the bit, and refused in one sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig, check_processes
from hidfd.errors import ConfigError, DivergedError, Stopped, UnbuildableError
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.observer import Observer
from hidfd.stages.methods import cmi, dafl, dfnd
from hidfd.store.store import Store
from hidfd.trial import TrialResult, run_trial
from tests.hidfd.interruptions import Killer, Stopper, left_by
from tests.hidfd.miniature import METHODS

OF_METHODS = pytest.mark.parametrize("method", list(METHODS))


def weights_of(result: TrialResult, store: Store) -> dict[str, Tensor]:
    stage = result.stages["distillation"]
    return safetensors.torch.load_file(store.get(stage.name, stage.digest).path("student.safetensors"))


def are_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@OF_METHODS
@pytest.mark.parametrize("how", [Stopper, Killer])
def test_interrupted_student_equals_the_uninterrupted_one_bit_for_bit(
    how: type[Stopper], method: str, trial_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(trial_config, METHODS[method])
    whole_store, broken_store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "broken")
    whole = run_trial(config, whole_store, device="cpu")
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    slow = with_values(config, {"checkpoint_every_seconds": 4.0})
    with pytest.raises((Stopped, KeyboardInterrupt)):
        run_trial(slow, broken_store, device="cpu", observer=how("distillation", 3))
    resumed = run_trial(slow, broken_store, device="cpu")
    (expected, curve), (found, found_curve) = (
        left_by(whole, whole_store, "distillation"),
        left_by(resumed, broken_store, "distillation"),
    )
    assert are_equal(expected, found)
    assert curve == found_curve
    assert resumed.metrics == whole.metrics


@OF_METHODS
def test_same_seed_makes_the_same_student_and_another_seed_another(
    method: str, trial_config: TrialConfig, tmp_path: Path
) -> None:
    stores = [Store.open(tmp_path / str(k)) for k in range(3)]
    config = with_values(trial_config, METHODS[method])
    configs = [config, config, with_values(config, {"seeds.distillation": 7})]
    first, again, other = (
        weights_of(run_trial(config, store, until="distillation", device="cpu"), store)
        for config, store in zip(configs, stores, strict=True)
    )
    assert are_equal(first, again)
    assert not are_equal(first, other)


def test_a_round_of_cmi_stops_within_itself_and_is_made_anew(
    trial_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(trial_config, METHODS["cmi"])
    whole_store, broken_store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "broken")
    whole = run_trial(config, whole_store, device="cpu")
    count, done = [0], cmi.images_done
    stopped = Observer()

    def counted(images: int) -> None:
        count[0] += 1
        stopped.stop_reason = "the test asked" if count[0] == 5 else None  # in the second round, of three steps each
        done(images)

    monkeypatch.setattr(cmi, "images_done", counted)
    with pytest.raises(Stopped, match=r"distillation: a round of images: stopped \(the test asked\); it starts anew"):
        run_trial(config, broken_store, device="cpu", observer=stopped)
    monkeypatch.setattr(cmi, "images_done", done)
    resumed = run_trial(config, broken_store, device="cpu")
    assert are_equal(weights_of(whole, whole_store), weights_of(resumed, broken_store))


def test_dfnd_without_its_loss_is_the_student_on_real_images_alone(trial_config: TrialConfig, store: Store) -> None:
    noisy = with_values(trial_config, {"method": "dfnd", "dfnd.noisy_weight": 0.0})
    plain = with_values(trial_config, {"synthesis.num_images": 0})
    first, second = (run_trial(config, store, device="cpu") for config in (noisy, plain))
    assert first.stages["distillation"].digest != second.stages["distillation"].digest
    assert are_equal(weights_of(first, store), weights_of(second, store))


@OF_METHODS
def test_report_says_the_method_and_what_the_student_learned_from(
    method: str, trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = with_values(trial_config, METHODS[method])
    result = run_trial(config, store, device="cpu", folder=tmp_path / "trial")
    assert "generation" not in result.stages
    assert result.metrics["generator"] is None
    assert result.metrics["num_collected"] == (24 if method == "dfnd" else 0)
    assert result.metrics["num_synthetic"] == {"dafl": 64, "cmi": 16, "dfnd": 0}[method]
    page = (tmp_path / "trial" / "report.html").read_text()
    assert {"dafl": "DAFL, a generator", "cmi": "CMI, rounds", "dfnd": "DFND, the collected"}[method] in page
    assert ("favours students that saw real images" in page) is (method == "dfnd")
    assert "inflation N" not in page
    assert bool(list((tmp_path / "trial" / "samples").glob("generation-*.png"))) is (method != "dfnd")
    again = TrialConfig.model_validate(result.config.model_dump(mode="json"))
    assert again == result.config


LOSS_OF = {"dafl": (dafl, "one_hot_loss"), "cmi": (cmi, "class_loss"), "dfnd": (dfnd, "NoiseAdaptation")}


@OF_METHODS
def test_a_loss_that_is_not_finite_ends_the_training(
    method: str, trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(dfnd.NoiseAdaptation):
        def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
            return super().loss(student_logits, teacher_logits) * torch.nan

    def broken(logits: Tensor, *_: Tensor) -> Tensor:
        return logits.sum() * torch.nan

    module, name = LOSS_OF[method]
    monkeypatch.setattr(module, name, Broken if method == "dfnd" else broken)
    with pytest.raises(DivergedError, match=r"^distillation: a loss or a gradient was not finite in"):
        run_trial(with_values(trial_config, METHODS[method]), store, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "dalf"}, "Input should be 'hidfd', 'dafl', 'cmi' or 'dfnd'"),
        (
            {"method": "dafl", "dafl.one_hot_weight": 0, "dafl.activation_weight": 0, "dafl.entropy_weight": 0},
            "dafl: one_hot_weight, activation_weight, entropy_weight are all 0: the generator would learn nothing",
        ),
        (
            {"method": "cmi", "cmi.round_images": 8},
            "cmi.round_images: 8 images are less than a step of the student sees (distillation.batch_images: 16)",
        ),
        ({"method": "dfnd", "dfnd.adaptation_diagonal": 1.0}, "less than or equal to 0.999"),
    ],
)
def test_wrong_setting_gets_one_clear_message(values: dict[str, Any], message: str, trial_config: TrialConfig) -> None:
    with pytest.raises(ValidationError) as caught:
        with_values(trial_config, values)
    assert caught.value.error_count() == 1
    assert message in str(caught.value)


def test_cmi_refuses_a_teacher_without_batch_norms(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_norms(teacher: Teacher) -> list[nn.BatchNorm2d]:
        return []

    monkeypatch.setattr(cmi, "batch_norms_of", without_norms)
    with pytest.raises(UnbuildableError, match=r"^trial\.method: cmi .* batch norms, and resnet8 has none; choose"):
        run_trial(with_values(trial_config, METHODS["cmi"]), store, device="cpu")


@OF_METHODS
def test_other_methods_train_on_one_process(method: str, trial_config: TrialConfig) -> None:
    config = with_values(trial_config, METHODS[method])
    check_processes(config, 1)
    check_processes(trial_config, 2)
    with pytest.raises(ConfigError, match=rf"^trial\.method: {method} trains on one process, found 2; start one"):
        check_processes(config, 2)

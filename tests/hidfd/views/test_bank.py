"""A bank of views: fixed, at the real share of the hybrid, answered once, and shared by the students that want it."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hidfd.views.bank
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import resolve_device
from hidfd.errors import OutOfMemoryError
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.observer import Observer
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.store.store import Store
from hidfd.trial import Trial
from hidfd.views.bank import BLOCK_VIEWS, ViewBank, ViewSource

BANK = {"distillation.view_bank": 640, "distillation.inflation": 5.0, "distillation.target_images": 1600}


@pytest.fixture
def trial(trial_config: TrialConfig, store: Store) -> Trial:
    trial = Trial(with_values(trial_config, BANK), store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    return trial


def training_of(trial: Trial, caches: dict[str, Path] | None = None, **settings: object) -> StudentTraining:
    config = with_values(trial.config, {f"distillation.{name}": value for name, value in settings.items()})
    synthetic = torch.full((40, 1, 28, 28), 255, dtype=torch.uint8)
    return StudentTraining(config, trial.inputs.collection, synthetic, trial.inputs.teacher, trial.device, caches)


def bank_of(training: StudentTraining) -> ViewBank:
    assert isinstance(training.views, ViewBank)
    return training.views


def is_synthetic(views: Tensor) -> Tensor:
    return (views == 255).flatten(1).all(dim=1)


def test_a_bank_has_the_real_share_of_the_hybrid_and_real_views_first(trial: Trial) -> None:
    bank = bank_of(training_of(trial))
    share = training_of(trial).sampler.real_share
    assert share == 120 / 160
    assert is_synthetic(bank.views).tolist() == [False] * 480 + [True] * 160


def test_the_maps_are_the_teachers_answers_to_the_kept_views(trial: Trial) -> None:
    bank = bank_of(training_of(trial, mix="cutmix"))
    asked = trial.inputs.teacher(unit_from_uint8(bank.views))
    assert torch.allclose(bank.maps, asked.feature_map, atol=1e-5)
    image, answer = bank.batch(0)
    assert torch.allclose(answer.logits, trial.inputs.teacher.ask(image).logits, atol=1e-4)


def test_a_bank_holds_no_more_views_than_the_student_sees_images(trial: Trial) -> None:
    assert len(bank_of(training_of(trial, target_images=160)).views) == 160


def test_a_pass_over_the_bank_shows_each_view_once(trial: Trial) -> None:
    training = training_of(trial)
    seen = torch.cat([bank_of(training).batch(images)[0] for images in range(0, 640, 16)])
    kept = training.teacher.normalised(unit_from_uint8(bank_of(training).views))
    assert sorted(seen.sum(dim=(1, 2, 3)).tolist()) == pytest.approx(sorted(kept.sum(dim=(1, 2, 3)).tolist()))


def test_a_shorter_bank_is_the_beginning_of_a_longer_one(trial: Trial) -> None:
    short, long = bank_of(training_of(trial, view_bank=200)), bank_of(training_of(trial, view_bank=800))
    assert torch.equal(short.views[:150], long.views[:150])
    assert torch.equal(short.views[150:], long.views[600:650])


def test_students_share_the_kept_views_whatever_their_share_of_real_images(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = {"real": tmp_path / "real", "synthetic": tmp_path / "synthetic"}
    asked: list[int] = []
    ask = Teacher.forward

    def counted(teacher: Teacher, image_unit: Tensor) -> object:
        asked.append(len(image_unit))
        return ask(teacher, image_unit)

    monkeypatch.setattr(Teacher, "forward", counted)
    first = bank_of(training_of(trial, caches))
    assert asked.count(BLOCK_VIEWS) == 2 + 1  # blocks of 480 real and 160 synthetic views
    again = bank_of(training_of(trial, caches))
    assert asked.count(BLOCK_VIEWS) == 3
    assert torch.equal(first.views, again.views)
    assert torch.equal(first.maps, again.maps)
    fewer = bank_of(training_of(trial, caches, inflation=1.0))
    assert asked.count(BLOCK_VIEWS) == 4  # 240 real and 400 synthetic ones
    assert torch.equal(fewer.views[:240], first.views[:240])


def test_a_cut_off_block_is_made_again(trial: Trial, tmp_path: Path) -> None:
    caches = {"real": tmp_path / "real", "synthetic": tmp_path / "synthetic"}
    first = bank_of(training_of(trial, caches))
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(bank_of(training_of(trial, caches)).maps, first.maps)


@pytest.mark.parametrize(
    "setting", [{"mix": "cutmix"}, {"mix": "mixup"}, {"crop_scale_min": 0.9}, {"flip": False}, {"crop_fraction": 0.0}]
)
def test_other_settings_of_the_views_find_none_of_the_kept_ones(
    setting: dict[str, object], trial: Trial, tmp_path: Path
) -> None:
    caches = {"real": tmp_path / "real", "synthetic": tmp_path / "synthetic"}
    first = bank_of(training_of(trial, caches))
    other = bank_of(training_of(trial, caches, **setting))
    assert not torch.equal(first.views[:480], other.views[:480])


def test_students_of_another_seed_find_none_of_the_kept_views(trial: Trial, tmp_path: Path) -> None:
    caches = {"real": tmp_path / "real", "synthetic": tmp_path / "synthetic"}
    first = bank_of(training_of(trial, caches))
    trial.config = with_values(trial.config, {"seeds.distillation": 1})
    other = bank_of(training_of(trial, caches))
    assert not torch.equal(first.views[:480], other.views[:480])
    assert torch.allclose(other.maps, trial.inputs.teacher(unit_from_uint8(other.views)).feature_map, atol=1e-5)


def test_making_the_bank_is_part_of_the_seconds_of_a_student(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    make = ViewBank._make

    def slow(bank: ViewBank, source: ViewSource, number: int) -> dict[str, Tensor]:
        time.sleep(0.5)
        return make(bank, source, number)

    trial.run("synthesis")
    monkeypatch.setattr(ViewBank, "_make", slow)
    trial.run("distillation")
    student = trial.inputs.artifact("distillation")
    of_training = max(row.get("seconds", 0.0) for row in student.metrics())
    assert student.meta["seconds"] - of_training >= 0.5


def test_a_bank_that_does_not_fit_is_refused_with_the_number_that_does(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = bank_of(training_of(trial))
    of_a_view = (bank.views.nbytes + bank.maps.nbytes) // 640
    monkeypatch.setattr(hidfd.views.bank, "free_bytes", lambda device: 500 * of_a_view)
    with pytest.raises(OutOfMemoryError, match=r"view_bank: 640 views .* set at most 400, or 0"):
        training_of(trial)

"""The evaluation: synthetic images in the features of a second network, the judge."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import resize_uint8
from hidfd.distributed.device import resolve_device
from hidfd.errors import InputError
from hidfd.networks.build import build_backbone
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.observer import Observer
from hidfd.report.page import write_trial_report
from hidfd.stages.evaluation import judge_measures
from hidfd.store.store import Store
from hidfd.trial import import_all, run_trial


@pytest.fixture
def judge(world: Path) -> dict[str, Any]:
    """A network with other weights, of another width and other classes than the teacher."""
    torch.manual_seed(1)
    network = build_backbone("resnet8", num_classes=5, channels=1, width=6)
    safetensors.torch.save_file(network.state_dict(), world / "judge.safetensors")
    return {
        "judge": {
            "architecture": "resnet8",
            "width": 6,
            "num_classes": 5,
            "checkpoint": {"path": str(world / "judge.safetensors")},
            "mean": [0.3],
            "std": [0.3],
        }
    }


def test_judge_measures_the_synthetic_images_of_a_trial_that_is_built_already(
    judge: dict[str, Any], trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    plain = run_trial(trial_config, store, device="cpu")
    assert plain.metrics["judge_fid"] is None
    judged = run_trial(with_values(trial_config, judge), store, folder=tmp_path / "folder", device="cpu")
    assert set(judged.stages) - set(judged.reused) == {"judge", "evaluation", "test"} & set(judged.stages)
    assert judged.metrics["judge_images"] == 40
    assert judged.metrics["judge_fid"] > 0
    assert judged.metrics["judge_kid"] > 2 * judged.metrics["judge_kid_standard_error"] > 0
    assert 0 <= judged.metrics["judge_coverage"] <= 1
    assert judged.metrics["agreement"] == plain.metrics["agreement"]
    page = write_trial_report(tmp_path / "folder").read_text()
    assert "FID, judge" in page
    assert "of 40 synthetic and as many held-out images" in page


def test_images_of_the_pool_itself_are_judged_nearer_than_a_generators(
    judge: dict[str, Any], trial_config: TrialConfig, store: Store, world: Path
) -> None:
    generated = run_trial(with_values(trial_config, judge), store, device="cpu").metrics
    own = {"data.synthetic": {"path": str(world / "candidates")}}
    real = run_trial(with_values(trial_config, judge | own), store, device="cpu").metrics
    assert real["judge_images"] == 110
    assert real["judge_kid"] < generated["judge_kid"] / 10
    assert real["judge_coverage"] > 0.9 > generated["judge_coverage"]


def test_size_alone_does_not_tell_synthetic_images_apart() -> None:
    torch.manual_seed(0)
    device = resolve_device("cpu", "fp32")
    network = Teacher(build_backbone("resnet8", num_classes=3, channels=1, width=4), [0.3], [0.3], 56).on(device)
    images = torch.randint(0, 256, (120, 1, 56, 56), dtype=torch.uint8)
    measured = judge_measures(network, resize_uint8(images[60:], 28), images[:60], device)
    assert abs(measured["judge_kid"]) < 3 * measured["judge_kid_standard_error"]


def test_too_few_images_are_counted_and_not_compared() -> None:
    device = resolve_device("cpu", "fp32")
    network = Teacher(build_backbone("resnet8", num_classes=3, channels=1, width=4), [0.3], [0.3], 28).on(device)
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    assert judge_measures(network, images, images, device) == {"judge_images": 5}


def test_judge_is_imported_with_the_materials(judge: dict[str, Any], trial_config: TrialConfig, store: Store) -> None:
    known = import_all(with_values(trial_config, judge), store, Observer())
    assert known.judge is not None
    assert known.judge.checkpoint.sha256 is not None
    again = with_values(known, {"judge.checkpoint.path": None})
    assert run_trial(again, store, until="evaluation", device="cpu").metrics["judge_fid"] is not None


def test_checkpoint_that_is_no_judge_is_named(judge: dict[str, Any], trial_config: TrialConfig, store: Store) -> None:
    wrong = with_values(trial_config, judge | {"judge.num_classes": None})
    with pytest.raises(InputError, match=r"trial\.judge\.checkpoint .*judge\.safetensors \(resnet8\)"):
        import_all(wrong, store, Observer())
    with pytest.raises(InputError, match=r"trial\.judge\.mean \[127\.0\]"):
        import_all(with_values(trial_config, judge | {"judge.mean": [127.0], "judge.std": [60.0]}), store, Observer())
    with pytest.raises(ValueError, match=r"judge\.architecture: unknown architecture 'resnet9'"):
        with_values(trial_config, judge | {"judge.architecture": "resnet9"})

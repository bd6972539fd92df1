"""A trial's folder shows that trial and no other, and every stage of it with its seconds."""

import json
from pathlib import Path

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.costs import Costs
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from hidfd.trial import run_trial


def test_a_folder_of_two_trials_shows_nothing_of_the_first(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    run_trial(trial_config, store, folder=folder, device="cpu")
    assert "Synthetic images" in (folder / "report.html").read_text()
    real_only = with_values(trial_config, {"synthesis.num_images": 0})
    run_trial(real_only, store, folder=folder, device="cpu")
    page = (folder / "report.html").read_text()
    assert "Synthetic images" not in page
    assert "The closest pairs" not in page
    assert not list((folder / "samples").iterdir())


def test_a_second_run_keeps_the_pictures_of_its_own_trial(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    run_trial(trial_config, store, folder=folder, device="cpu")
    before = {path.name for path in (folder / "samples").iterdir()}
    run_trial(trial_config, store, folder=folder, device="cpu")
    assert {path.name for path in (folder / "samples").iterdir()} == before
    assert before


def test_every_stage_says_how_long_it_took_and_what_another_is_expected_to_take(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    result = run_trial(trial_config, store, folder=tmp_path / "trial", device="cpu")
    for stage in json.loads((tmp_path / "trial" / "manifest.json").read_text())["stages"]:
        assert stage["meta"]["seconds"] > 0, stage["role"]
    costs = Costs.of(store)
    other = plan(with_values(result.config, {"seeds.collection": 1}))
    assert all((costs.seconds(stage) or 0) > 0 for stage in other.values())


def test_the_teachers_accuracy_is_shown_only_on_the_images_that_it_was_measured_on(
    trial_config: TrialConfig, store: Store, world: Path
) -> None:
    images = {"images": {"path": str(world / "validation")}, "target_images": 32, "batch_images": 16}
    teacher = {"architecture": "resnet8", "width": 4, "train": images}
    trained = TrialConfig.model_validate(trial_config.model_dump() | {"teacher": teacher})
    first = run_trial(trained, store, until="teacher", device="cpu")
    assert 0 <= first.metrics["teacher_validation_accuracy"] <= 1
    (world / "validation" / "class0" / "000.png").unlink()
    smaller = with_values(trained, {"teacher.train.images": first.config.teacher.train.images.model_dump()})  # type: ignore[union-attr]
    second = run_trial(smaller, store, until="teacher", device="cpu")
    assert "teacher" in second.reused
    assert second.metrics["teacher_validation_accuracy"] is None


def test_a_plain_mean_is_called_so(trial_config: TrialConfig, store: Store, tmp_path: Path) -> None:
    few = with_values(trial_config, {"collection.holdout_images": 12})
    result = run_trial(few, store, folder=tmp_path / "trial", device="cpu")
    page = (tmp_path / "trial" / "report.html").read_text()
    assert result.metrics["agreement_is_plain_mean"] is (result.metrics["agreement_classes"] < 2)
    assert ("all together" in page) is result.metrics["agreement_is_plain_mean"]

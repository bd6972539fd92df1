"""A study's sections held against each other."""

from pathlib import Path
from typing import Any

import pytest

from hidfd.errors import ConfigError
from hidfd.pipeline.graph import plan
from tests.tune.world import TESTED, World, definition, trial
from tune.ledger.ledger import Ledger
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import Definition, define, differences, restore_definition


def on_workers(count: int, **values: Any) -> Definition:
    search = {"distillation.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}}
    resources = {"cpus": 1.0, "gpus": 0.0, "workers": float(count)}
    searched = SearchConfig.model_validate(search)
    return define("s", StudyConfig(), searched, trial(**values), Path("results"), resources=resources)


def test_batch_that_the_processes_cannot_share_is_refused_before_anything_starts() -> None:
    on_workers(4)
    named = r"resources.num_workers: trial.generation.batch_images 100, trial.distillation.batch_images 64: 3 processes"
    with pytest.raises(ConfigError, match=named):
        on_workers(3)


def test_batch_of_a_generator_that_no_trial_has_is_not_asked_about() -> None:
    batches = {"generation": {"networks": "light", "image_size_pixels": 28, "batch_images": 15}}
    with pytest.raises(ConfigError, match=r"trial.generation.batch_images 15"):
        on_workers(2, **batches)
    on_workers(2, **batches, synthesis={"num_images": 0})


def test_study_goes_on_where_an_older_version_wrote_defaults_out(monkeypatch: pytest.MonkeyPatch) -> None:
    world, study = World(), definition()
    world.planner(study)
    older = study.identity()
    for parameter in older["search"].values():
        parameter["step"] = None
    monkeypatch.setattr(Ledger, "identity", older)
    world.planner(study)
    older["search"]["distillation.inflation"]["high"] = 21.0
    with pytest.raises(ConfigError, match=r"distillation.inflation.high: 21.0 -> 20.0"):
        world.planner(study)


def test_study_that_leaves_out_validation_images_is_another_one_than_before() -> None:
    before = definition(collection={"num_images": 100, "holdout_images": 200, "leaves_out_validation": False})
    changes = list(differences(before.identity(), definition().identity()))
    assert changes == ["trial.collection.leaves_out_validation: null -> true"]
    unlabelled = definition(data=TESTED | {"validation": None})
    assert "leaves_out_validation" not in unlabelled.identity()["trial"]["collection"]


def test_a_study_of_an_older_version_is_restored_with_the_collection_that_it_has() -> None:
    before = definition(collection={"num_images": 100, "holdout_images": 200, "leaves_out_validation": False})
    restored = restore_definition("s", before.identity(), None, Path("results"))
    assert plan(restored.base)["collection"].digest == plan(before.base)["collection"].digest
    assert plan(definition().base)["collection"].digest != plan(before.base)["collection"].digest


def test_another_order_of_labels_makes_another_study() -> None:
    mapped = definition(data=TESTED | {"validation": {"sha256": "b" * 64, "label_order": [1, 0]}})
    changes = list(differences(definition(data=TESTED).identity(), mapped.identity()))
    assert changes == ["trial.data.validation.label_order: null -> [1, 0]"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("distillation.target_images", 64, "distillation.target_images: .*same number of student steps"),
        ("distillation.architecture", "resnet14", "distillation.architecture: .*another network"),
        ("distillation.inflation", 1.0, "distillation.inflation: .*collected images alone"),
        ("generation.width", 4, "generation.width: expected a setting of the student"),
        ("distillation.crop_scale", 0.5, "crop_scale.*did you mean trial.distillation.crop_scale_min"),
        ("distillation.crop_scale_min", 2.0, "distillation.crop_scale_min: .*found 2.0"),
    ],
)
def test_real_only_gets_settings_of_its_own_only_where_it_stays_the_same_comparison(
    path: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"study\.controls\.real_only_values.*{message}"):
        definition({"controls": {"real_only_values": {path: value}}})


def test_settings_of_real_only_may_need_each_other_and_are_not_part_of_what_the_study_is() -> None:
    values = {"distillation.feature_weight": 0.0, "distillation.kl_weight": 1.0}
    assert definition({"controls": {"real_only_values": values}}).identity() == definition().identity()

"""The choice of collected images, and the threshold that says which unseen images would have been chosen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import CollectionConfig, TrialConfig
from hidfd.errors import UnbuildableError
from hidfd.stages.collection import distinct_candidates, select
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.imports import Listener
from tests.hidfd.interruptions import artifact

LABELS = torch.tensor([0] * 8 + [1] * 8 + [2] * 2)
LOSSES = torch.tensor([0.1 * i for i in range(8)] + [1 + 0.1 * i for i in range(8)] + [0.05, 3.0])


def selected(losses: Tensor, labels: Tensor, mode: str, num_images: int) -> tuple[set[int], Tensor]:
    settings = CollectionConfig.model_validate({"num_images": num_images, "mode": mode, "holdout_images": 10})
    chosen, threshold = select(losses, labels, settings, 3, seed=0)
    assert len(chosen) == num_images
    return set(chosen.tolist()), threshold


def test_balanced_selection_takes_the_most_confident_of_each_class_and_fills_up_what_a_class_lacks() -> None:
    chosen, _ = selected(LOSSES, LABELS, "confident_per_class", 12)
    assert torch.bincount(LABELS[sorted(chosen)]).tolist() == [6, 4, 2]


@pytest.mark.parametrize("num_images", [2, 6, 9, 12, 17])
@pytest.mark.parametrize("mode", ["confident", "confident_per_class"])
def test_an_unseen_image_below_the_threshold_of_its_class_is_one_that_the_mode_would_take(
    mode: str, num_images: int
) -> None:
    _, threshold = selected(LOSSES, LABELS, mode, num_images)
    for label in range(3):
        for loss in torch.arange(-0.03, 4, 0.1):
            with_it = torch.cat([LOSSES, loss.view(1)]), torch.cat([LABELS, torch.tensor([label])])
            chosen, _ = selected(*with_it, mode, num_images)
            assert bool(loss <= threshold[label]) == (len(LOSSES) in chosen), (label, loss)


def test_a_class_with_too_few_candidates_takes_any_further_one() -> None:
    assert selected(LOSSES, LABELS, "confident_per_class", 12)[1][2] == float("inf")


def test_duplicates_and_images_of_the_labelled_splits_are_left_out_and_counted() -> None:
    pool = np.array([5, 7, 5, 9, 11, 13], dtype=np.uint64)
    splits = {"validation": np.array([9, 11, 99], dtype=np.uint64), "test": np.array([11, 7], dtype=np.uint64)}
    kept, num_duplicates, num_in = distinct_candidates(pool, splits)
    assert kept.tolist() == [0, 5]
    assert (num_duplicates, num_in) == (1, {"validation": 2, "test": 2})
    assert distinct_candidates(pool, {})[0].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_image_of_a_labelled_split_is_neither_collected_nor_held_out(
    world: Path, trial_config: TrialConfig, store: Store, split: str
) -> None:
    for number, found in enumerate(sorted((world / "validation").rglob("*.png"))[:12]):
        Image.open(found).save(world / "candidates" / f"leaked-{number}.bmp")  # the same pixels, other bytes and name
    data = {"data.validation": None, f"data.{split}": {"path": str(world / "validation")}}
    config = with_values(trial_config, data | {"collection.num_images": 30, "collection.holdout_images": 120})
    observer = Listener()
    result = run_trial(config, store, until="collection", observer=observer)
    meta = artifact(result, store, "collection").meta
    assert meta[f"num_in_{split}"] == 12
    assert (meta["num_candidates"], meta["num_collected"] + meta["num_holdout"]) == (162, 150)
    assert f"collection: left out of 162 candidates: 12 of the {split} images" in observer.notes
    with pytest.raises(UnbuildableError, match=rf"150 distinct images \(left out: 12 of the {split} images\)"):
        run_trial(with_values(config, {"collection.num_images": 31}), store, until="collection")

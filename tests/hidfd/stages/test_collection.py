"""The choice of collected images, and the threshold that says which unseen images would have been chosen."""

import pytest
import torch
from torch import Tensor

from hidfd.config.schema import CollectionConfig
from hidfd.stages.collection import select

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

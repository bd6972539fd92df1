"""An exported network is compared with its student on real images, and one that answers otherwise is an error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hidfd.errors import ExportError, StoreError
from hidfd.export.comparison import COMPARED_IMAGES, RELATIVE_TOLERANCE, compare, real_images
from hidfd.store.store import Store
from tests.hidfd.export.conftest import FinishedTrial


def moved_by(finished: FinishedTrial, difference: float) -> tuple[list[int], object]:
    """Return the sizes of the batches that were asked for, and a network whose logits are off by so much."""
    network, batches = finished.network, list[int]()

    def run(image_unit: NDArray[np.float32]) -> NDArray[np.float32]:
        batches.append(len(image_unit))
        return network(torch.from_numpy(image_unit)).numpy() + np.float32(difference)

    return batches, run


def test_hold_out_images_are_compared_in_batches_of_several_sizes(finished: FinishedTrial) -> None:
    images, split = real_images(finished.config, finished.store)
    assert split == "hold-out"
    assert images.shape == (110, 1, 28, 28)
    assert len(images) <= COMPARED_IMAGES
    batches, run = moved_by(finished, 1e-5)
    compared = compare(finished.network, run, images, split, "onnxruntime")
    assert batches == [1, 64, 45]
    assert compared.num_images == 110
    assert compared.largest_difference == pytest.approx(1e-5, rel=0.05)
    assert compared.tolerance >= RELATIVE_TOLERANCE
    assert compared.num_other_classes == 0
    words = compared.in_words("onnxruntime")
    assert words.startswith("110 hold-out images by onnxruntime against torch: largest difference of logits 1")
    assert f"(tolerance {compared.tolerance:.2g}), the same class for all" in words


@pytest.mark.parametrize("difference", [0.1, np.nan])
def test_network_that_answers_otherwise_is_an_error_with_difference_and_tolerance(
    difference: float, finished: FinishedTrial
) -> None:
    images, split = real_images(finished.config, finished.store)
    _, run = moved_by(finished, difference)
    with pytest.raises(ExportError, match=r"largest difference of logits .* \(tolerance .*Nothing was written"):
        compare(finished.network, run, images, split, "onnxruntime")


def test_validation_images_do_where_the_store_has_lost_the_hold_out(finished: FinishedTrial, tmp_path: Path) -> None:
    store = finished.store
    lacking = Store.open(tmp_path / "empty")
    with pytest.raises(StoreError, match="neither the hold-out nor validation images"):
        real_images(finished.config, lacking)

    class WithoutCollection(Store):
        def find(self, stage: str, digest: str):  # type: ignore[no-untyped-def]
            return None if stage == "collection" else store.find(stage, digest)

    images, split = real_images(finished.config, WithoutCollection(store._backend))
    assert (split, images.shape) == ("validation", (30, 1, 28, 28))

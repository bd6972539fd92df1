"""An exported network beside the student that it was made of, on real images of the trial."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import open_collection
from hidfd.data.image_set import open_images
from hidfd.data.pixels import unit_from_uint8
from hidfd.errors import ExportError, StoreError
from hidfd.export.formats import Run
from hidfd.export.network import DeployedStudent
from hidfd.formatting import plural
from hidfd.pipeline.graph import plan
from hidfd.store.store import Artifact, Store

COMPARED_IMAGES = 256
"""Number of real images, at most, that both networks answer."""

BATCH_IMAGES = 64
"""Images of a batch. The first one is a batch of its own, as an exported network must take any number."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference of logits that counts as round-off, as a share of the largest logit (at least 1).

Sums in another order differ by about 1e-6 of it in fp32, in all families of networks. A layer that was converted
wrongly differs by far more."""


@dataclass(frozen=True)
class LogitComparison:
    """The answers of an exported network beside those of torch.

    Attributes:
        num_images: images that both answered.
        split: `hold-out` or `validation`.
        largest_difference, tolerance: of logits.
        num_other_classes: images that they put into different classes; only such whose first two logits are as near.
    """

    num_images: int
    split: str
    largest_difference: float
    tolerance: float
    num_other_classes: int

    def in_words(self, runtime: str) -> str:
        """Return the comparison in one line.

        Args:
            runtime: what ran the exported network.
        """
        others = self.num_other_classes
        same = "the same class for all" if not others else f"another class for {plural(others, 'image')}"
        return (
            f"{plural(self.num_images, f'{self.split} image')} by {runtime} against torch: largest difference of "
            f"logits {self.largest_difference:.2g} (tolerance {self.tolerance:.2g}), {same}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


def real_images(config: TrialConfig, store: Store) -> tuple[Tensor, str]:
    """Return images of a trial that the student was not trained on, and what they are called.

    Returns:
        `n x c x h x h` uint8 of the hold-out, or, where the store lacks it, of the validation images.

    Raises:
        StoreError: the store has neither.
    """
    stages = plan(config)

    def find(role: str) -> Artifact | None:
        return store.find(stages[role].name, stages[role].digest) if role in stages else None

    collection, candidates, validation = find("collection"), find("candidates"), find("validation")
    if collection is not None and candidates is not None:
        return open_collection(collection, candidates).holdout[:COMPARED_IMAGES], "hold-out"
    if validation is not None:
        return torch.from_numpy(open_images(validation).pixels[:COMPARED_IMAGES]), "validation"
    raise StoreError(
        f"{store.uri}: has neither the hold-out nor validation images of this trial, on which an export is checked; "
        f"run it again, which brings them back and trains nothing that is there"
    )


@torch.no_grad()
def compare(network: DeployedStudent, run: Run, images_uint8: Tensor, split: str, runtime: str) -> LogitComparison:
    """Compare an exported network with the student in torch.

    Args:
        network: in torch.
        run: the exported one.
        images_uint8: `n x c x h x h`, real ones.
        split: what they are called.
        runtime: what runs the exported one.

    Raises:
        ExportError: the logits differ by more than round-off.
    """
    expected, found = [], []
    bounds = [0, *range(1, len(images_uint8), BATCH_IMAGES), len(images_uint8)]
    for start, end in itertools.pairwise(bounds):
        image_unit = unit_from_uint8(images_uint8[start:end])
        expected.append(network(image_unit).numpy())
        found.append(run(image_unit.numpy()))
    of_torch, of_exported = np.concatenate(expected), np.concatenate(found)
    if of_torch.shape != of_exported.shape:
        raise ExportError(f"the exported network gives {of_exported.shape[1:]} logits, not {of_torch.shape[1:]}")
    compared = LogitComparison(
        num_images=len(images_uint8),
        split=split,
        largest_difference=float(np.abs(of_exported - of_torch).max()),
        tolerance=RELATIVE_TOLERANCE * max(1.0, float(np.abs(of_torch).max())),
        num_other_classes=int((of_exported.argmax(axis=1) != of_torch.argmax(axis=1)).sum()),
    )
    if not compared.largest_difference <= compared.tolerance:
        raise ExportError(
            f"the exported network is another one than the student: {compared.in_words(runtime)}. Nothing was "
            f"written; try another --format, and report this with the architecture"
        )
    return compared

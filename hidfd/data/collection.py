"""The collected images and the hold-out, as all later stages read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hidfd.addresses import arrow_file
from hidfd.data.image_set import open_images
from hidfd.store.store import Artifact


@dataclass(frozen=True)
class Collection:
    """The collected images and the hold-out.

    Attributes:
        images, labels: `n_c x c x h x w` uint8 and `n_c` int64 pseudo-labels (the teacher's argmax).
        holdout: `n_h x c x h x w` uint8.
        reference: `n_h` bool: whether the selection's threshold would have taken the hold-out image.
    """

    images: Tensor
    labels: Tensor
    holdout: Tensor
    reference: Tensor

    @property
    def resident(self) -> tuple[Tensor, Tensor]:
        """The pixels, which are held as long as the collection is."""
        return self.images, self.holdout


def open_collection(artifact: Artifact, candidates: Artifact) -> Collection:
    """Read a collection and its pixels.

    Args:
        artifact: of the stage `collection`.
        candidates: the imported images that it selects from.
    """
    pixels = open_images(candidates).pixels
    with artifact.reading():
        table = pq.read_table(arrow_file(artifact.path("collection.parquet")))
        candidate = table["candidate"].to_numpy()
        collected = np.asarray(table["part"].to_pylist()) == "collected"
        labels = torch.from_numpy(table["pseudo_label"].to_numpy().astype(np.int64))
        reference = torch.from_numpy(table["reference"].to_numpy(zero_copy_only=False).astype(bool))
        is_collected = torch.from_numpy(collected)
        return Collection(
            images=torch.from_numpy(pixels[candidate[collected]]),
            labels=labels[is_collected],
            holdout=torch.from_numpy(pixels[candidate[~collected]]),
            reference=reference[~is_collected],
        )

"""The collected images D_c and the hold-out that students are judged by, both chosen from the candidates.

The order is: drop duplicates and images of the labelled splits (by pixel hash; their pixels and labels are never read),
set the hold-out aside by seed, then select. So the hold-out is one set for all trials of a study, unfiltered.

**Source**: selection is not in the authors' release; `confident` follows the collection-based literature (lowest
cross-entropy to the teacher's own argmax), and the hold-out is this project's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from hidfd.addresses import arrow_file
from hidfd.config.schema import CollectionConfig
from hidfd.data.image_set import open_images, open_pixel_hashes
from hidfd.distributed.random_streams import stream
from hidfd.errors import UnbuildableError
from hidfd.formatting import plural
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.watch import watched
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter

CHUNK_IMAGES = 2_000
"""Number of candidates that are in memory at once."""


def collect(
    context: StageContext,
    candidates: Artifact,
    test: Artifact | None,
    teacher: Teacher,
    *,
    validation: Artifact | None = None,
) -> Artifact:
    """Build the collection: indices into the candidates, with part, pseudo-label, loss and reference flag.

    Args:
        test, validation: the images of the labelled splits, to leave them out; None where the trial has none.

    Raises:
        UnbuildableError: too few distinct candidates for the hold-out and `num_images`.
        Stopped: the observer asked for it.
    """
    started = time.monotonic()
    stage, config, observer = context.stage, context.config, context.observer
    with watched(observer, stage, None, "collection"):
        images = open_images(candidates)
    labelled = {"validation": validation, "test": test}
    splits = {split: open_pixel_hashes(artifact) for split, artifact in labelled.items() if artifact is not None}
    kept, num_duplicates, num_in = distinct_candidates(images.pixel_hashes, splits)
    left_out = [f"{num_in[split]:,} of the {split} images" for split in splits if num_in[split]]
    if num_duplicates:
        left_out.insert(0, plural(num_duplicates, "duplicate"))
    without = f" (left out: {', '.join(left_out)})" if left_out else ""
    if left_out:
        observer.note(f"collection: left out of {len(images.pixels):,} candidates: {', '.join(left_out)}")
    settings = config.collection
    if len(kept) < settings.holdout_images + settings.num_images:
        raise UnbuildableError(
            f"trial.data.candidates: {plural(len(kept), 'distinct image')}{without} for trial.collection.num_images "
            f"{settings.num_images:,} and trial.collection.holdout_images {settings.holdout_images:,}; collect more, "
            f"or lower one of the two"
        )
    observer.stage_started(stage, len(kept))
    chunks = np.split(kept, range(CHUNK_IMAGES, len(kept), CHUNK_IMAGES))  # they may not fit into memory
    with watched(observer, stage, len(kept), "collection"):
        asked = (teacher.ask_all(torch.from_numpy(images.pixels[chunk]), context.device) for chunk in chunks)
        logits = torch.cat([answer.logits for answer in asked])
    labels = logits.argmax(dim=1)
    losses = F.cross_entropy(logits, labels, reduction="none")

    shuffled = torch.randperm(len(kept), generator=stream(config.seeds.collection, "collection", "holdout"))
    holdout, rest = shuffled[: settings.holdout_images], shuffled[settings.holdout_images :]
    chosen, threshold = select(losses[rest], labels[rest], settings, config.data.num_classes, config.seeds.collection)
    chosen = rest[chosen]
    reference = losses[holdout] <= threshold[labels[holdout]]

    index = torch.cat([chosen, holdout])
    table = pa.table(
        {
            "candidate": torch.from_numpy(kept)[index].numpy(),
            "part": ["collected"] * len(chosen) + ["holdout"] * len(holdout),
            "pseudo_label": labels[index].numpy(),
            "loss": losses[index].numpy(),
            "reference": torch.cat([torch.ones(len(chosen), dtype=torch.bool), reference]).numpy(),
        }
    )

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        pq.write_table(table, arrow_file(writer.path("collection.parquet"), "wb"))
        in_validation = {"num_in_validation": num_in["validation"]} if "validation" in num_in else {}
        return in_validation | {
            "num_candidates": len(images.pixels),
            "num_duplicates": num_duplicates,
            "num_in_test": num_in.get("test", 0),
            "checked_against_test": test is not None,
            "num_collected": len(chosen),
            "num_holdout": len(holdout),
            "num_reference": int(reference.sum()),
            "histogram": torch.bincount(labels[chosen], minlength=config.data.num_classes).tolist(),
        }

    return context.keep(write, seconds=time.monotonic() - started)


def distinct_candidates(
    pixel_hashes: np.ndarray, splits: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, int, dict[str, int]]:
    """Return the candidates without duplicates and without images of the labelled splits.

    Args:
        pixel_hashes: `n` uint64, one per candidate.
        splits: name of a labelled split -> uint64, one per image of it.

    Returns:
        Kept indices (`m` int64, ascending), the number of duplicates, and by split the number of distinct candidates
        that are in it (an image that two splits share counts in both).
    """
    _, first = np.unique(pixel_hashes, return_index=True)
    first.sort()
    inside = {split: np.isin(pixel_hashes[first], hashes) for split, hashes in splits.items()}
    kept = first[~np.any(list(inside.values()), axis=0)] if inside else first
    num_in = {split: int(found.sum()) for split, found in inside.items()}
    return kept.astype(np.int64), len(pixel_hashes) - len(first), num_in


def select(
    losses: Tensor, labels: Tensor, settings: CollectionConfig, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Choose n_c of m candidates.

    Args:
        losses: `m` float, cross-entropy to the teacher's own argmax.
        labels: `m` int64, that argmax.

    Returns:
        Indices of the chosen candidates (`n_c` int64), and per class (`K` float) the largest loss that the mode takes.
    """
    if settings.mode == "random":
        order = torch.randperm(len(losses), generator=stream(seed, "collection", "selection"))
        return order[: settings.num_images], torch.full((num_classes,), float("inf"))
    by_confidence = torch.argsort(losses, stable=True)
    if settings.mode == "confident":
        chosen = by_confidence[: settings.num_images]
        return chosen, torch.full((num_classes,), losses[chosen].max().item())

    # Balanced: the same number of each class; where a class has too few, the most confident of the others fill up.
    share = settings.num_images // num_classes
    ranked = labels[by_confidence]
    taken = torch.zeros(len(ranked), dtype=torch.bool)
    threshold = torch.full((num_classes,), float("-inf"))
    for k in range(num_classes):
        best = torch.nonzero(ranked == k).flatten()[:share]
        taken[best] = True
        if len(best) < share:
            threshold[k] = float("inf")  # one more image of so rare a class is taken whatever its loss
        elif share > 0:
            threshold[k] = losses[by_confidence[best[-1]]]
    filling = torch.nonzero(~taken).flatten()[: settings.num_images - int(taken.sum())]
    if len(filling):
        taken[filling] = True
        threshold = threshold.clamp(min=losses[by_confidence[filling[-1]]].item())
    return by_confidence[taken], threshold

"""Samples of the EMA generator during its training: the sample grid, and the proxies of its quality.

Both draw from random streams of their own and change nothing that the training reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hidfd.data.collection import Collection
from hidfd.data.pictures import tile
from hidfd.data.pixels import resize_uint8, uint8_from_unit, unit_from_signed, unit_from_uint8
from hidfd.distributed.random_streams import Draws, stream
from hidfd.metrics.generator import confidence_and_entropy, density_and_coverage, memorisation, teacher_deviation
from hidfd.networks.layers import batch_norm_reestimation
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.views.augmentation import random_resized_crop

GRID_COLUMNS = 8
GRID_MAX_ROWS = 20
"""Number of classes that the sample grid shows."""

MAX_PROXY_IMAGES = 2_000
"""Number of hold-out images that the proxies compare with."""

SAMPLED_AT_ONCE = 250
"""Number of samples that are made, or viewed, at the same time."""

VIEW_SCALE_MIN = 0.08
"""Smallest share of the area in the views of `teacher_deviation`: the paper's for students. Not the trial's own:
students that differ in it share one generator and its numbers."""


class GeneratorProbe:
    """The EMA generator of a training: its samples, compared with the hold-out and the collected images.

    Args:
        training: the GAN; only the batch-norm statistics of its EMA generator are changed.
        collection: the images to compare with; the teacher sees as many samples as there are hold-out images.
    """

    def __init__(self, training: AdversarialTraining, collection: Collection) -> None:
        self.training, self.settings, self.device = training, training.settings, training.device
        teacher, size = training.teacher, training.settings.image_size_pixels
        # At the generator's size, like its own images and the collected ones: else size alone would tell them apart.
        holdout = resize_uint8(collection.holdout[:MAX_PROXY_IMAGES], size)
        self.holdout_features = teacher.ask_all(holdout, self.device).pooled
        reference = resize_uint8(collection.holdout[collection.reference][:MAX_PROXY_IMAGES], size)
        self.reference_features = (
            teacher.ask_all(reference, self.device).pooled if len(reference) else torch.empty(0, 1)
        )
        self.reference_pixels = reference.flatten(1).float() if len(reference) else torch.empty(0, 1)
        self.collected_pixels = training.real[0].cpu().flatten(1).float()

    @torch.no_grad()
    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images of the EMA generator, uint8 on the CPU; call `reestimate_statistics` before the first."""
        parts = []
        for part_z, part_labels in zip(
            torch.split(z, SAMPLED_AT_ONCE), torch.split(labels, SAMPLED_AT_ONCE), strict=True
        ):
            with self.device.autocast():
                signed = self.training.ema(self.device.put(part_z), self.device.put(part_labels))
            parts.append(uint8_from_unit(unit_from_signed(signed)).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def reestimate_statistics(self) -> None:
        """Estimate the batch-norm statistics of the EMA weights over a fixed stream: stale ones spoil short runs."""
        with batch_norm_reestimation(self.training.ema):
            for number in range(self.settings.statistics_batches):
                z, labels = self.training.latents(number, max(self.settings.batch_images, 100), "statistics")
                with self.device.autocast():
                    self.training.ema(z, labels)

    def sample_grid(self) -> Tensor:
        """Return `c x H x W` uint8: one row per class, the same noise at every point of the run."""
        rows = self.training.present_classes[:GRID_MAX_ROWS]
        z, _ = self.training.latents(0, GRID_COLUMNS * len(rows), "grid")
        self.reestimate_statistics()
        return tile(self.sample(z.cpu(), rows.repeat_interleave(GRID_COLUMNS)), GRID_COLUMNS)

    def proxies(self) -> dict[str, float | None]:
        """Measure as many samples as there are hold-out images (at most 2,000) by the teacher's answers to them.

        Returns:
            Name -> value; None where there are too few reference images for a measure.
        """
        z, labels = self.training.latents(0, len(self.holdout_features), "proxies")
        self.reestimate_statistics()
        samples = self.sample(z.cpu(), labels.cpu())
        answer = self.training.teacher.ask_all(samples, self.device)
        measured: dict[str, float | None] = {**confidence_and_entropy(answer.logits)}
        measured["label_agreement"] = (answer.logits.argmax(dim=1) == labels.cpu()).float().mean().item()
        measured["teacher_deviation"] = teacher_deviation(self._view_logits(samples))
        measured |= density_and_coverage(self.holdout_features, answer.pooled)
        spaces = {
            "memorisation": (self.training.real_features[0].cpu(), answer.pooled, self.reference_features),
            "memorisation_pixels": (self.collected_pixels, samples.flatten(1).float(), self.reference_pixels),
        }
        for name, (collected, synthetic, reference) in spaces.items():
            result = memorisation(collected, synthetic, reference)
            measured[name] = None if result is None else result[0]
            measured[f"{name}_standard_error"] = None if result is None else result[1]
        return measured

    def _view_logits(self, samples: Tensor) -> Tensor:
        """Return the teacher's logits, `n x K`, of a random crop (mirrored or not) of each of `n x c x h x w` uint8."""
        teacher, logits = self.training.teacher, []
        for number, part in enumerate(torch.split(samples, SAMPLED_AT_ONCE)):
            draws = Draws(stream(self.training.seed, "generation", "views", number))
            size = teacher.image_size_pixels
            views = random_resized_crop(unit_from_uint8(part), size, draws, scale_min=VIEW_SCALE_MIN, flip=True)
            logits.append(teacher.ask_all(uint8_from_unit(views), self.device).logits)
        return torch.cat(logits)

"""Views that are drawn anew for every batch, as in the paper: crop and flip, optionally mixed.

Every number comes from (seed, purpose, images seen), so views are the same after a resume and on several processes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hidfd.config.schema import DistillationConfig
from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import Draws, stream
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.views.augmentation import random_resized_crop
from hidfd.views.mixing import mix, partners
from hidfd.views.sampler import HybridSampler


class Views(Protocol):
    """The batches of views that a student learns from, with the teacher's answers."""

    @property
    def resident(self) -> tuple[Tensor, ...]:
        """The tensors on the device that are held between two steps."""

    def batch(self, images_seen: int) -> tuple[Tensor, TeacherOutput]:
        """Return the batch that follows `images_seen` images, normalised, and the teacher's answer to it.

        On several processes each gets its rows of the batch, however many real and synthetic images are in them.
        """


class FreshViews:
    """Views that the teacher answers in every step.

    Args:
        real: `n_c x c x h x w` uint8 on the device, or None for none.
        synthetic: `n_s x c x h x w` uint8 on the device, or None for none.
        sampler: chooses the images of a batch.
    """

    def __init__(
        self,
        real: Tensor | None,
        synthetic: Tensor | None,
        sampler: HybridSampler,
        teacher: Teacher,
        settings: DistillationConfig,
        seed: int,
        device: Device,
    ) -> None:
        self.real, self.synthetic, self.sampler, self.teacher = real, synthetic, sampler, teacher
        self.settings, self.seed, self.device = settings, seed, device
        self.resident = tuple(images for images in (real, synthetic) if images is not None)

    def batch(self, images_seen: int) -> tuple[Tensor, TeacherOutput]:
        """Draw views of the next images, real ones first, at the teacher's size, and have the teacher answer them."""
        image_normalised = self.teacher.normalised(self.draw(images_seen))
        with self.device.autocast(), torch.no_grad():
            return image_normalised, self.teacher.ask(image_normalised)

    def draw(self, images_seen: int) -> Tensor:
        """Draw the views of a batch, unit images, `b x c x s x s`."""
        settings = self.settings
        index = self.sampler.batch(images_seen, settings.batch_images)
        own = torch.arange(settings.batch_images)[self.device.processes.rows(settings.batch_images)]
        if settings.mix == "none":
            return self._augmented(index, own, images_seen)
        numbers = stream(self.seed, "distillation", "mix", images_seen)
        groups = [settings.batch_images] if settings.mix_across else [len(part) for part in index]
        partner = partners(groups, numbers)[own]
        needed, position = torch.unique(torch.cat([own, partner]), return_inverse=True)
        views = self._augmented(index, needed, images_seen)
        view, other = views[self.device.put(position)].chunk(2)
        draws = Draws(numbers, settings.batch_images, own)
        return mix(view, other, settings.mix, draws, fraction=settings.mix_fraction)

    def _augmented(self, index: tuple[Tensor, Tensor], rows: Tensor, images_seen: int) -> Tensor:
        """Return these rows of a batch, cropped and flipped."""
        numbers = stream(self.seed, "distillation", "views", images_seen)
        views, offset = [], 0
        for images, part, crop_fraction in zip(
            (self.real, self.synthetic), index, crop_fractions(self.settings), strict=True
        ):
            if images is not None and len(part):
                of_part = rows[(rows >= offset) & (rows < offset + len(part))] - offset
                views.append(
                    random_resized_crop(
                        unit_from_uint8(images[self.device.put(part[of_part])]),
                        self.teacher.image_size_pixels,
                        Draws(numbers, len(part), of_part),
                        scale_min=self.settings.crop_scale_min,
                        flip=self.settings.flip,
                        crop_fraction=crop_fraction,
                    )
                )
            offset += len(part)
        return torch.cat(views)


def crop_fractions(settings: DistillationConfig) -> tuple[float, float]:
    """Return the shares of real and of synthetic views that are cropped."""
    synthetic = settings.crop_fraction_synthetic
    return settings.crop_fraction, settings.crop_fraction if synthetic is None else synthetic

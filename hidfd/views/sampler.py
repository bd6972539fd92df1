"""The sampler of the hybrid data set: collected images, N times per pass, and synthetic images, in one seeded order.

**Source**: data inflation of the paper (optimum N = 10: 5,000 x 10 + 50,000 = 1:1). Departure: the number of steps is
fixed whatever the length of a pass, so that a sweep over N costs the same at every N; N may be any real number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hidfd.distributed.random_streams import stream


class HybridSampler:
    """Sampler that chooses the images of a batch from the seed and the number of images seen before it alone.

    Args:
        num_real: n_c, number of collected images; 0 = none.
        num_synthetic: n_s, number of synthetic images; 0 = none.
        inflation: N >= 0, appearances of a collected image per pass. For a fraction of N, a seeded choice of images,
            drawn anew in each pass, appears once more. Without synthetic images N has no effect and is taken as 1.
        seed: of the stage.
        stage: `distillation`; or `generation`, for the real images that D sees.
    """

    def __init__(
        self, num_real: int, num_synthetic: int, inflation: float, seed: int, stage: str = "distillation"
    ) -> None:
        self.num_real = num_real
        self.num_synthetic = num_synthetic
        self.inflation = inflation if num_synthetic else 1.0
        self.seed = seed
        self.stage = stage
        self._pass_number = -1
        self._pass_order = torch.empty(0, dtype=torch.int64)
        if self.pass_images == 0:
            raise ValueError("the hybrid set is empty: no synthetic images and an inflation of 0")

    @property
    def pass_images(self) -> int:
        """Length of one pass in images, N n_c + n_s (rounded)."""
        return round(self.inflation * self.num_real) + self.num_synthetic

    @property
    def real_share(self) -> float:
        """Share of collected images in a pass, N n_c / (N n_c + n_s)."""
        return round(self.inflation * self.num_real) / self.pass_images

    def batch(self, images_seen: int, batch_images: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the batch that follows `images_seen` images.

        Returns:
            real: `r` int64 indices into the collected images; synthetic: `b - r` int64 into the synthetic ones.
        """
        parts = []
        position, wanted = images_seen, batch_images
        while wanted > 0:
            number, offset = divmod(position, self.pass_images)
            part = self._order(number)[offset : offset + wanted]
            parts.append(part)
            position += len(part)
            wanted -= len(part)
        index = torch.cat(parts)
        is_real = index < self.num_real
        return index[is_real], index[~is_real] - self.num_real

    def _order(self, number: int) -> Tensor:
        if number != self._pass_number:
            draws = stream(self.seed, self.stage, "pass", number)
            whole = math.floor(self.inflation)
            real = torch.arange(self.num_real)
            extra = round(self.inflation * self.num_real) - whole * self.num_real
            synthetic = torch.arange(self.num_real, self.num_real + self.num_synthetic)
            entries = torch.cat([real.repeat(whole), torch.randperm(self.num_real, generator=draws)[:extra], synthetic])
            self._pass_order = entries[torch.randperm(len(entries), generator=draws)]
            self._pass_number = number
        return self._pass_order

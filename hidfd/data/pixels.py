"""Value ranges of images, and the one conversion between each range and the next.

    uint8       b x c x h x w, 0..255        in the store and in the memory of the device
    unit        float, [0, 1]                input and output of augmentations
    signed      float, [-1, 1]               output of G and input of D
    normalised  float, mean 0 and sd 1       input of a teacher and its student; only `Normalization` produces it

The name of a tensor says which: `image_unit`, `image_signed`. The authors' release feeds signed images to a teacher
trained on normalised ones and uses three statistics for one teacher; here each teacher has one `Normalization`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESIZED_AT_ONCE = 512
"""Number of images of a set that are floats at the same time."""


def unit_from_uint8(image_uint8: Tensor) -> Tensor:
    """Convert `b x c x h x w` uint8 to float32 in [0, 1]."""
    return image_uint8.float() / 255.0


def uint8_from_unit(image_unit: Tensor) -> Tensor:
    """Convert `b x c x h x w` float in [0, 1] (clamped) to uint8, rounded; the contrast is not stretched per image."""
    return image_unit.float().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)


def signed_from_unit(image_unit: Tensor) -> Tensor:
    """Convert [0, 1] to [-1, 1]."""
    return image_unit * 2.0 - 1.0


def unit_from_signed(image_signed: Tensor) -> Tensor:
    """Convert [-1, 1] to [0, 1]."""
    return (image_signed + 1.0) / 2.0


def resize_unit(image_unit: Tensor, size_pixels: int) -> Tensor:
    """Resize images differentiably: the only resize between the size of the GAN's images and the teacher's.

    Args:
        image_unit: `b x c x h x h` float.
        size_pixels: side of the result.

    Returns:
        `b x c x size x size`: bilinear, with antialiasing when it shrinks. The image itself if it has the size.
    """
    if image_unit.shape[-1] == size_pixels:
        return image_unit
    return F.interpolate(image_unit, size=(size_pixels, size_pixels), mode="bilinear", antialias=True)


def resize_uint8(images_uint8: Tensor, size_pixels: int) -> Tensor:
    """Resize a set of uint8 images, `n x c x h x h` to `n x c x size x size`; the set itself where the size is right.

    A few hundred at a time, because all of them as floats would take four times the memory of the set.
    """
    if images_uint8.shape[-1] == size_pixels:
        return images_uint8
    parts = torch.split(images_uint8, RESIZED_AT_ONCE)
    return torch.cat([uint8_from_unit(resize_unit(unit_from_uint8(part), size_pixels)) for part in parts])


class Normalization(nn.Module):
    """Convert unit images to the input that a teacher was trained with: (x - mean) / std per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1))

    def forward(self, image_unit: Tensor) -> Tensor:
        return (image_unit - self.mean) / self.std

    def inverse(self, image_normalised: Tensor) -> Tensor:
        """Convert back; the result leaves [0, 1] where the normalised image does not come from such a one."""
        return image_normalised * self.std + self.mean

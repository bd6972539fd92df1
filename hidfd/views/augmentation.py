"""Augmentations of whole batches on the device; the random numbers are drawn on the CPU
(`hidfd.distributed.random_streams.Draws`).

All functions take and return `b x c x h x w` float images, and none loops over images in Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hidfd.distributed.device import to_device
from hidfd.distributed.random_streams import Draws


def random_resized_crop(
    image_unit: Tensor, size_pixels: int, draws: Draws, *, scale_min: float, flip: bool, crop_fraction: float = 1.0
) -> Tensor:
    """Apply RandomResizedCrop and a horizontal flip as one bilinear sampling.

    Args:
        image_unit: `b x c x h x w` in [0, 1].
        size_pixels: side of the result.
        draws: random numbers for these images.
        scale_min: smallest share of the area, in (0, 1]; aspect ratio is log-uniform in [3/4, 4/3].
        flip: mirror each image with probability one half.
        crop_fraction: probability with which an image is cropped, else it stays whole.

    Returns:
        `b x c x size x size`.

    **Source**: Inception's crop as torchvision draws it, with two departures: a side that would leave the image is
    clamped to it instead of drawn again, and there is no antialiasing.
    """
    batch = image_unit.shape[0]
    uniform = draws.uniform(5, batch)
    area = scale_min + (1.0 - scale_min) * uniform[0]
    ratio = torch.exp((uniform[1] * 2 - 1) * math.log(4 / 3))
    width = torch.sqrt(area * ratio).clamp_(max=1.0)
    height = torch.sqrt(area / ratio).clamp_(max=1.0)
    centre_x = (uniform[2] * 2 - 1) * (1 - width)
    centre_y = (uniform[3] * 2 - 1) * (1 - height)
    if crop_fraction < 1.0:
        is_whole = draws.uniform(1, batch)[0] >= crop_fraction
        width, height = width.masked_fill(is_whole, 1.0), height.masked_fill(is_whole, 1.0)
        centre_x, centre_y = centre_x.masked_fill(is_whole, 0.0), centre_y.masked_fill(is_whole, 0.0)
    if flip:
        width = torch.where(uniform[4] < 0.5, -width, width)
    box = torch.stack([width, height, centre_x, centre_y])
    return _sample(image_unit, box, size_pixels, padding_mode="border")


def random_shift(image_unit: Tensor, padding_pixels: int, draws: Draws, *, flip: bool) -> Tensor:
    """Apply a random crop after zero padding (whole-pixel shifts of up to `padding_pixels`) and a horizontal flip.

    **Source**: the usual training augmentation of CIFAR classifiers (He et al. 2016).
    """
    batch, _, size, _ = image_unit.shape
    shift = draws.integers(-padding_pixels, padding_pixels + 1, 2, batch) * (2.0 / size)
    sign = torch.where(draws.uniform(1, batch)[0] < 0.5, -1.0, 1.0) if flip else torch.ones(batch)
    box = torch.stack([sign, torch.ones(batch), shift[0], shift[1]])
    return _sample(image_unit, box, size, padding_mode="zeros")


def diff_augment(image_signed: Tensor, policies: Sequence[str], draws: Draws) -> Tensor:
    """Augment the images that D sees, real and generated alike, in a differentiable way.

    Args:
        image_signed: `b x c x h x w` in [-1, 1].
        policies: any of `color`, `translation`, `cutout`, applied in this order.
        draws: random numbers for these images.

    **Source**: Zhao et al. 2020 (DiffAugment), with the published strengths: brightness +-0.5, saturation x 0..2,
    contrast x 0.5..1.5, translation up to 1/8, cutout of 1/2 the side. Departure: a translation brings in black, the
    colour with which import pads images, and not the published mid grey; cutout leaves mid grey, as published.
    """
    for policy in ("color", "translation", "cutout"):
        if policy in policies:
            image_signed = _POLICIES[policy](image_signed, draws)
    return image_signed


def _color(image: Tensor, draws: Draws) -> Tensor:
    batch, channels = image.shape[:2]
    uniform = to_device(draws.uniform(3, batch)[..., None, None, None], image.device)
    image = image + (uniform[0] - 0.5)
    if channels > 1:
        grey = image.mean(dim=1, keepdim=True)
        image = grey + (image - grey) * (uniform[1] * 2)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (image - mean) * (uniform[2] + 0.5)


def _translation(image: Tensor, draws: Draws) -> Tensor:
    batch, _, height, width = image.shape
    reach = max(1, round(height / 8))
    shift = to_device(draws.integers(-reach, reach + 1, 2, batch), image.device)
    rows = torch.arange(height, device=image.device) + shift[0].view(-1, 1) + reach
    columns = torch.arange(width, device=image.device) + shift[1].view(-1, 1) + reach
    padded = F.pad(image, (reach, reach, reach, reach), value=-1.0)
    index = torch.arange(batch, device=image.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[index, rows.unsqueeze(2), columns.unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)


def _cutout(image: Tensor, draws: Draws) -> Tensor:
    batch, _, height, width = image.shape
    side = height // 2
    corner = to_device(draws.integers(-(side // 2), height - side // 2, 2, batch), image.device)
    rows = torch.arange(height, device=image.device) - corner[0].view(-1, 1)
    columns = torch.arange(width, device=image.device) - corner[1].view(-1, 1)
    inside = ((rows >= 0) & (rows < side)).unsqueeze(2) & ((columns >= 0) & (columns < side)).unsqueeze(1)
    return image * (~inside).unsqueeze(1)


_POLICIES = {"color": _color, "translation": _translation, "cutout": _cutout}


def _sample(image: Tensor, box: Tensor, size_pixels: int, *, padding_mode: str) -> Tensor:
    """Sample one box of each image bilinearly, `b x c x h x w` to `b x c x size x size`.

    Args:
        box: `4 x b` on the CPU: half width (negative mirrors), half height and centre (x, y) of each box, where the
            image reaches from -1 to 1.
    """
    if len(image) == 0:  # one of several processes may have no real images in a batch, and torch refuses an empty grid
        return image.new_empty(0, image.shape[1], size_pixels, size_pixels)
    width, height, centre_x, centre_y = to_device(box, image.device)[..., None]
    # Not `F.affine_grid`, which is a matrix product: TF32 would round its coordinates to 1/100 of a pixel.
    middles = torch.linspace(-1, 1, size_pixels, device=image.device) * (size_pixels - 1) / size_pixels
    x, y = middles * width + centre_x, middles * height + centre_y  # `b x size` each
    shape = (len(image), size_pixels, size_pixels)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)

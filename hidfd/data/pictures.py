"""Images for people to look at: several of them tiled into one, and encoded as PNG."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor


def tile(images_uint8: Tensor, columns: int) -> Tensor:
    """Tile images of one size into one image, row by row.

    Args:
        images_uint8: `n x c x h x w`, where n is a multiple of `columns`.
        columns: number of images in a row.

    Returns:
        `c x (n / columns * h) x (columns * w)`.
    """
    count, channels, height, width = images_uint8.shape
    rows = count // columns
    tiles = images_uint8.view(rows, columns, channels, height, width)
    return tiles.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def encode_png(image_uint8: Tensor) -> bytes:
    """Encode a `c x h x w` uint8 image as PNG, grey for one channel and RGB for three, as small as Pillow makes it."""
    array = image_uint8.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

"""Images for people to look at: every tile in its place, and PNGs that hold the pixels unchanged."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hidfd.data.pictures import encode_png, tile


def images(channels: int, count: int = 6, height: int = 4, width: int = 5) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), generator=draws, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_fill_rows_from_left_to_right(channels: int) -> None:
    several = images(channels)
    picture = tile(several, 3)
    assert picture.shape == (channels, 8, 15)
    for number, image in enumerate(several):
        top, left = 4 * (number // 3), 5 * (number % 3)
        assert torch.equal(picture[:, top : top + 4, left : left + 5], image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_holds_the_pixels(channels: int, mode: str) -> None:
    (image,) = images(channels, count=1)
    decoded = Image.open(io.BytesIO(encode_png(image)))
    assert (decoded.format, decoded.mode) == ("PNG", mode)
    assert np.array_equal(np.asarray(decoded).reshape(4, 5, channels), image.permute(1, 2, 0).numpy())

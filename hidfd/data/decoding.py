"""Decoding of JPEG and PNG of any size and colour mode to uint8 pixels of one size. Torch-free.

EXIF rotation is applied; transparent images are put on white; CMYK and palettes become RGB; 16 bits are scaled to 8;
colour profiles are ignored.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_FORMATS = ("JPEG", "PNG", "WEBP")  # some servers send WebP under the name .jpg
_PIL_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    NotImplementedError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors that Pillow raises for damaged files."""


@dataclass(frozen=True)
class Decoded:
    """Decoded images of one size.

    Attributes:
        pixels: `n x c x h x w` uint8 of the readable images, in order.
        pixel_hashes: `n` uint64 of the same images, see `pixel_hash`.
        broken: index of an unreadable image in the input -> reason.
    """

    pixels: NDArray[np.uint8]
    pixel_hashes: NDArray[np.uint64]
    broken: dict[int, str]


def pixel_hash(pixels: NDArray[np.uint8]) -> int:
    """Return a hash that identifies an image by its pixels, independent of file format, import, split and study.

    Args:
        pixels: `h x w x c` uint8 before fitting, c = 1 or 3, the `channels` of the trial.

    Returns:
        The first 8 bytes, big-endian, of the sha256 of `"(h, w, c)"` followed by the bytes.
    """
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


def decode(sources: Sequence[Path | bytes | None], channels: int, side: int, fit: Literal["crop", "pad"]) -> Decoded:
    """Decode and fit images; unreadable ones are listed in `broken` instead of raising.

    Args:
        sources: files, or their bytes; None counts as broken.
        channels: 1 = grey, 3 = RGB.
        side: side of the square results, in pixels.
        fit: see `fit_image`.
    """
    pixels = np.empty((len(sources), channels, side, side), dtype=np.uint8)
    hashes = np.empty(len(sources), dtype=np.uint64)
    broken: dict[int, str] = {}
    good = 0
    for index, source in enumerate(sources):
        try:
            image = open_image(source, channels)
            hashes[good] = pixel_hash(_array(image))
            pixels[good] = _array(fit_image(image, side, fit)).transpose(2, 0, 1)
        except _PIL_ERRORS as error:
            broken[index] = str(error) or type(error).__name__
        else:
            good += 1
    return Decoded(pixels[:good], hashes[:good], broken)


def open_image(source: Path | bytes | None, channels: int) -> Image.Image:
    """Read one image, upright, in mode `L` (1 channel) or `RGB` (3).

    Raises:
        OSError, ValueError, SyntaxError, ...: it cannot be read; Pillow has no common error for it, see `_PIL_ERRORS`.
    """
    if source is None:
        raise ValueError("no image bytes in this row")
    content = source.read_bytes() if isinstance(source, Path) else source
    image: Image.Image = Image.open(io.BytesIO(content), formats=_FORMATS)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(np.clip(wide, 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def fit_image(image: Image.Image, side: int, fit: Literal["crop", "pad"]) -> Image.Image:
    """Return the image with `side` x `side` pixels; an image that has this size already is not changed.

    `crop`: the largest centred square, resized (bicubic, antialiased). `pad`: centred on black, shrunk if it does not
    fit, never enlarged.
    """
    if image.size == (side, side):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    if max(image.size) > side:
        image = ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _array(image: Image.Image) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
    return array if array.ndim == 3 else array[:, :, None]

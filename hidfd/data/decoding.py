"""Decoding of images of any size and colour mode to uint8 pixels of one size. Torch-free.

EXIF rotation is applied; transparent images are put on white; CMYK and palettes become RGB; 16 bits are scaled to 8;
colour profiles are ignored; of several frames or pages the first one counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import logging
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging

from hidfd.data.object_path import Location
from hidfd.errors import InputError

FIRST_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""Suffixes that were read before there were others: a content hash may have been taken over files of these alone."""

IMAGE_SUFFIXES = FIRST_SUFFIXES | {".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

MAX_FILE_BYTES = 2 << 30
"""Bytes above which a file is not read: more than the pixels of the largest image that Pillow decodes."""

_FIRST_FORMATS = ("JPEG", "PNG", "WEBP")  # some servers send WebP under the name .jpg
_FORMATS = (*_FIRST_FORMATS, "BMP", "GIF", "TIFF")

PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 262, 0
"""A tag of TIFF, and its value in images whose largest number is black."""

_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (rb"....ftyp", "MP4 or a film of its kind"),
    (rb"\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop file"),
    (rb"%PDF", "PDF"),
    (rb"PK\x03\x04", "ZIP archive"),
    (rb"\x1f\x8b", "gzip archive"),
    (rb"version https://git-lfs", "Git LFS pointer (`git lfs pull` fetches what it points to)"),
    (rb"/annex/objects/", "git-annex pointer (`git annex get` fetches what it points to)"),
    (rb"(?i)\s*<(!doctype html|html)", "HTML page"),
    (rb"(?i)\s*<(svg|\?xml)", "SVG or other XML"),
)
"""How files begin, as regular expressions, and what they then are."""

_WORDS = {
    errno.ENOENT: "is not there any more",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENOTDIR: "is a link to nowhere",
    errno.ENAMETOOLONG: "is a link to a name that is too long",
    errno.EACCES: "may not be read (permission denied)",
    errno.EPERM: "may not be read (not permitted)",
    errno.EIO: "cannot be read from its disk (input/output error)",
}
"""Error numbers that concern one file, which then counts as broken; all others end the import."""


_PLAIN_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Errors of Pillow whose message says it all; of others the class is named too."""


class UnreadableImageError(ValueError):
    """One image cannot be read; the message is the reason, the same in every run."""


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


def decode(
    sources: Sequence[Location | bytes | None],
    channels: int,
    side: int,
    fit: Literal["crop", "pad"],
    is_given_up: Callable[[], bool] = lambda: False,
) -> Decoded:
    """Decode and fit images; unreadable ones are listed in `broken` instead of raising.

    Args:
        sources: files, or their bytes; None counts as broken.
        channels: 1 = grey, 3 = RGB.
        side: side of the square results, in pixels.
        fit: see `fit_image`.
        is_given_up: asked before each image, from whatever thread; then the rest is left out, and nobody needs it.
    """
    pixels = np.empty((len(sources), channels, side, side), dtype=np.uint8)
    hashes = np.empty(len(sources), dtype=np.uint64)
    broken: dict[int, str] = {}
    good = 0
    for index, source in enumerate(sources):
        if is_given_up():
            break
        try:
            image = open_image(source, channels)
            hashes[good] = pixel_hash(_array(image))
            pixels[good] = _array(fit_image(image, side, fit)).transpose(2, 0, 1)
        except ValueError as error:
            broken[index] = _one_line(error)
        else:
            good += 1
    return Decoded(pixels[:good], hashes[:good], broken)


def open_image(source: Location | bytes | None, channels: int) -> Image.Image:
    """Read one image, upright, in mode `L` (1 channel) or `RGB` (3).

    Bytes, and files named as JPEG or PNG, are read as JPEG, PNG or WebP alone: their content hashes are older than the
    other formats, and name the same images as ever.

    Raises:
        UnreadableImageError: it cannot be read.
        InputError: nothing can be read, as after the loss of a network drive.
    """
    content = _content_of(source)
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=_formats_of(source))
        kind = image.format
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_what_it_is(content[:64], source)) from error
    except Exception as error:  # whatever a damaged file makes Pillow raise, which has no common error for it
        raise UnreadableImageError(_one_line(error)) from error
    if kind == "TIFF" and image.mode in ("I", "F"):
        raise UnreadableImageError(
            f"is a TIFF of numbers whose range is not known (mode {image.mode}); save it with 8 or 16 bits"
        )
    is_negative = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
    is_negative = is_negative and image.mode.startswith("I;16")  # Pillow sees to it for 1 and 8 bits alone
    try:
        image = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError("has damaged EXIF, so that it is not known which side is up") from error
    try:
        if is_negative:
            image = Image.fromarray(65535 - np.asarray(image))
        return in_mode(image, "L" if channels == 1 else "RGB")
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError(_one_line(error)) from error


@contextlib.contextmanager
def silent_pillow() -> Iterator[None]:
    """Keep Pillow and libtiff, which do not name the file, from printing inside the block. For one thread at a time."""
    log = logging.getLogger("PIL")
    level = log.level
    with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff, or with one built into it
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def reason_of(path: Location, error: OSError) -> str:
    """Return why one file of many cannot be read.

    Raises:
        InputError: the error does not concern this file alone.
    """
    if error.errno not in _WORDS:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if error.errno == errno.ENOENT and isinstance(path, Path) and path.is_symlink():
        return "is a link to nowhere"
    return _WORDS[error.errno]


def _content_of(source: Location | bytes | None) -> bytes:
    if source is None:
        raise UnreadableImageError("no image bytes in this row")
    if isinstance(source, bytes):
        return source
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("is no regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImageError(f"has {status.st_size / 2**30:,.0f} GiB, more than any image that can be read")
        return source.read_bytes()
    except OSError as error:
        raise UnreadableImageError(reason_of(source, error)) from error


def _formats_of(source: Location | bytes | None) -> tuple[str, ...]:
    is_named_later = isinstance(source, Location) and source.suffix.lower() not in FIRST_SUFFIXES
    return _FORMATS if is_named_later else _FIRST_FORMATS


def _what_it_is(start: bytes, source: Location | bytes | None) -> str:
    """Return what bytes are that Pillow does not take for an image, from how they begin."""
    if not start.strip(b"\0"):
        return "holds nothing but zeros" if start else "is empty"
    kind = next((kind for begin, kind in _SIGNATURES if re.match(begin, start, re.DOTALL)), None)
    if kind is None:
        return "is no image that is known"
    article = "an" if kind[0] in "AH" and kind != "HEIC" else "a"
    formats = _formats_of(source)
    others = "JPEG, PNG or WebP" if formats is _FIRST_FORMATS else "JPEG, PNG, WebP, BMP, GIF or TIFF"
    if kind.upper() in formats:
        return f"is a damaged {kind}"
    if kind in _FORMATS and isinstance(source, Location):
        return f"is {article} {kind}, not a {others}; under a name that ends in .{kind.lower()} it is read"
    return f"is {article} {kind}, not a {others}"


def _one_line(error: Exception) -> str:
    """Return an error's first line, without the addresses of Python objects."""
    lines = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the image", str(error)).splitlines()
    name = "" if isinstance(error, _PLAIN_ERRORS) else f"{type(error).__name__}: "
    return (name + lines[0])[:200] if lines else type(error).__name__


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in mode `L` or `RGB`: 16 bits scaled to 8, transparency on white."""
    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(np.clip(wide, 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == mode else image.convert(mode)


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

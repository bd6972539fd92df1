"""Number, sizes, colours and classes of photos, found by opening a sample of them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hidfd.data.decoding import UnreadableImageError, decode, open_image, pixel_hash, silent_pillow
from hidfd.data.object_path import Location
from hidfd.data.readers import folder_images, names_of_labels, parquet_images
from hidfd.data.sources import files_of
from hidfd.errors import InputError
from hidfd.formatting import plural

SAMPLED_IMAGES = 200
"""Number of images, at most, that are opened."""

READ_ROWS = 10_000
"""Number of rows of a Parquet, at most, of which they are a sample."""

ONE_IMAGE_BYTES = 3 * 256 * 256
"""Size of an image with which as many are read at a time as are sampled."""


@dataclass(frozen=True)
class PhotoFacts:
    """Number, sizes, colours and classes of a material of images.

    Attributes:
        count: number of files, or of rows.
        sizes: sizes of the opened images, width and height in pixels, the most frequent first.
        is_grey: whether all opened images are grey.
        class_names: names of the labels, in alphabetical order or as the Parquet has them; None where there are none,
            or they are not needed.
        sources: the images of the sample that can be opened.
        hashes: `pixel_hash` of each different one of them.
        num_tried: images in the sample.
    """

    count: int
    sizes: tuple[tuple[int, int], ...]
    is_grey: bool
    class_names: tuple[str, ...] | None
    sources: tuple[Location | bytes, ...]
    hashes: frozenset[int]
    num_tried: int

    def usable(self, others: Iterable[PhotoFacts] = ()) -> int:
        """Return how many different photos can be opened, less those in others; of many photos an estimate.

        The estimate is low by a twentieth, as a sample shows few of the duplicates.
        """
        different = self.hashes.difference(*(other.hashes for other in others))
        share = len(different) / self.num_tried
        return len(different) if self.num_tried == self.count else math.floor(0.95 * share * self.count)

    @property
    def same_side(self) -> int | None:
        """Side of the images, if all opened ones are squares of one size; else None."""
        sizes = set(self.sizes)
        [width, height] = self.sizes[0]
        return width if len(sizes) == 1 and width == height else None

    def sizes_in_words(self) -> str:
        """Return the sizes of the opened images, for a comment."""
        (width, height), (least, greatest) = self.sizes[0], (min(map(min, self.sizes)), max(map(max, self.sizes)))
        if len(set(self.sizes)) == 1:
            return f"{width} x {height} pixels"
        return f"sides of {least:,} to {greatest:,} pixels"

    def mean_and_std(self, channels: int, side: int) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel of the sampled images in [0, 1], fitted to squares."""
        with silent_pillow():
            pixels = decode(self.sources, channels, side, "crop").pixels
        unit = pixels.astype(np.float64) / 255
        mean, std = unit.mean(axis=(0, 2, 3)), unit.std(axis=(0, 2, 3))
        return [round(float(value), 4) for value in mean], [round(float(value), 4) for value in std]


def photo_facts(path: str | Path, option: str, *, is_labelled: bool = False) -> PhotoFacts:
    """Look at a folder of images, a CSV, or Parquet.

    Args:
        option: that names the path, for messages.
        is_labelled: whether labels are needed.

    Raises:
        InputError: nothing in it can be read as an image, or it has no labels though they are needed.
    """
    files = files_of(path, option)
    if files.kind == "file":
        raise InputError(f"{option}: {path}: is a single file; expected a folder of images, a CSV, or Parquet")
    if is_labelled and files.kind == "images" and files.label_texts is None:
        raise InputError(
            f"{option}: {path}: has no labels; put each image into a folder named after its class, or list them in a "
            f"CSV of path,label"
        )
    reader = folder_images if files.kind == "images" else parquet_images
    encoded = reader(files, None, ONE_IMAGE_BYTES, option)
    seen = encoded.total if files.kind == "images" else min(encoded.total, READ_ROWS)
    step = -(-seen // SAMPLED_IMAGES)
    chunks = (chunk.sources for chunk in encoded.chunks())
    sampled = list(itertools.islice(itertools.chain.from_iterable(chunks), 0, seen, step))
    sizes: Counter[tuple[int, int]] = Counter()
    is_grey, sources, hashes = True, [], set()
    with silent_pillow():
        for source in sampled:
            try:
                image = open_image(source, 3)
            except UnreadableImageError:
                continue
            assert source is not None
            sources.append(source)
            sizes[image.size] += 1
            pixels = np.asarray(image)
            hashes.add(pixel_hash(pixels))
            is_grey = is_grey and bool((pixels == pixels[..., :1]).all())
    if not sources:
        raise InputError(f"{option}: {path}: of {plural(len(sampled), 'image')} that were tried none can be opened")
    ordered = tuple(size for size, count in sizes.most_common() for _ in range(count))
    names = names_of_labels(files, option) if is_labelled else None
    return PhotoFacts(encoded.total, ordered, is_grey, names, tuple(sources), frozenset(hashes), len(sampled))

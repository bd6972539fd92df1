"""The images that a prediction is asked for: single files, folders, lists and Parquet, read as an import reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from hidfd.addresses import is_on_s3
from hidfd.data.readers import Chunk, Columns, Encoded, folder_images, parquet_images
from hidfd.data.sources import Files, files_of
from hidfd.errors import InputError

WHERE = "IMAGES"
"""The argument, for messages."""

_COLLECTIONS = (".csv", ".parquet")
"""Suffixes of files that hold or list many images."""


def encoded_images(places: Sequence[str], image_bytes: int, columns: Columns) -> Encoded:
    """Return the images of all places, in their order; nothing is decoded yet, and each chunk fits into memory.

    Args:
        places: of images, folders, CSVs of images and Parquet; on this machine or on S3.
        image_bytes: size of one decoded and fitted image.
        columns: of Parquet.

    Returns:
        The images; `Chunk.names` are paths as one can open them, and shard and row in Parquet.

    Raises:
        InputError: a place does not exist, or holds no images.
    """
    parts = []
    for is_single, words in itertools.groupby(places, _is_single_image):
        if is_single:
            parts.append(folder_images(Files("images", Path(), tuple(words)), None, image_bytes, WHERE))
        else:
            parts += [_images_at(word, image_bytes, columns) for word in words]
    return Encoded(
        total=sum(part.total for part in parts),
        label_names=None,
        chunks=lambda: itertools.chain.from_iterable(part.chunks() for part in parts),
        is_remote=any(part.is_remote for part in parts),
    )


def _is_single_image(place: str) -> bool:
    return not is_on_s3(place) and Path(place).is_file() and Path(place).suffix.lower() not in _COLLECTIONS


def _images_at(place: str, image_bytes: int, columns: Columns) -> Encoded:
    files = files_of(place, WHERE, is_one_split=False)
    if not files.names:
        raise InputError(f"{WHERE}: {place}: no images in it")
    if files.kind == "parquet":
        found = parquet_images(files, None, image_bytes, WHERE, None, columns)
    else:
        found = folder_images(replace(files, kind="images"), None, image_bytes, WHERE)
    return replace(found, chunks=partial(_below, str(files.root), found.chunks))


def _below(root: str, chunks: Callable[[], Iterator[Chunk]]) -> Iterator[Chunk]:
    """Yield chunks whose names begin with the folder that they are relative to."""
    start = "" if root == "." else f"{root.rstrip('/')}/"
    for chunk in chunks():
        yield replace(chunk, names=[name if is_on_s3(name) else f"{start}{name}" for name in chunk.names])

"""The image set of an artifact: one Parquet file of fixed-size uint8 pixels, written in a stream. Torch-free.

pixels       fixed_size_binary(c*h*w), channels first
label        int64, null if there is none
pixel_hash   fixed_size_binary(8), `hidfd.data.decoding.pixel_hash` big-endian
path         string: relative path or shard and row of an imported image, null for synthetic ones
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hidfd.addresses import arrow_file
from hidfd.data.decoding import Decoded
from hidfd.errors import StoreError
from hidfd.pipeline.watch import images_done
from hidfd.store.artifacts import Artifact
from hidfd.store.disk import lacks_memory, store_errors

IMAGES = "images.parquet"
"""Name of the Parquet file in an artifact."""

ROW_GROUP_BYTES = 32 << 20
"""Bytes of pixels that writing and reading hold in memory at a time."""

IN_MEMORY_BYTES = 512 << 20
"""Sets with more bytes of pixels than this are read through a memory-mapped cache file."""


@dataclass(frozen=True)
class ImageSet:
    """The images of an artifact.

    Attributes:
        pixels: `n x c x h x w` uint8; for a large set a memory map, whose pages are read when they are used.
        labels: `n` int64, or None if there are none.
        pixel_hashes: `n` uint64, of the decoded pixels before fitting.
        paths: `n` names as in `hidfd.data.readers.Chunk`; empty for synthetic images.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    pixel_hashes: NDArray[np.uint64]
    paths: Sequence[str]

    @property
    def required_labels(self) -> NDArray[np.int64]:
        """Labels of a set that was imported with labels."""
        assert self.labels is not None, "imported without labels"
        return self.labels


class ImageWriter:
    """Write images to a Parquet file, a row group at a time; a context manager."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._pixel_type = pa.binary(math.prod(shape))
        self._schema = pa.schema(
            [
                ("pixels", self._pixel_type),
                ("label", pa.int64()),
                ("pixel_hash", pa.binary(8)),
                ("path", pa.string()),
            ],
            metadata={"shape": ",".join(map(str, shape))},
        )
        self._writer = pq.ParquetWriter(arrow_file(path, "wb"), self._schema, compression="zstd", use_dictionary=False)
        self._group = max(1, ROW_GROUP_BYTES // math.prod(shape))
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0

    def write(self, images: Decoded, labels: NDArray[np.int64] | None = None, paths: Sequence[str] = ()) -> None:
        """Append images, with or without labels and paths."""
        count = len(images.pixels)
        assert images.pixels.shape[1:] == self._shape, images.pixels.shape
        pixels, hashes = np.ascontiguousarray(images.pixels), images.pixel_hashes.astype(">u8")
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(self._pixel_type, count, [None, pa.py_buffer(pixels)]),
            pa.nulls(count, pa.int64()) if labels is None else pa.array(labels, pa.int64()),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), count, [None, pa.py_buffer(hashes)]),
            pa.array(paths, pa.string()) if paths else pa.nulls(count, pa.string()),
        ]
        self._pending.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._num_pending += count
        if self._num_pending >= self._group:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        whole = len(table) // self._group * self._group or len(table)
        self._writer.write_table(table.slice(0, whole), row_group_size=self._group)
        self._pending = table.slice(whole).to_batches()
        self._num_pending = len(table) - whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._num_pending:
                self._flush()
        finally:
            self._writer.close()


def write_images(path: Path, images: Decoded, labels: NDArray[np.int64] | None = None) -> None:
    """Write images that are in memory to a Parquet file."""
    with ImageWriter(path, images.pixels.shape[1:]) as writer:
        writer.write(images, labels)


def open_images(artifact: Artifact) -> ImageSet:
    """Read the images of an import or a synthesis.

    Raises:
        StoreError: the file is damaged, or the cache of a large set cannot be written.
    """
    path = artifact.path(IMAGES)
    try:
        with pq.ParquetFile(arrow_file(path)) as file:
            return _read(file, artifact)
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        if lacks_memory(error):
            raise
        raise StoreError(f"{path}: not the Parquet file of an image set ({error})") from error


def open_pixel_hashes(artifact: Artifact) -> NDArray[np.uint64]:
    """Read only the pixel hashes, with which the collection avoids test images without seeing their pixels or labels.

    Returns:
        `n` uint64.
    """
    path = artifact.path(IMAGES)
    try:
        return _hashes(pq.read_table(arrow_file(path), columns=["pixel_hash"])["pixel_hash"])
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        if lacks_memory(error):
            raise
        raise StoreError(f"{path}: not the Parquet file of an image set ({error})") from error


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(column.to_pylist()), dtype=">u8").astype(np.uint64)


def _read(file: pq.ParquetFile, artifact: Artifact) -> ImageSet:
    shape = tuple(int(side) for side in file.schema_arrow.metadata[b"shape"].split(b","))
    total = (file.metadata.num_rows, *shape)
    rest = file.read(columns=["label", "pixel_hash", "path"])
    labels, paths = rest["label"], rest["path"]
    if math.prod(total) <= IN_MEMORY_BYTES:
        pixels = np.empty(total, dtype=np.uint8)
        flat, position = pixels.reshape(-1), 0
        for chunk in _pixel_chunks(file, math.prod(shape)):
            flat[position : position + len(chunk)] = chunk
            position += len(chunk)
    else:
        pixels = _mapped_pixels(file, artifact, total)
    return ImageSet(
        pixels=pixels,
        labels=labels.to_numpy().astype(np.int64) if labels.null_count == 0 else None,
        pixel_hashes=_hashes(rest["pixel_hash"]),
        paths=paths.to_pylist() if paths.null_count == 0 else (),
    )


def _pixel_chunks(file: pq.ParquetFile, image_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """Yield all pixels in order, flat, in chunks of at most a row group."""
    for group in range(file.num_row_groups):
        for chunk in file.read_row_group(group, columns=["pixels"])["pixels"].chunks:
            offset, count = chunk.offset * image_bytes, len(chunk) * image_bytes
            yield np.frombuffer(chunk.buffers()[1], np.uint8, count=count, offset=offset)


def _mapped_pixels(file: pq.ParquetFile, artifact: Artifact, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the pixels as a private memory map of a cache file, which is written first if it does not exist."""
    path = artifact.cache / f"pixels-{artifact.files[IMAGES].sha256[:16]}.uint8"
    if not (path.exists() and path.stat().st_size == math.prod(shape)):
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        with store_errors("writing the pixel cache", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as target:  # not through the map, as a full disk would then kill the process
                    for chunk in _pixel_chunks(file, math.prod(shape[1:])):
                        target.write(chunk.data)
                        images_done(0)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    return np.memmap(path, dtype=np.uint8, mode="c", shape=shape)  # "c", as torch warns of read-only arrays

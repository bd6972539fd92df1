"""Readers of encoded images and their labels from a folder or Parquet shards, a chunk at a time. Torch-free."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hidfd.addresses import arrow_file
from hidfd.data.object_path import READ_BYTES, REQUESTS, Location, refusal_of
from hidfd.data.sources import Files
from hidfd.errors import InputError
from hidfd.formatting import plural
from hidfd.store.disk import lacks_memory

CHUNK_IMAGES = 256
"""Images that a thread decodes at a time; progress is reported after each such chunk."""

CHUNK_BYTES = 16 << 20
"""Bytes above which a chunk holds fewer images: several chunks are in memory at a time."""

REMOTE_CHUNK_BYTES = 4 << 20
"""The same bytes where images are read over the network, by more threads."""

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a Parquet; None = found by the usual names.

    Attributes:
        image: column of encoded images.
        label: column of labels.
    """

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive encoded images of a material.

    Attributes:
        names: names for reports and messages: relative path, or shard and row.
        sources: files, or encoded bytes, or None for a row without bytes.
        labels: `n` int64, or None if they were not requested.
    """

    names: list[str]
    sources: Sequence[Location | bytes | None]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class Encoded:
    """The encoded images of a material.

    Attributes:
        total: number of images.
        label_names: names of the classes 0, 1, ... as the material has them, None for one that it lacks; None if it
            names none.
        chunks: function that reads the images, chunk by chunk.
        is_remote: whether whoever decodes an image reads it over the network.
    """

    total: int
    label_names: Sequence[str | None] | None
    chunks: Callable[[], Iterator[Chunk]]
    is_remote: bool = False


def folder_images(
    files: Files, num_classes: int | None, image_bytes: int, where: str, label_order: Sequence[int] | None = None
) -> Encoded:
    """Return the images of a folder, or those that a CSV lists.

    Args:
        image_bytes: size of one decoded and fitted image.
        num_classes: K, to read labels; None = no labels. The first folder level gives the label, or the CSV does. If
            all labels are numbers, they are those of the classes; otherwise the label is the alphabetical position (as
            in torchvision's ImageFolder), and there must be K of them.
        where: the setting, for messages.
        label_order: the class of each folder in alphabetical order, whatever their names; None = as above.

    Raises:
        InputError: labels are requested and the folders do not give them.
    """
    names = list(files.names)
    label_names: Sequence[str | None] | None = None
    labels: NDArray[np.int64] | None = None
    if num_classes is not None:
        numbers, label_names = _class_folders(files, num_classes, where, label_order)
        labels = np.array([numbers[text] for text in files.label_texts or ()], dtype=np.int64)

    def chunks() -> Iterator[Chunk]:
        size = _chunk_images(image_bytes, REMOTE_CHUNK_BYTES if files.is_remote else CHUNK_BYTES)
        for start in range(0, len(names), size):
            part = slice(start, start + size)
            paths = [files.root / name for name in names[part]]
            yield Chunk([_readable(name) for name in names[part]], paths, None if labels is None else labels[part])

    return Encoded(len(names), label_names, chunks, files.is_remote)


def parquet_images(
    files: Files,
    num_classes: int | None,
    image_bytes: int,
    where: str,
    label_order: Sequence[int] | None = None,
    columns: Columns = Columns(),
) -> Encoded:
    """Return the images of Parquet shards in the Hugging Face layout: `image: struct<bytes, path>`, or plain bytes.

    Args:
        image_bytes: size of one decoded and fitted image.
        num_classes: K, to read and check the label column; None = no labels.
        where: the setting, for messages.
        label_order: the class of each label; None = a label is the number of its class.
        columns: that hold images and labels.

    Raises:
        InputError: a shard cannot be read, has no image column, or no label column although labels are requested;
            shards name their labels differently; or there are no rows. While reading: a label is outside 0..K-1, or a
            page is damaged.
    """
    opened = _opened(files, where)
    total = sum(file.metadata.num_rows for file in opened.values())
    if total == 0:
        raise InputError(f"{where}: {files.paths[0]}: no images in it: the Parquet has no rows")
    found = []
    for shard, file in opened.items():
        schema = file.schema_arrow
        label = None if num_classes is None else _label_column(schema, shard, where, columns.label)
        found.append((shard, _image_column(schema, shard, where, columns.image), label))
    schemas = {shard: file.schema_arrow for shard, file in opened.items()}
    own_names = None if num_classes is None else _names_in_shards(schemas, where, columns.label)
    label_names: Sequence[str | None] | None = own_names
    if own_names is not None and num_classes is not None and label_order is not None:
        label_names = _in_order(own_names, label_order, num_classes)
    encoded_bytes = sum(shard.stat().st_size for shard in files.paths) // total
    size = _chunk_images(max(image_bytes, encoded_bytes), CHUNK_BYTES)
    num_labels = num_classes if label_order is None else len(label_order)

    def chunks() -> Iterator[Chunk]:
        for shard, image, label in found:
            for chunk in _shard_chunks(shard, image, label, num_labels, size, where):
                if chunk.labels is not None and label_order is not None:
                    chunk = replace(chunk, labels=np.array(label_order, dtype=np.int64)[chunk.labels])
                yield chunk

    return Encoded(total, label_names, chunks)


def names_of_labels(files: Files, where: str, label_column: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the labels 0, 1, ... of a material: the `ClassLabel` of Parquet, or its class folders' names.

    Args:
        label_column: of a Parquet; None = found by the usual names.

    Returns:
        Of folders all, in alphabetical order; None if the material names no labels, or not all images lie in folders.

    Raises:
        InputError: a shard cannot be read or has no label column; or shards name their labels differently.
    """
    if files.kind == "parquet":
        schemas = {shard: file.schema_arrow for shard, file in _opened(files, where).items()}
        return _names_in_shards(schemas, where, label_column)
    return None if files.label_texts is None else tuple(_readable(name) for name in sorted(set(files.label_texts)))


def num_rows(files: Files, where: str = "") -> int:
    """Return the number of rows of Parquet shards, from their footers.

    Raises:
        InputError: a shard cannot be read.
    """
    return sum(file.metadata.num_rows for file in _opened(files, where).values())


def _names_in_shards(
    schemas: Mapping[Location, pa.Schema], where: str, label_column: str | None
) -> tuple[str, ...] | None:
    """Return the names that the shards give their labels, which must be the same in all that give any."""
    first: tuple[Location, list[str]] | None = None
    for shard, schema in schemas.items():
        names = _label_names(schema, _label_column(schema, shard, where, label_column))
        if names is None:
            continue
        if first is not None and first[1] != names:
            raise InputError(
                f"{where}: {shard}: its labels have other names, or another order, than those of {first[0].name}:\n"
                f"  {first[0].name}: {', '.join(first[1])[:500]}\n  {shard.name}: {', '.join(names)[:500]}\n"
                f"write the shards anew, with one list of names"
            )
        first = first or (shard, names)
    return None if first is None else tuple(first[1])


def _in_order(names: Sequence[str], label_order: Sequence[int], num_classes: int) -> list[str | None]:
    """Return the names of labels in the order of the classes; None for a class that has no label."""
    found: list[str | None] = [None] * num_classes
    for name, number in zip(names, label_order, strict=False):
        found[number] = name
    return found


def _class_folders(
    files: Files, num_classes: int, where: str, label_order: Sequence[int] | None
) -> tuple[dict[str, int], Sequence[str | None]]:
    if files.csv is not None and files.csv_labels is None:
        raise InputError(f"{where}: labels are needed, but {files.csv} has no column `label`")
    loose = [name for name in files.names if "/" not in name] if files.csv is None else []
    if loose:
        raise InputError(
            f"{where}: labels are needed, but {plural(len(loose), 'image')} of {files.root} "
            f"{'lies' if len(loose) == 1 else 'lie'} in no class folder (first "
            f"{loose[0]}); put each image into a folder named after its class"
        )
    classes = sorted(set(files.label_texts or ()))
    root, kind = (files.root, "class folder") if files.csv is None else (files.csv, "label")
    if label_order is not None:
        if len(classes) != len(label_order):
            raise InputError(
                f"{where}: {root} has {len(classes)} {kind}s with images, and label_order has "
                f"{len(label_order)} classes; expected one for each, in alphabetical order"
            )
        placed = _in_order([_readable(name) for name in classes], label_order, num_classes)
        return dict(zip(classes, label_order, strict=True)), placed
    if all(name.isdecimal() for name in classes):
        numbers = {name: int(name) for name in classes}
        wrong = [name for name, number in numbers.items() if number >= num_classes]
        if wrong:
            raise InputError(
                f"{where}: {root} has the {kind} {wrong[0]}, outside 0..{num_classes - 1}; "
                f"check data.num_classes ({num_classes}), or give their names in the order of the teacher's "
                f"classes: trial.data.class_names"
            )
        return numbers, [str(number) for number in range(num_classes)]
    if len(classes) != num_classes:
        shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise InputError(
            f"{where}: {root} has {plural(len(classes), kind)} with images ({shown}), expected "
            f"{num_classes} (data.num_classes), whose alphabetical order is that of the teacher's classes; with "
            f"trial.data.class_names a class may lack its images"
        )
    return {name: number for number, name in enumerate(classes)}, classes


def _opened(files: Files, where: str) -> dict[Location, pq.ParquetFile]:
    """Return the shards, of which metadata and schema are read, closed again."""
    with ThreadPoolExecutor(REQUESTS if files.is_remote else 1) as pool:
        opened = dict(zip(files.paths, pool.map(partial(_open, where=where), files.paths), strict=True))
    for file in opened.values():
        file.close(force=True)
    return opened


def _open(shard: Location, where: str) -> pq.ParquetFile:
    try:
        source = arrow_file(shard) if isinstance(shard, Path) else shard.open_seekable()
        return pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)  # else it is held as a whole
    except (pa.ArrowException, OSError) as error:
        if lacks_memory(error):
            raise
        raise _unreadable(shard, where, error) from error


def _unreadable(shard: Location, where: str, error: Exception) -> InputError:
    refusal = refusal_of(error)
    if refusal is None and isinstance(error, OSError) and error.filename is not None:  # it could not be opened
        refusal = str(error.strerror)
    if refusal is not None:
        return InputError(f"{where}: {shard}: cannot be read ({refusal})")
    size, reason = shard.stat().st_size, str(error).splitlines()[0]
    return InputError(f"{where}: {shard}: not a whole Parquet file ({reason}); it has {size:,} bytes: copy it again")


def _image_column(schema: pa.Schema, shard: Location, where: str, wanted: str | None) -> str:
    def holds_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = [
        column.name
        for column in schema
        if holds_bytes(column.type)
        or (
            pa.types.is_struct(column.type)
            and column.type.get_field_index("bytes") >= 0
            and holds_bytes(column.type.field("bytes").type)
        )
    ]
    usual = next((name for name in _IMAGE_COLUMNS if name in found), found[0] if len(found) == 1 else None)
    chosen = usual if wanted is None else wanted if wanted in found else None
    if chosen is None:
        raise InputError(
            f"{where}: {shard}: no column `{wanted or 'image'}` of encoded images (struct of bytes and path, or "
            f"bytes); it has {_columns(schema)}; trial.data.image_column names another"
        )
    return chosen


def _label_column(schema: pa.Schema, shard: Location, where: str, wanted: str | None) -> str:
    integers = [column.name for column in schema if pa.types.is_integer(column.type)]
    usual = next((name for name in _LABEL_COLUMNS if name in integers), None)
    chosen = usual if wanted is None else wanted if wanted in integers else None
    if chosen is None:
        raise InputError(
            f"{where}: {shard}: labels are needed, but there is no integer column `{wanted or 'label'}`; it has "
            f"{_columns(schema)}; trial.data.label_column names another"
        )
    return chosen


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in schema) or "no columns"


def _label_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Return the class names from the `huggingface` metadata, None if it has none."""
    try:
        description: Any = json.loads((schema.metadata or {})[b"huggingface"])
        return [str(name) for name in description["info"]["features"][label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _chunk_images(image_bytes: int, chunk_bytes: int) -> int:
    return max(4, min(CHUNK_IMAGES, chunk_bytes // image_bytes))


def _shard_chunks(
    shard: Location, image: str, label: str | None, num_classes: int | None, size: int, where: str
) -> Iterator[Chunk]:
    row = 0
    with _open(shard, where) as file:
        batches = file.iter_batches(size, columns=[image] if label is None else [image, label])
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                if lacks_memory(error):
                    raise
                raise _unreadable(shard, where, error) from error
            if batch is None:
                return
            encoded = batch.column(image)
            if pa.types.is_struct(encoded.type):
                encoded = encoded.field("bytes")
            labels = None
            if label is not None and num_classes is not None:
                labels = _checked_labels(batch.column(label), row, num_classes, f"{where}: {shard}: {label}")
            names = [f"{shard.name}:{row + i}" for i in range(len(batch))]
            yield Chunk(names, encoded.to_pylist(), labels)
            row += len(batch)


def _checked_labels(column: pa.Array, row: int, num_classes: int, where: str) -> NDArray[np.int64]:
    values = column.to_pylist()
    for i, value in enumerate(values):
        if value is None or not 0 <= value < num_classes:
            found = "missing" if value is None else value
            raise InputError(
                f"{where} is {found} in row {row + i:,}, expected 0..{num_classes - 1}; "
                f"check data.num_classes ({num_classes}), or leave the split out"
            )
    return np.array(values, dtype=np.int64)


def _readable(name: str) -> str:
    """Return a file name as valid UTF-8 text whatever the locale, with bytes that are not UTF-8 replaced."""
    return os.fsencode(name).decode("utf-8", "replace")

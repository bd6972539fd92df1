"""The images of the recipe: Parquet files cut into those of the teacher, of its validation, and to collect from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.gpu.settings import Size
from hidfd.errors import InputError

LABEL = "label"
MAX_SIDE_PIXELS = 32
"""The generator makes images of at most this side."""


@dataclass(frozen=True)
class Images:
    """The images of a recipe, as Parquet files in one folder.

    Attributes:
        teacher, validation, candidates: their paths.
        counts: name of each -> number of images.
        num_classes, channels, side_pixels: of all of them.
        in_domain: whether the candidates are other images of the teacher's own set.
        origin: where they come from, in words.
    """

    teacher: Path
    validation: Path
    candidates: Path
    counts: dict[str, int]
    num_classes: int
    channels: int
    side_pixels: int
    in_domain: bool
    origin: str


def find(data: Path) -> tuple[list[Path], list[Path]]:
    """Return the Parquet files of a folder: those with a column `label`, but for `test*`, and those without one.

    Raises:
        InputError: no file has labels, or one cannot be read or has no images.
    """
    labelled: list[Path] = []
    photos: list[Path] = []
    for path in sorted(data.glob("*.parquet")):
        try:
            columns = pq.read_schema(path).names
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"--data {path}: {error}") from None
        if "image" not in columns:
            raise InputError(f"--data {path}: no column `image`, only {', '.join(columns)}")
        is_labelled = LABEL in columns
        if not (is_labelled and path.name.startswith("test")):
            (labelled if is_labelled else photos).append(path)
    if not labelled:
        raise InputError(
            f"--data {data}: no Parquet file with a column `{LABEL}` in it; a teacher needs labelled images"
        )
    return labelled, photos


def cut(data: Path, size: Size, folder: Path) -> Images:
    """Cut the Parquet files of a folder, in the order of their rows.

    Files with a column `label` are the teacher's, but those named `test*`, which nothing here reads. All others are
    photos to collect from; without any, as many as are needed are cut off the teacher's.

    Raises:
        InputError: there are too few labelled images, or none.
    """
    labelled, photos = find(data)
    table = pa.concat_tables([pq.read_table(path, columns=["image", LABEL]) for path in labelled])
    validation = min(size.validation, len(table) // 5)
    wanted = size.collected + size.holdout
    parts = {"validation": table.slice(0, validation)}
    if photos:
        parts["candidates"] = pa.concat_tables([pq.read_table(path, columns=["image"]) for path in photos])
        parts["teacher"] = table.slice(validation)
    else:
        count = min(wanted, (len(table) - validation) // 2)
        parts["candidates"] = table.slice(validation, count).select(["image"])
        parts["teacher"] = table.slice(validation + count)
    if len(parts["teacher"]) < size.teacher_batch:
        raise InputError(
            f"--data {data}: {len(table):,} labelled images leave {len(parts['teacher']):,} for the teacher"
        )
    folder.mkdir(parents=True)
    for name, part in parts.items():
        pq.write_table(part, folder / f"{name}.parquet")
    with Image.open(io.BytesIO(table["image"][0].as_py()["bytes"])) as first:
        channels, side = (1 if first.mode == "L" else 3), min(first.size)
    num_classes = int(pc.max(table[LABEL]).as_py()) + 1
    origin = ", ".join(path.name for path in (*labelled, *photos))
    return Images(
        **{name: folder / f"{name}.parquet" for name in parts},
        counts={name: len(part) for name, part in parts.items()},
        num_classes=num_classes,
        channels=channels,
        side_pixels=min(side, MAX_SIDE_PIXELS),
        in_domain=not photos,
        origin=origin,
    )

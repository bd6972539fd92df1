"""A CSV that lists photos and, if it has them, their labels. Torch-free."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from hidfd.data.object_path import Location
from hidfd.errors import InputError

PATH_COLUMNS = ("path", "image", "img", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "labels", "class")


@dataclass(frozen=True)
class CsvList:
    """The photos of a CSV, in its order.

    Attributes:
        names: paths, relative to the folder of the CSV.
        labels: the label of each, as text; None if the CSV has no column of labels.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...] | None


def read_csv_list(path: Location, start: str) -> CsvList:
    """Read a CSV whose first line names a column of paths and, if labels are there, one of labels.

    Args:
        start: beginning of messages, the setting.

    Raises:
        InputError: it is no such CSV, has no rows, or a row without a path; the message says in which line.
        OSError: it cannot be read.
    """
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{start}{path}: no CSV in UTF-8 ({error})") from error
    names = next((header.index(name) for name in PATH_COLUMNS if name in header), None)
    if names is None:
        raise InputError(
            f"{start}{path}: the first line names no column `path` of photos (or {', '.join(PATH_COLUMNS[1:])}); "
            f"with commas between it has {', '.join(header) or 'nothing'}"
        )
    if not rows:
        raise InputError(f"{start}{path}: no photos in it, only the names of columns")
    labels = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    for line, row in rows:
        for column in [names, *([] if labels is None else [labels])]:
            if len(row) <= column or not row[column].strip():
                raise InputError(f"{start}{path}: line {line} has no {header[column]}")
    return CsvList(
        tuple(row[names].strip() for _, row in rows),
        None if labels is None else tuple(row[labels].strip() for _, row in rows),
    )

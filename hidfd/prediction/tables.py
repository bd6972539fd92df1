"""Predictions as a table, row by row: CSV, JSON lines or Parquet, so that the number of images does not matter."""

from __future__ import annotations

import csv
import json
import os
import secrets
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from hidfd.addresses import arrow_file
from hidfd.errors import ConfigError

SUFFIXES = (".csv", ".parquet")
"""Suffixes of the files that predictions are written to."""

GROUP_ROWS = 65_536
"""Rows of a Parquet that are in memory at a time."""

_TYPES: dict[str, pa.DataType] = {
    "path": pa.string(),
    "class": pa.string(),
    "class_index": pa.int64(),
    "confidence": pa.float64(),
    "teacher_class": pa.string(),
    "agrees": pa.bool_(),
}
_OF_TEACHER = ("teacher_class", "agrees")


@dataclass(frozen=True)
class Prediction:
    """The answer to one image.

    Attributes:
        path: of the image; shard and row in Parquet.
        label, class_index: name and number of the class.
        confidence: its probability, 0..1.
        teacher_label: the name of the teacher's class; None where there is no teacher.
        agrees: whether that is the same class.
    """

    path: str
    label: str
    class_index: int
    confidence: float
    teacher_label: str | None = None
    agrees: bool | None = None

    def row(self, *, has_teacher: bool) -> dict[str, Any]:
        """Return the row of a table, whose column of the class is called `class`."""
        named = {"label": "class", "teacher_label": "teacher_class"}
        row = {named.get(name, name): value for name, value in asdict(self).items()}
        row["confidence"] = round(self.confidence, 6)
        return {name: row[name] for name in columns(has_teacher=has_teacher)}


def columns(*, has_teacher: bool) -> list[str]:
    """Return the names of the columns."""
    return [name for name in _TYPES if has_teacher or name not in _OF_TEACHER]


class PredictionTable:
    """A table that is being written; the base of the kinds, used by `with`."""

    @abstractmethod
    def write(self, rows: Sequence[Prediction]) -> None:
        """Append rows."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the table: without this, a file is deleted at the end of the block."""

    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CsvTable(PredictionTable):
    """CSV with a line of names, to an open stream."""

    def __init__(self, stream: TextIO, *, has_teacher: bool) -> None:
        self._has_teacher = has_teacher
        self._writer = csv.DictWriter(stream, columns(has_teacher=has_teacher), lineterminator="\n")
        self._has_begun = False

    def write(self, rows: Sequence[Prediction]) -> None:
        if not self._has_begun:
            self._writer.writeheader()
            self._has_begun = True
        for row in rows:
            values = row.row(has_teacher=self._has_teacher)
            self._writer.writerow({name: _plain(value) for name, value in values.items()})

    def finish(self) -> None:
        pass


class JsonLines(PredictionTable):
    """A JSON object in each line, to an open stream."""

    def __init__(self, stream: TextIO, *, has_teacher: bool) -> None:
        self._stream, self._has_teacher = stream, has_teacher

    def write(self, rows: Sequence[Prediction]) -> None:
        for row in rows:
            print(json.dumps(row.row(has_teacher=self._has_teacher)), file=self._stream)

    def finish(self) -> None:
        self._stream.flush()


class FileTable(PredictionTable):
    """A new CSV or Parquet, which appears under its name when it is complete.

    Args:
        path: of a file that is not there yet.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, *, has_teacher: bool) -> None:
        check_new_table(path)
        self._path, self._has_teacher = path, has_teacher
        self._temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        self._pending: list[Prediction] = []
        self._parquet: pq.ParquetWriter | None = None
        self._text: TextIO | None = None
        self._csv: CsvTable | None = None
        try:
            if path.suffix.lower() == ".parquet":
                schema = pa.schema([(name, _TYPES[name]) for name in columns(has_teacher=has_teacher)])
                self._parquet = pq.ParquetWriter(arrow_file(self._temporary, "wb"), schema)
            else:
                self._text = self._temporary.open("x", encoding="utf-8", newline="")
                self._csv = CsvTable(self._text, has_teacher=has_teacher)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, rows: Sequence[Prediction]) -> None:
        try:
            if self._csv is not None:
                self._csv.write(rows)
                return
            self._pending += rows
            if len(self._pending) >= GROUP_ROWS:
                self._flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def finish(self) -> None:
        try:
            self._flush()
            self._release()
            check_new_table(self._path)
            self._temporary.rename(self._path)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        try:
            self._release()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._parquet is None or not self._pending:
            return
        rows = [row.row(has_teacher=self._has_teacher) for row in self._pending]
        self._parquet.write_table(pa.Table.from_pylist(rows, self._parquet.schema))
        self._pending = []

    def _release(self) -> None:
        parquet, self._parquet = self._parquet, None
        text, self._text = self._text, None
        if parquet is not None:
            parquet.close()
        if text is not None:
            text.close()

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"--to {self._path}: cannot be written ({error.strerror or error})")


def open_table(path: Path | None, *, has_teacher: bool, as_json: bool) -> PredictionTable:
    """Return the table that predictions are written to.

    Args:
        path: of a CSV or a Parquet; None = standard output.
        has_teacher: whether it has the columns of the teacher.
        as_json: whether standard output gets JSON lines instead of CSV.

    Raises:
        ConfigError: the path is of something else, exists already, or cannot be written.
    """
    if path is not None:
        return FileTable(path, has_teacher=has_teacher)
    return (JsonLines if as_json else CsvTable)(sys.stdout, has_teacher=has_teacher)


def check_new_table(path: Path) -> None:
    """Check that a table can get this name.

    Raises:
        ConfigError: says why not, and what to do.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--to {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if os.path.lexists(path):
        raise ConfigError(f"--to {path}: exists, and nothing is overwritten; name another file, or delete it")
    if not path.parent.is_dir():
        raise ConfigError(f"--to {path}: there is no folder {path.parent}; make it first")


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value

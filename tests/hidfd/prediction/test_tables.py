"""Predictions are written as CSV, JSON lines or Parquet: all rows under the name, or no file at all."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hidfd.prediction.tables
from hidfd.errors import ConfigError
from hidfd.prediction.tables import CsvTable, JsonLines, Prediction, open_table

ROWS = [
    Prediction("a, b.png", "coat", 4, 0.87654321, "coat", True),
    Prediction("c.png", "bag", 8, 0.5, "coat", False),
]


def test_csv_has_a_line_of_names_and_a_row_for_each_image() -> None:
    stream = io.StringIO()
    with CsvTable(stream, has_teacher=True) as table:
        table.write(ROWS[:1])
        table.write(ROWS[1:])
        table.finish()
    assert stream.getvalue().splitlines() == [
        "path,class,class_index,confidence,teacher_class,agrees",
        '"a, b.png",coat,4,0.876543,coat,true',
        "c.png,bag,8,0.5,coat,false",
    ]


def test_without_a_teacher_its_columns_are_not_there() -> None:
    stream = io.StringIO()
    JsonLines(stream, has_teacher=False).write(ROWS)
    first = json.loads(stream.getvalue().splitlines()[0])
    assert first == {"path": "a, b.png", "class": "coat", "class_index": 4, "confidence": 0.876543}


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "OUT.CSV"])
@pytest.mark.parametrize("group_rows", [1, 100])
def test_file_has_all_rows_when_it_is_complete(
    name: str, group_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidfd.prediction.tables, "GROUP_ROWS", group_rows)
    path = tmp_path / name
    with open_table(path, has_teacher=True, as_json=False) as table:
        table.write(ROWS[:1])
        table.write(ROWS[1:])
        assert not path.exists()
        table.finish()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        assert rows == [row.row(has_teacher=True) for row in ROWS]
    else:
        with path.open(encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        assert [row["class"] for row in read] == ["coat", "bag"]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_table_that_is_not_completed_leaves_no_file(name: str, tmp_path: Path) -> None:
    with open_table(tmp_path / name, has_teacher=False, as_json=False) as table:
        table.write(ROWS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("out.xlsx", r"ends in \.csv or \.parquet"),
        ("there.csv", "exists, and nothing is overwritten; name another file"),
        ("missing/out.csv", "there is no folder .*missing; make it first"),
    ],
)
def test_name_that_cannot_be_taken_is_refused(name: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(ConfigError, match=word):
        open_table(tmp_path / name, has_teacher=False, as_json=False)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_file_that_comes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with open_table(tmp_path / "out.csv", has_teacher=False, as_json=False) as table:
        table.write(ROWS)
        (tmp_path / "out.csv").write_text("mine")
        with pytest.raises(ConfigError, match="exists"):
            table.finish()
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]

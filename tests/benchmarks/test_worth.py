"""The table and the pictures of when a generator pays, over several studies."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import worth
from benchmarks.worth import Record


def record(
    num_collected: int,
    collection_seed: int,
    hybrid: list[float | None],
    data_set: str = "fashion",
    mode: str = "random",
) -> Record:
    """A study of hybrid with 100 steps, whose generator costs as much as they do, and of real-only with 100 and 400."""
    seeds = len(hybrid)
    budgets = {
        "hybrid": {"100": {"values": hybrid, "costs": [20.0] * seeds}},
        "real-only": {
            "100": {"values": [0.5] * seeds, "costs": [10.0] * seeds},
            "400": {"values": [0.7] * seeds, "costs": [40.0] * seeds},
        },
    }
    name = f"{data_set}-{num_collected}-{collection_seed}"
    return Record(
        name, f"run {name}", data_set, num_collected, mode, collection_seed, 1000, 0.9, "CPU-seconds", budgets
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, path in (("RECORDS", "worth.json"), ("TABLE", "worth.md"), ("PICTURES", "")):
        monkeypatch.setattr(worth, name, tmp_path / path)
    return tmp_path


def written(folder: Path, *records: Record) -> list[list[str]]:
    """Return the cells of the table's rows."""
    (folder / "worth.json").write_text(json.dumps([asdict(one) for one in records]))
    assert worth.main([]) == 0
    rows = [line for line in (folder / "worth.md").read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_seeds_are_the_unit_of_the_interval_where_there_is_one_collection(folder: Path) -> None:
    first, second = written(folder, record(20, 0, [0.62, 0.64]))
    # Real-only has .6 at a cost of 20, half-way in its logarithm: .02 and .04 ahead, sd .0141.
    half = 12.7062 * math.sqrt(2e-4 / 2)
    assert first[1:7] == ["1, 2", "100", "63.0 ± 1.4", "20", "50.0 ± 0.0", "10"]
    assert first[7] == f"+3.0 [{3 - 100 * half:.1f}, {3 + 100 * half:.1f}]"
    assert first[8].startswith("+13.0 [")
    assert second[2:] == ["400", "", "", "70.0 ± 0.0", "40", "", ""]


def test_ends_of_an_interval_are_rounded_once(folder: Path) -> None:
    first, _ = written(folder, record(50, 0, [0.51998, 0.50738, 0.50798]))
    assert first[8] == "+1.2 [-0.6, 2.9]", "1.18 - 1.77 and 1.18 + 1.77"


def test_collections_are_the_unit_where_there_are_several_and_their_seeds_are_averaged(folder: Path) -> None:
    row, _ = written(folder, record(20, 0, [0.58, 0.66]), record(20, 1, [0.63, None]))
    half = 12.7062 * math.sqrt(5e-5 / 2)  # of .02 and .03
    assert row[1:4] == ["2, 3", "100", "62.3 ± 4.0"]
    assert row[7] == f"+2.5 [{2.5 - 100 * half:.1f}, {2.5 + 100 * half:.1f}]"


def test_images_that_were_chosen_in_another_way_are_a_row_of_their_own(folder: Path) -> None:
    rows = written(folder, record(50, 0, [0.6], mode="confident"), record(50, 0, [0.6], mode="confident_per_class"))
    assert len(rows) == 4
    assert rows[0][0].startswith("**Fashion-MNIST, in-domain photos, n_c = 50, most confident** (")
    assert rows[2][0].startswith("**Fashion-MNIST, in-domain photos, n_c = 50, most confident of each class** (")


def test_each_data_set_has_its_picture_with_a_panel_for_each_number_of_images(folder: Path) -> None:
    records = [record(50, 0, [0.6]), record(100, 0, [0.6]), record(50, 0, [0.6], data_set="cifar10")]
    assert len(written(folder, *records)) == 6
    with Image.open(folder / "worth-fashion.png") as two, Image.open(folder / "worth-cifar10.png") as one:
        assert two.width == 2 * one.width


def test_nothing_recorded_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worth.main([]) == 2
    assert "no records" in capsys.readouterr().err


def test_add_without_a_study_file_says_what_it_expects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        worth.main(["add"])
    assert "expected a study file" in capsys.readouterr().err

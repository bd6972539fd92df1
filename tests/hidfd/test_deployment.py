"""`python -m hidfd export` and `predict` on a tiny study: files, output, refusals and exit codes."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.hidfd.test_command_line import ANOTHER_STUDENT, command, make_study, next_command, shown
from tests.integration.conftest import Workplace

WEIGHTS = ("--format", "safetensors")
"""The format that is written fastest."""


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = make_study(tmp_path_factory.mktemp("study"))
    command(place, "run", "study.yaml", "--json", "--device", "cpu")
    return place


@pytest.fixture
def built(run_once: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """A copy of the study after its run, which a test may change."""
    shutil.copytree(run_once.folder, tmp_path / "copy")
    yield Workplace(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_export_is_onnx_unless_asked_otherwise_and_names_what_comes_next(built: Workplace) -> None:
    pytest.importorskip("onnxruntime", reason="installed by `make setup`")
    outcome = command(built, "export", "study.yaml", "--to", "out")
    assert "checked: 20 hold-out images by onnxruntime against torch: largest difference of logits" in outcome.stdout
    assert (built.folder / "out" / "student.onnx").is_file()
    assert next_command(outcome) == "python -m hidfd predict out IMAGES"
    [row] = rows_of(command(built, "predict", "out", "photos/1.png").stdout)
    assert set(row) == {"path", "class", "class_index", "confidence"}


def test_export_as_json_is_one_document_and_a_second_one_replaces_it(built: Workplace) -> None:
    document = shown(built, "export", "study.yaml", "--to", "out", *WEIGHTS)
    assert document["format"] == "safetensors"
    assert document["replaced"] is None
    assert document["compared"]["num_images"] == 20
    names = {path.name for path in (built.folder / "out").iterdir()}
    assert set(document["files"]) == names
    card = (built.folder / "out" / "README.md").read_text()
    assert "`python -m hidfd run study.yaml`" in card
    assert "validation accuracy" in card
    assert str(built.folder) not in card
    again = shown(built, "export", "study.yaml", "--to", "out", *WEIGHTS)
    assert again["digest"] == document["digest"]
    assert again["replaced"] is not None


def test_export_overwrites_nothing_of_the_users(built: Workplace) -> None:
    outcome = command(built, "export", "study.yaml", "--to", "photos", *WEIGHTS, exit_code=2)
    assert "--to photos: is not empty" in outcome.stderr
    assert "name another folder" in outcome.stderr
    assert len(list((built.folder / "photos").iterdir())) == 36
    assert not list(built.folder.glob(".photos*"))


def test_export_of_a_student_that_is_not_trained_names_the_command_to_run(built: Workplace) -> None:
    outcome = command(built, "export", "study.yaml", ANOTHER_STUDENT, "--to", "out", *WEIGHTS, exit_code=4)
    assert f"run it first: python -m hidfd run study.yaml {ANOTHER_STUDENT}" in outcome.stderr
    assert not (built.folder / "out").exists()


def test_export_without_onnxruntime_is_one_message_with_the_extra_and_no_folder(
    built: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = command(built, "export", "study.yaml", "--to", "out", exit_code=2)
    assert "pip install 'hidfd[export]'" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not list(built.folder.glob("*out*"))


def test_predict_writes_csv_to_standard_output_beside_the_teachers_answers(built: Workplace) -> None:
    outcome = command(built, "predict", "study.yaml", "labelled", "photos/1.png")
    rows = rows_of(outcome.stdout)
    assert [row["path"] for row in rows][-2:] == ["labelled/2/41.png", "photos/1.png"]
    assert len(rows) == 7
    for row in rows:
        assert row["class"] == row["class_index"]  # folders 0, 1, 2
        assert 1 / 3 - 0.01 <= float(row["confidence"]) <= 1
        assert row["agrees"] == str(row["class"] == row["teacher_class"]).lower()
    assert "classified 7 images" in outcome.stderr
    assert "the teacher names the same class for" in outcome.stderr


def test_predict_of_another_student_takes_overrides_among_the_images(built: Workplace) -> None:
    outcome = command(built, "predict", "study.yaml", "photos", ANOTHER_STUDENT, exit_code=4)
    assert f"run it first: python -m hidfd run study.yaml {ANOTHER_STUDENT}" in outcome.stderr


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_predict_writes_a_new_file_and_overwrites_none(name: str, built: Workplace) -> None:
    summary = shown(built, "predict", "study.yaml", "photos", "--to", name)
    assert (summary["images"], summary["num_broken"], summary["file"]) == (36, 0, name)
    path = built.folder / name
    rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else rows_of(path.read_text())
    assert len(rows) == 36
    agreed = [str(row["agrees"]).lower() == "true" for row in rows]
    assert summary["agreement_with_teacher"] == pytest.approx(sum(agreed) / 36)
    before = path.read_bytes()
    assert "exists" in command(built, "predict", "study.yaml", "photos", "--to", name, exit_code=2).stderr
    assert path.read_bytes() == before


def test_predict_skips_broken_images_and_ends_with_3_where_all_are_broken(built: Workplace) -> None:
    (built.folder / "broken.png").write_bytes(b"not a picture")
    outcome = command(built, "predict", "study.yaml", "photos/1.png", "broken.png", "--to", "out.csv")
    assert "skipped broken.png: is no image that is known" in outcome.stderr
    assert "1 of 2 images cannot be read" in outcome.stdout
    assert len(rows_of((built.folder / "out.csv").read_text())) == 1
    refused = command(built, "predict", "study.yaml", "broken.png", "--to", "other.csv", exit_code=3)
    assert "0 of 1 image can be read" in refused.stderr
    assert not list(built.folder.glob("*other*"))


def test_predict_as_json_prints_a_line_for_each_image(built: Workplace) -> None:
    outcome = command(built, "predict", "study.yaml", "labelled", "--json")
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert len(lines) == 6
    assert set(lines[0]) == {"path", "class", "class_index", "confidence", "teacher_class", "agrees"}


def test_predict_of_a_folder_that_is_no_export_says_what_is_expected(built: Workplace) -> None:
    outcome = command(built, "predict", "photos", "labelled", exit_code=2)
    assert "photos: has no bundle.json; expected a study file, or a folder that" in outcome.stderr
    shown(built, "export", "study.yaml", "--to", "out", *WEIGHTS)
    refused = command(built, "predict", "out", "labelled", ANOTHER_STUDENT, exit_code=2)
    assert f"takes no overrides: {ANOTHER_STUDENT}" in refused.stderr

"""An exported folder is used where this project is not, and is not written where its network is wrong."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import hidfd.export.bundle
from hidfd.data.decoding import decode
from hidfd.errors import ConfigError, ExportError, InputError
from hidfd.export.bundle import StudentExport, export_student, open_bundle
from hidfd.export.formats import NETWORK_FILES, Format, Run, open_network
from hidfd.export.target import BUNDLE
from hidfd.store.disk import file_sha256
from tests.hidfd.export.conftest import FinishedTrial
from tests.hidfd.export.elsewhere import run_example

EXAMPLE = {"classify.py", "preprocess.py"}


def exported(trial: FinishedTrial, format_: Format, folder: Path) -> StudentExport:
    if format_ == "onnx":
        pytest.importorskip("onnxruntime", reason="installed by `make setup`")
    return export_student(trial.config, trial.store, trial.origin, format_=format_, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "torch"])
def test_example_of_the_folder_classifies_photos_where_this_project_is_not(
    format_: Format, finished: FinishedTrial, tmp_path: Path
) -> None:
    exported(finished, format_, tmp_path / "out")
    photos = sorted((finished.world / "validation").rglob("*.png"))[:3]
    moved = tmp_path / "another machine"
    shutil.copytree(tmp_path / "out", moved / "student")
    lines = run_example(moved / "student", format_, *photos, folder=moved)
    pixels = decode(photos, 1, 28, "crop").pixels
    shares = finished.network(torch.from_numpy(pixels) / 255).softmax(dim=1)
    for photo, line, of_photo in zip(photos, lines, shares, strict=True):
        assert line == f"{photo}: class{int(of_photo.argmax())} ({float(of_photo.max()):.1%})"


@pytest.mark.parametrize("format_", [pytest.param("onnx", marks=pytest.mark.slow), "torch", "safetensors"])
def test_folder_has_the_network_labels_preprocessing_and_a_card(
    format_: Format, finished: FinishedTrial, tmp_path: Path
) -> None:
    export = exported(finished, format_, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    example = set() if format_ == "safetensors" else EXAMPLE
    assert names == example | {NETWORK_FILES[format_], "labels.json", "preprocessing.json", "README.md", BUNDLE}
    assert set(export.files) == names
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == ["class0", "class1", "class2"]
    bundle = json.loads((tmp_path / "out" / BUNDLE).read_text())
    assert bundle["architecture"]["architecture"] == "resnet8"
    assert bundle["architecture"]["mean"] == [0.3]
    assert bundle["digest"] == export.digest
    assert bundle["compared"]["num_images"] == 110
    assert bundle["compared"]["largest_difference"] <= bundle["compared"]["tolerance"]
    assert set(bundle["sha256"]) == names - {BUNDLE}
    assert str(finished.world) not in "".join(
        path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".md", ".py")
    )
    opened = open_bundle(tmp_path / "out")
    assert (opened.format, opened.preprocessing.fit) == (format_, "crop")
    pixels = decode(sorted((finished.world / "validation").rglob("*.png"))[:4], 1, 28, "crop").pixels
    image_unit = pixels.astype(np.float32) / 255
    logits = open_network(opened.network, opened.format)(image_unit)
    np.testing.assert_allclose(logits, finished.network(torch.from_numpy(image_unit)).numpy(), rtol=1e-4, atol=1e-5)


def test_lines_say_difference_tolerance_and_what_was_replaced(finished: FinishedTrial, tmp_path: Path) -> None:
    first = exported(finished, "safetensors", tmp_path / "out").in_words()
    assert re.search(r"largest difference of logits \S+ \(tolerance 0\.0001\), the same class for all", first[0])
    assert first[-1].startswith(f"written: {tmp_path}/out: student.safetensors (")
    again = exported(finished, "safetensors", tmp_path / "out").in_words()
    assert again[1] == "replaced: the earlier export there, trial-1 of mine as safetensors"


def test_network_that_answers_otherwise_is_not_left_behind(
    finished: FinishedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_another(path: Path, format_: Format, code: object = None) -> Run:
        run = open_network(path, format_)
        return lambda image_unit: run(image_unit) + np.float32(0.5)

    monkeypatch.setattr(hidfd.export.bundle, "open_network", open_another)
    with pytest.raises(ExportError, match="another one than the student"):
        exported(finished, "safetensors", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folder_of_somebody_is_refused_before_anything_is_loaded(finished: FinishedTrial, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for format_ in get_args(Format):
        with pytest.raises(ConfigError, match=r"is not empty \(notes.txt"):
            export_student(finished.config, None, finished.origin, format_=format_, folder=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["student.safetensors", "labels.json", "preprocessing.json", BUNDLE])
def test_damaged_folder_is_refused_with_what_to_do(file: str, finished: FinishedTrial, tmp_path: Path) -> None:
    exported(finished, "safetensors", tmp_path / "out")
    (tmp_path / "out" / file).write_bytes(b"damaged")
    with pytest.raises(InputError, match="export the student again"):
        open_bundle(tmp_path / "out")
    (tmp_path / "out" / file).unlink()
    with pytest.raises(ConfigError if file == BUNDLE else InputError, match="export"):
        open_bundle(tmp_path / "out")


def test_hashes_are_those_of_the_files(finished: FinishedTrial, tmp_path: Path) -> None:
    exported(finished, "safetensors", tmp_path / "out")
    sha256 = json.loads((tmp_path / "out" / BUNDLE).read_text())["sha256"]
    assert sha256 == {name: file_sha256(tmp_path / "out" / name) for name in sha256}

"""The images of a GPU run's recipe, and what is carried to a machine without a network."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.gpu import carry
from benchmarks.gpu.images import cut, find
from benchmarks.gpu.settings import TINY
from hidfd.errors import ConfigError, HidfdError, InputError
from tests.benchmarks.parquet import write_images

ROOT = Path(__file__).parents[2]


def test_photos_beside_labelled_images_are_collected_from_and_test_images_are_left_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "train-00000-of-00003.parquet", 600, labels=True)
    write_images(tmp_path / "test-00000-of-00001.parquet", 50, labels=True)
    write_images(tmp_path / "collected.parquet", 90, labels=False)
    images = cut(tmp_path, TINY, tmp_path / "cut")
    assert images.counts == {"validation": 120, "candidates": 90, "teacher": 480}
    assert (images.num_classes, images.channels, images.side_pixels, images.in_domain) == (10, 3, 32, False)
    assert "test" not in images.origin
    assert pq.read_schema(images.candidates).names == ["image"]


def test_without_photos_some_labelled_images_are_collected_from_and_no_row_is_used_twice(tmp_path: Path) -> None:
    write_images(tmp_path / "train.parquet", 600, labels=True)
    images = cut(tmp_path, TINY, tmp_path / "cut")
    assert images.in_domain
    assert images.counts == {"validation": 120, "candidates": TINY.collected + TINY.holdout, "teacher": 360}
    assert sum(images.counts.values()) == 600


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos.parquet", 10, labels=False)
    with pytest.raises(InputError, match=r"no Parquet file with a column `label`"):
        cut(tmp_path, TINY, tmp_path / "cut")


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "pydantic-2.14.3-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(carry, "_download", download)


def test_files_that_hold_no_images_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1]}), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=r"labels.parquet: no column `image`, only label"):
        find(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"broken.parquet: .*Parquet"):
        find(tmp_path)


@pytest.mark.usefixtures("no_index")
def test_what_is_carried_is_wheels_and_images_and_is_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "gpu-carry"
    for name in ("old.parquet", "new.parquet"):
        write_images(tmp_path / name, 5, labels=True)
        carry.carry([tmp_path / name], folder)
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert written == ["data/new.parquet", "wheels/pydantic-2.14.3-py3-none-any.whl"]


@pytest.mark.usefixtures("no_index")
def test_more_images_than_can_be_carried_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    shard = tmp_path / "train.parquet"
    with shard.open("wb") as file:
        file.truncate(carry.MAX_BYTES + 1)
    with pytest.raises(InputError, match=r"64.0 MiB of images, at most 64 MiB; name fewer shards"):
        carry.carry([shard], tmp_path / "gpu-carry")
    with pytest.raises(InputError, match=r"missing.parquet: no such Parquet file"):
        carry.carry([tmp_path / "missing.parquet"], tmp_path / "gpu-carry")
    assert not (tmp_path / "gpu-carry").exists()


@pytest.mark.usefixtures("no_index")
def test_images_that_lie_in_the_folder_itself_are_kept_when_it_is_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "gpu-carry"
    write_images(tmp_path / "train.parquet", 5, labels=True)
    carry.carry([tmp_path / "train.parquet"], folder)
    carry.carry([folder / "data/train.parquet"], folder)
    assert (folder / "data/train.parquet").read_bytes() == (tmp_path / "train.parquet").read_bytes()


def test_without_a_package_index_the_folder_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gpu-carry"
    (folder / "wheels").mkdir(parents=True)
    monkeypatch.setattr(carry.subprocess, "run", lambda command, check: SimpleNamespace(returncode=1))
    with pytest.raises(HidfdError, match=r"it needs a package index"):
        carry.carry([], folder)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["gpu-carry", "gpu-carry/wheels"]


@pytest.mark.usefixtures("no_index")
def test_two_files_of_one_name_are_refused_since_one_would_replace_the_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_images(tmp_path / name / "train.parquet", 5, labels=True)
    with pytest.raises(InputError, match=r"two files are called train.parquet"):
        carry.carry([tmp_path / "a/train.parquet", tmp_path / "b/train.parquet"], tmp_path / "gpu-carry")


@pytest.mark.usefixtures("no_index")
def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files"):
        carry.carry([], tmp_path)
    with pytest.raises(ConfigError, match=r"holds other files"):
        carry.carry([], tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.fixture
def make_gpu(tmp_path: Path) -> Any:
    """Run `make gpu` beside a Makefile alone, by a Python without packages; return the exit code and the output."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)

    def run() -> tuple[int, str]:
        command = ["make", "gpu", f"PYTHON={python}"]
        outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # of a make that runs the tests
        environment = {name: value for name, value in os.environ.items() if name not in outer}
        environment["PYTHONPATH"] = str(tmp_path / "packages")
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_make_gpu_names_what_a_machine_lacks_and_unpacks_what_was_carried(make_gpu: Any, tmp_path: Path) -> None:
    code, said = make_gpu()
    assert (code, "has no torch; name a Python that has" in said) == (2, True), said
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/torch.py").write_text("")
    code, said = make_gpu()
    assert (code, "nor is there gpu-carry/wheels" in said) == (2, True), said
    assert "Traceback" not in said
    (tmp_path / "gpu-carry/wheels").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "gpu-carry/wheels/pydantic-2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pydantic.py", "")
    (tmp_path / "benchmarks/gpu").mkdir(parents=True)
    (tmp_path / "benchmarks/gpu/__main__.py").write_text("import pydantic, torch; print(pydantic.__file__)")
    code, said = make_gpu()
    assert (code, said) == (0, f"{tmp_path}/build/gpu-packages/pydantic.py\n")

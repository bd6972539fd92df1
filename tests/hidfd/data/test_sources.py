"""A material is identified by its content, never by its location."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from hidfd.config.schema import Material
from hidfd.data.sources import content_sha256, files_of, located
from hidfd.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in two levels; their content does not matter here."""
    for name in ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def shards(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_file_is_known_by_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "teacher.safetensors").write_bytes(b"weights")
    assert content_sha256(tmp_path / "teacher.safetensors") == hashlib.sha256(b"weights").hexdigest()


def test_folder_moved_elsewhere_is_the_same_material(folder: Path, tmp_path: Path) -> None:
    before = content_sha256(folder)
    shutil.move(folder, tmp_path / "elsewhere and renamed")
    assert content_sha256(tmp_path / "elsewhere and renamed") == before


@pytest.mark.parametrize("change", ["content", "name", "more", "fewer"])
def test_changed_folder_is_other_material(folder: Path, change: str) -> None:
    before = content_sha256(folder)
    match change:
        case "content":
            (folder / "a.jpg").write_bytes(b"other")
        case "name":
            (folder / "a.jpg").rename(folder / "z.jpg")
        case "more":
            (folder / "d.jpg").write_bytes(b"d")
        case _:
            (folder / "a.jpg").unlink()
    assert content_sha256(folder) != before


def test_what_import_does_not_read_changes_nothing(folder: Path) -> None:
    before = content_sha256(folder)
    for name in (".DS_Store", ".cache/x.jpg", "deep/.hidden.png", "README.txt", "__MACOSX/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"noise")
    assert content_sha256(folder) == before
    assert files_of(folder).names == ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg")


def test_link_that_leads_back_up_is_followed_once(folder: Path) -> None:
    (folder / "deep" / "loop").symlink_to(folder)
    assert files_of(folder).names == ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("data.candidates", "a folder of JPEG/PNG, or Parquet"),
        ("teacher.train.images", "a folder of JPEG/PNG, or Parquet"),
        ("teacher.checkpoint", "a file of weights"),
    ],
)
def test_path_that_does_not_exist_is_said_with_the_setting(tmp_path: Path, where: str, expected: str) -> None:
    with pytest.raises(InputError, match=rf"{where}: .*/nowhere: no such file or folder; expected {expected}$"):
        files_of(tmp_path / "nowhere", where)


def test_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images in it.*it is empty"):
        files_of(tmp_path)
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.gif").touch()
    with pytest.raises(InputError, match=r"no images in it.*found 2 files \(.gif, .txt\)"):
        files_of(tmp_path)


def test_folder_of_both_kinds_is_refused(folder: Path) -> None:
    (folder / "data.parquet").touch()
    with pytest.raises(InputError, match=r"holds both images .* and Parquet"):
        files_of(folder)


def test_pattern_takes_the_shards_of_one_split(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet")
    assert files_of(data / "train-*.parquet").names == ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match="no Parquet file matches"):
        files_of(data / "valid-*.parquet")


def test_folder_with_shards_of_train_and_test_is_refused(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"several splits \(test, train\); name one, as in .*/d/test-\*.parquet"):
        files_of(data)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "train-00000-of-00004.parquet", "train-00002-of-00004.parquet")
    with pytest.raises(InputError, match="of 4 shards of train these are missing: 00001, 00003"):
        files_of(data)


def test_pattern_may_leave_out_shards_that_are_there_but_not_such_that_are_missing(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", *(f"train-{index:05d}-of-00004.parquet" for index in range(3)))
    with pytest.raises(InputError, match="of 4 shards of train these are missing: 00003"):
        files_of(data / "train-0000[12]-*.parquet")
    shards(data, "train-00003-of-00004.parquet")
    assert files_of(data / "train-0000[12]-of-00004.parquet").names == tuple(
        f"train-0000{i}-of-00004.parquet" for i in (1, 2)
    )


def test_content_is_read_once_and_again_after_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr("hidfd.data.sources.file_sha256", lambda path: read.append(path) or "0" * 64)
    first = content_sha256(folder)
    count = len(read)
    assert content_sha256(folder) == first
    assert len(read) == count > 0
    (folder / "a.jpg").write_bytes(b"longer than before")
    content_sha256(folder)
    assert len(read) == 2 * count


def test_content_must_be_what_the_sha256_says(folder: Path) -> None:
    sha256 = content_sha256(folder)
    material = Material(path=str(folder), sha256=sha256)
    assert located(material, sha256, "data.candidates").root == folder
    (folder / "a.jpg").write_bytes(b"other")
    with pytest.raises(InputError, match=rf"data.candidates: .* but the study file says {sha256}"):
        located(material, sha256, "data.candidates")


def test_material_without_path_says_where_to_run_import() -> None:
    with pytest.raises(InputError, match="no path says where to find it; run `python -m hidfd import FILE`"):
        located(Material(sha256="a" * 64), "a" * 64, "data.candidates")

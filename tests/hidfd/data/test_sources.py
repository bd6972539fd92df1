"""A material is identified by its content, never by its location."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
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
        ("data.candidates", "a folder of images, or Parquet"),
        ("teacher.train.images", "a folder of images, or Parquet"),
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
    (tmp_path / "b.heic").touch()
    with pytest.raises(InputError, match=r"no images in it.*found 2 files \(.heic, .txt\)"):
        files_of(tmp_path)


def test_folder_of_jpeg_and_png_has_the_hash_that_it_always_had(folder: Path) -> None:
    assert content_sha256(folder) == "7094702f70e364f627f84ebe1165bab7b4b87d1d7a90025546fe51c7e4279159"


def test_other_images_count_whatever_their_suffix(folder: Path) -> None:
    before = content_sha256(folder)
    for name in ("a.webp", "b.bmp", "c.GIF", "d.tif", "e.tiff", "f.jfif"):
        (folder / name).write_bytes(b"x")
    assert len(files_of(folder).names) == 9
    assert content_sha256(folder) != before


def test_what_is_left_out_is_counted_by_suffix(folder: Path) -> None:
    for name in ("a.heic", "deep/b.HEIC", "notes.txt", "LICENSE", "x.mp4", "\x1b[31m.\x1b[1m", ".hidden"):
        (folder / name).write_bytes(b"x")
    (words,) = files_of(folder).left_out
    assert words == "2 .heic, 1 .mp4, 1 .txt, 1 .\ufffd[1m, 1 without a suffix (suffixes that are not read)"
    assert files_of(folder).names == ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg")


def test_folder_of_images_alone_leaves_nothing_out(folder: Path) -> None:
    assert files_of(folder).left_out == ()


def test_sha256_of_jpeg_and_png_alone_is_still_accepted_and_stands_for_these(folder: Path) -> None:
    older = content_sha256(folder)
    (folder / "d.webp").write_bytes(b"d")
    (folder / "e.gif").write_bytes(b"e")
    newer = content_sha256(folder)
    files = located(Material(path=str(folder), sha256=older), older, "data.candidates")
    assert files.names == ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg")
    assert files.left_out[0].startswith("1 .gif, 1 .webp: data.candidates.sha256 was taken when")
    assert newer in files.left_out[0]
    assert len(located(Material(path=str(folder), sha256=newer), newer, "data.candidates").names) == 5
    (folder / "a.jpg").write_bytes(b"other")
    with pytest.raises(InputError, match=f"the study file says {older}"):
        located(Material(path=str(folder), sha256=older), older, "data.candidates")


def test_parquet_beside_pictures_of_later_formats_stays_parquet(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "train.parquet", "logo.webp")
    assert files_of(data).names == ("train.parquet",)
    assert files_of(data).left_out == ("1 .webp (suffixes that are not read)",)


def test_pipes_and_sockets_are_left_out_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_sha256(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    monkeypatch.chdir(folder)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
    assert content_sha256(folder) == before
    assert files_of(folder).left_out == ("pipes, sockets and devices: 3, the first pipe.png",)


def test_folder_named_as_an_image_is_a_folder(folder: Path) -> None:
    (folder / "x.png").mkdir()
    (folder / "x.png" / "y.jpg").write_bytes(b"y")
    assert files_of(folder).names == ("a.jpg", "deep/b.PNG", "deep/er/c.jpeg", "x.png/y.jpg")


@pytest.mark.parametrize("target", ["/nowhere/x.png", "self.png", "a.jpg/x.png", "n" * 300])
def test_link_to_nowhere_is_a_broken_image_of_the_content(folder: Path, target: str) -> None:
    before = content_sha256(folder)
    (folder / "self.png").symlink_to(target)
    assert "self.png" in files_of(folder).names
    broken = content_sha256(folder)
    assert broken != before
    (folder / "self.png").unlink()
    (folder / "self.png").write_bytes(b"fetched")
    assert content_sha256(folder) not in (before, broken)


def test_file_that_may_not_be_read_is_a_broken_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    before = content_sha256(folder)
    (folder / "a.jpg").write_bytes(b"not read before")
    monkeypatch.setattr("hidfd.data.sources.file_sha256", refuse)
    assert content_sha256(folder) != before


def test_drive_that_went_away_is_no_matter_of_one_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(path: Path) -> str:
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr("hidfd.data.sources.file_sha256", lost)
    (folder / "a.jpg").write_bytes(b"not read before, too")
    with pytest.raises(InputError, match=r"cannot be read \(Stale file handle\)"):
        content_sha256(folder)


def test_path_to_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"data.candidates: .*/pipe: is a pipe, a socket or a device"):
        files_of(tmp_path / "pipe", "data.candidates")


def test_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        files_of(tmp_path / ("n" * 300), "data.candidates")


def test_folder_of_both_kinds_is_refused(folder: Path) -> None:
    (folder / "data.parquet").touch()
    with pytest.raises(InputError, match=r"holds both images .* and Parquet"):
        files_of(folder)


def test_pattern_takes_the_shards_of_one_split(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet")
    assert files_of(data / "train-*.parquet").names == ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match="no Parquet file matches"):
        files_of(data / "valid-*.parquet")


def test_pattern_passes_over_pipes(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "a.parquet")
    os.mkfifo(data / "b.parquet")
    assert files_of(data / "*.parquet").names == ("a.parquet",)


def test_shard_that_is_a_link_to_nowhere_is_refused_as_no_image_is(tmp_path: Path) -> None:
    data = shards(tmp_path / "d", "a.parquet")
    (data / "b.parquet").symlink_to("/nowhere")
    for path in (data, data / "*.parquet"):
        with pytest.raises(InputError, match=r"b.parquet: cannot be read \(No such file"):
            content_sha256(path)


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

"""A killed training loop always finds a complete checkpoint to resume from, once it has written one."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from pyarrow import fs

from hidfd.store.checkpoints import Checkpoints
from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Store

DIGEST = "c" * 64


@pytest.fixture(params=["local", "remote"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "local":
        return Store.open(tmp_path / "store").checkpoints(DIGEST)
    (tmp_path / "store").mkdir()
    backend = RemoteBackend(fs.LocalFileSystem(), str(tmp_path / "store"), "s3://bucket", tmp_path / "cache")
    return Store(backend).checkpoints(DIGEST)


def save(checkpoints: Checkpoints, images: int, content: str | None = None) -> None:
    checkpoints.save(images, lambda folder: (folder / "state.pt").write_text(content or f"state {images}"))


def kept(tmp_path: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in (tmp_path / "store").rglob("manifest.json"))


def state_file(tmp_path: Path, images: int) -> Path:
    [path] = (tmp_path / "store" / "checkpoints" / DIGEST / str(images)).rglob("state.pt")
    return path


def test_there_is_none_at_first(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    checkpoints.clear()


def test_newest_two_are_kept_and_the_newest_is_read(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for images in (800, 900, 1000, 1100):
        save(checkpoints, images)
    assert kept(tmp_path) == [1000, 1100]
    newest = checkpoints.latest()
    assert newest is not None
    assert newest[0] == 1100
    assert (newest[1] / "state.pt").read_text() == "state 1100"


@pytest.mark.parametrize("damage", ["content", "truncated", "missing", "manifest"])
def test_damaged_newest_is_skipped_and_said(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save(checkpoints, 100)
    save(checkpoints, 200)
    path = state_file(tmp_path, 200)
    if damage == "content":
        path.write_text("STATE 200")
    elif damage == "truncated":
        path.write_text("sta")
    elif damage == "missing":
        path.unlink()
    else:
        (path.parents[1] / "manifest.json").write_text("{")
    fresh = _reopened(checkpoints, tmp_path)
    with caplog.at_level(logging.WARNING):
        newest = fresh.latest()
    assert newest is not None
    assert newest[0] == 100
    assert (newest[1] / "state.pt").read_text() == "state 100"
    assert "skipping the checkpoint at 200 images" in caplog.text


def test_loop_that_went_back_replaces_the_damaged_one_and_keeps_its_way_home(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    save(checkpoints, 100)
    save(checkpoints, 300)
    state_file(tmp_path, 300).write_text("damaged")
    fresh = _reopened(checkpoints, tmp_path)
    save(fresh, 200)
    newest = fresh.latest()
    assert newest is not None
    assert newest[0] == 200
    save(fresh, 300)
    newest = fresh.latest()
    assert newest is not None
    assert (newest[0], (newest[1] / "state.pt").read_text()) == (300, "state 300")
    assert kept(tmp_path) == [200, 300]


def test_one_without_manifest_is_skipped(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 100)
    with pytest.raises(RuntimeError, match="killed"):
        checkpoints.save(200, _die)
    newest = checkpoints.latest()
    assert newest is not None
    assert newest[0] == 100
    assert kept(tmp_path) == [100]


def test_intact_one_is_not_overwritten(checkpoints: Checkpoints) -> None:
    save(checkpoints, 100, "first")
    save(checkpoints, 100, "second")
    newest = checkpoints.latest()
    assert newest is not None
    assert (newest[1] / "state.pt").read_text() == "first"


def test_where_a_length_ended_stays_for_a_longer_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for images, content, is_end in (
        (100, "on its way", False),
        (100, "ended", True),
        (200, "", False),
        (400, "", True),
    ):
        checkpoints.save(images, partial(_write, content), is_end=is_end)
    for images in (500, 600, 700):
        save(checkpoints, images)
    names = sorted(path.parent.name for path in (tmp_path / "store").rglob("manifest.json"))
    assert names == ["100-end", "400-end", "600", "700"]
    found = {end: checkpoints.latest(end) for end in (50, 100, 300, 600, 800)}
    reached = {end: newest and (newest.images, newest.is_end) for end, newest in found.items()}
    assert reached == {50: None, 100: (100, True), 300: (100, True), 600: (400, True), 800: (700, False)}
    newest = found[100]
    assert newest is not None
    assert (newest.folder / "state.pt").read_text() == "ended"
    assert checkpoints.seen_here(newest) == newest.folder
    checkpoints.clear(up_to=600)
    names = sorted(path.parent.name for path in (tmp_path / "store").rglob("manifest.json"))
    assert names == ["100-end", "400-end", "700"]


def test_clear_leaves_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 100)
    save(checkpoints, 200)
    checkpoints.clear()
    assert checkpoints.latest() is None
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def _write(content: str, folder: Path) -> None:
    (folder / "state.pt").write_text(content)


def _die(folder: Path) -> None:
    (folder / "state.pt").write_text("half")
    raise RuntimeError("killed")


def _reopened(checkpoints: Checkpoints, tmp_path: Path) -> Checkpoints:
    """Open the same checkpoints as another process would: nothing cached, nothing verified."""
    if isinstance(checkpoints._backend, RemoteBackend):
        backend = RemoteBackend(fs.LocalFileSystem(), str(tmp_path / "store"), "s3://bucket", tmp_path / "other-cache")
        return Checkpoints(backend, DIGEST)
    return Store.open(tmp_path / "store").checkpoints(DIGEST)

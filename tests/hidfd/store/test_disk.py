"""A full disk or a store that cannot be written gives a readable error and leaves earlier artifacts intact."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hidfd.errors import StoreError
from hidfd.store.store import Store
from tests.hidfd.stores import DIGEST, OTHER, begin_and_fail, build


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine does not let root mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_said_and_earlier_artifacts_are_intact(small_disk: Path) -> None:
    store = Store.open(small_disk / "store")
    build(store)
    with pytest.raises(StoreError, match="disk is full"):
        build(store, OTHER, content=bytes(2 << 20))
    with pytest.raises(StoreError, match="disk is full"):
        store.checkpoints(OTHER).save(1, lambda folder: (folder / "state.pt").write_bytes(bytes(2 << 20)))
    assert store.find("teacher", OTHER) is None
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"
    build(store, OTHER)  # what the failed ones wrote is gone


def test_full_disk_is_said_when_a_library_hides_the_error_number(small_disk: Path) -> None:
    store = Store.open(small_disk / "store")
    error = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    with pytest.raises(StoreError, match="disk is full"):
        begin_and_fail(store, bytes(900 << 10), error)


def test_disk_that_is_full_when_the_manifest_is_due_leaves_no_artifact(small_disk: Path) -> None:
    store = Store.open(small_disk / "store")
    build(store)
    free = shutil.disk_usage(small_disk).free
    with pytest.raises(StoreError, match="disk is full"):
        build(store, OTHER, bytes(free - (64 << 10)), {"notes": "x" * (128 << 10)})
    assert store.find("teacher", OTHER) is None
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"


def test_write_error_without_a_small_disk_is_said_the_same_way(store: Store) -> None:
    build(store)
    with pytest.raises(StoreError, match=r"disk is full.*earlier is intact"):
        begin_and_fail(store, b"half", OSError(errno.ENOSPC, "No space left on device"))
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"


def test_permission_error_of_something_else_is_left_alone(store: Store, tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "somebody's file"))
    with pytest.raises(PermissionError):
        begin_and_fail(store, b"half", error)


def test_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "store", tmp_path / "file"):
        with pytest.raises(StoreError, match=r"opening the store .*file.*HIDFD_STORE"):
            Store.open(path)


def test_store_on_a_read_only_file_system_is_refused(small_disk: Path) -> None:
    build(Store.open(small_disk / "store"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="read-only"):
        Store.open(small_disk / "store")

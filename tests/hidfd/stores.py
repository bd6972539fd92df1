"""Stores for tests: on a disk, and on S3's code path over a local folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import fs

from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Artifact, Store

DIGEST = "d" * 64
OTHER = "e" * 64
IDENTITY = {"stage": "teacher", "seed": 0}

StoreFactory = Callable[[], Store]


class SpyFileSystem:
    """A pyarrow file system that records what was written and deleted, in order."""

    def __init__(self, root: Path) -> None:
        self._inner = fs.SubTreeFileSystem(str(root), fs.LocalFileSystem())
        self.events: list[tuple[str, str]] = []
        self.fail_on: str | None = None

    def open_output_stream(self, path: str) -> Any:
        if self.fail_on is not None and self.fail_on in path:
            raise OSError("When completing multiple part upload: AWS Error NETWORK_CONNECTION")
        self.events.append(("write", path))
        return self._inner.open_output_stream(path)

    def delete_dir(self, path: str) -> None:
        self.events.append(("delete", path))
        self._inner.delete_dir(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def remote_store(tmp_path: Path, cache: str = "cache") -> tuple[Store, SpyFileSystem]:
    (tmp_path / "bucket").mkdir(exist_ok=True)
    spy = SpyFileSystem(tmp_path / "bucket")
    return Store(RemoteBackend(spy, "prefix/store", "s3://bucket/prefix/store", tmp_path / cache)), spy


def build(
    store: Store, digest: str = DIGEST, content: bytes = b"weights", meta: dict[str, Any] | None = None
) -> Artifact:
    with store.writer("teacher", digest, IDENTITY) as writer:
        writer.path("weights.bin").write_bytes(content)
        writer.path("grids/0001.png").write_bytes(b"png")
        return writer.commit(meta or {"accuracy": 0.5})


def begin_and_fail(store: Store, content: bytes, error: Exception) -> None:
    with store.writer("teacher", OTHER, IDENTITY) as writer:
        writer.path("weights.bin").write_bytes(content)
        assert store.find("teacher", OTHER) is None
        raise error


def names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def store_factory(kind: str, tmp_path: Path) -> StoreFactory:
    """Return a function that opens the same store anew, as another process would; a remote one with an empty cache."""
    calls = iter(range(1000))

    def open_it() -> Store:
        if kind == "local":
            return Store.open(tmp_path / "store")
        return remote_store(tmp_path, f"cache{next(calls)}")[0]

    return open_it


def root_of(tmp_path: Path) -> Path:
    """Return the folder that really holds the files of a factory's store."""
    remote = tmp_path / "bucket" / "prefix" / "store"
    return remote if remote.exists() else tmp_path / "store"

"""The storage backend for a local folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from hidfd.store.backend import StorageBackend, StoredFile
from hidfd.store.disk import store_errors, sync_folder


class LocalBackend(StorageBackend):
    """A folder on a disk of this machine or on a mounted file system."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.base = root.absolute()
        self.cache = self.base / "cache"
        self.uri = str(self.base)

    def read(self, key: str) -> bytes | None:
        with store_errors("reading", self.base / key):
            try:
                return (self.base / key).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, key: str, content: bytes) -> None:
        self._write(key, content, exclusive=False)

    def create(self, key: str, content: bytes) -> bool:
        return self._write(key, content, exclusive=True)

    def _write(self, key: str, content: bytes, *, exclusive: bool) -> bool:
        path = self.base / key
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        with store_errors("writing", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if exclusive:
                    try:
                        os.link(temporary, path)
                    except FileExistsError:
                        return False
                else:
                    temporary.replace(path)
                sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def publish(self, key: str, names: Sequence[str]) -> None:
        folder = self.base / key
        with store_errors("writing", folder):
            for name in names:
                with (folder / name).open("rb") as file:
                    os.fsync(file.fileno())
            for inner in {folder, *((folder / name).parent for name in names)}:
                sync_folder(inner)
            for outer in folder.parents:
                sync_folder(outer)
                if outer == self.base:
                    break

    def walk(self, prefix: str = "") -> list[StoredFile]:
        files = []
        with store_errors("listing", self.base / prefix):
            for folder, _, names in os.walk(self.base / prefix):
                for name in names:
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # deleted by its writer meanwhile
                        status = path.stat()
                        key = path.relative_to(self.base).as_posix()
                        files.append(StoredFile(key, status.st_size, status.st_mtime))
        return files

    def delete(self, key: str) -> None:
        path = self.base / key
        with store_errors("deleting", path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            for outer in path.parents:
                if outer == self.base:
                    break
                try:
                    outer.rmdir()
                except OSError:  # not empty
                    break

    def probe(self) -> None:
        path = self.base / f".probe-{secrets.token_hex(4)}"
        with store_errors("opening the store", self.base):
            self.base.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
            path.unlink()

    def _download(self, key: str, path: Path) -> None:
        pass

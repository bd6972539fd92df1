"""The storage backend for a local folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from hidfd.errors import StoreError
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
        path = self.local(key)
        with store_errors("reading", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def write(self, key: str, content: bytes) -> None:
        self._write(key, content, exclusive=False)

    def create(self, key: str, content: bytes) -> bool:
        return self._write(key, content, exclusive=True)

    def _write(self, key: str, content: bytes, *, exclusive: bool) -> bool:
        path = self.local(key)
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
        folder = self.local(key)
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
        top = self.local(prefix)
        # A part that cannot be read must not seem empty; of the whole store, only what is readable is looked at.
        with store_errors("listing", top):
            for folder, _, names in os.walk(top, onerror=_raise_unless_gone if prefix else None):
                for name in names:
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # deleted by its writer meanwhile
                        status = path.stat()
                        key = path.relative_to(self.base).as_posix()
                        files.append(StoredFile(key, status.st_size, status.st_mtime))
        return files

    def delete(self, key: str) -> None:
        path = self.local(key)
        with store_errors("deleting", path):
            self._check_links(path)
            if path.is_dir() and not path.is_symlink():
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

    def _check_links(self, path: Path) -> None:
        """Refuse to delete what lies behind a symbolic link; only the folders at the top of a store may be links."""
        top = self.base / path.relative_to(self.base).parts[0]
        if path != top and not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(top)):
            raise StoreError(
                f"{path}: a symbolic link on its way leads out of the store, so it was not deleted. Delete the link"
            )

    def _download(self, key: str, path: Path) -> None:
        pass


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error

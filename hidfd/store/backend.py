"""Where the bytes of a store lie: a folder of this machine, or (`hidfd.store.object_store`) anything that `pyarrow.fs`
reaches.

Keys are relative paths with `/`. Whatever is written is either there whole or not there: on a disk by a rename or a
link of a file that has reached it, on S3 because an object appears only when its upload has ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hidfd.errors import StoreError
from hidfd.store.disk import Workspace, file_sha256, store_errors


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says about a file: 64 hex digits and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One file of a place; `modified` in seconds since 1970."""

    key: str
    bytes: int
    modified: float


class StorageBackend(ABC):
    """Reads and writes below a root; every method raises StoreError when that fails.

    Attributes:
        uri: the root as a user would name it, without secrets.
        base: local folder in which attempts are written and files are read.
        cache: local folder for what can be made again from the store.
    """

    uri: str
    base: Path
    cache: Path

    def __init__(self) -> None:
        self._verified: dict[Path, tuple[int, int]] = {}

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The content of a small object; None if there is none."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Writes or replaces a small object."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Writes a small object unless there is one; whether it did."""

    @abstractmethod
    def publish(self, key: str, names: Sequence[str]) -> None:
        """Makes the named files of the workspace `key` last: when this returns, a power cut does not lose them."""

    @abstractmethod
    def walk(self, prefix: str = "") -> list[Entry]:
        """All files below a prefix."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes a file, or everything below a prefix; nothing there is fine."""

    @abstractmethod
    def probe(self) -> None:
        """Raises StoreError unless the place can be written to."""

    def where(self, key: str) -> str:
        """A key as a user would name it."""
        return f"{self.uri}/{key}"

    def workspace(self, key: str) -> Workspace:
        """A new folder for the files below `key`."""
        with store_errors("writing to", self.base / key):
            return Workspace(self.base / key)

    def fetch(self, key: str, record: FileRecord) -> Path:
        """A local path of a file, its content checked against the record once per process.

        Raises:
            StoreError: the file is missing or damaged.
        """
        path = self.base / key
        with store_errors("reading", self.where(key)):
            if not self._matches(path, record):
                self._download(key, path)
                if not self._matches(path, record):
                    raise StoreError(self._damage(key, path, record))
        return path

    @abstractmethod
    def _download(self, key: str, path: Path) -> None:
        """Brings a file here, unless here is where it lies."""

    def _matches(self, path: Path, record: FileRecord) -> bool:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if status.st_size != record.bytes:
            return False
        seen = (status.st_size, status.st_mtime_ns)
        if self._verified.get(path) != seen:
            if file_sha256(path) != record.sha256:
                return False
            self._verified[path] = seen
        return True

    def _damage(self, key: str, path: Path, record: FileRecord) -> str:
        if not path.exists():
            found = "missing"
        elif path.stat().st_size != record.bytes:
            found = f"damaged: {path.stat().st_size:,} bytes"
        else:
            found = f"damaged: sha256 {file_sha256(path)}"
        folder = self.where(str(PurePosixPath(key).parents[1]))
        return (
            f"{self.where(key)}: {found}; its manifest says {record.bytes:,} bytes, sha256 {record.sha256}. "
            f"Delete {folder} and run again: it is built anew"
        )

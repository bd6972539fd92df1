"""The interface between a store and the storage of its bytes, with what all backends share.

`hidfd.store.local` implements it for a folder, `hidfd.store.object_store` for every file system of `pyarrow.fs`.

Keys are relative paths with `/`; one that could lead out of the root is refused, as names and manifests in a shared
store are data from outside.

A file is either complete or absent: on a disk because it is renamed or linked only after its content has reached the
disk, on S3 because an object appears only when its upload has ended.
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
    """A file's sha256 (64 hex digits) and size in bytes, as its manifest records them."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StoredFile:
    """A file in a backend, as a listing shows it; `modified` is in seconds since 1970."""

    key: str
    bytes: int
    modified: float


def is_safe(key: str) -> bool:
    """Whether a relative path stays below the folder that it is appended to, as far as its text tells."""
    return "\0" not in key and not {"", ".", ".."}.intersection(key.split("/"))


class StorageBackend(ABC):
    """Storage for files below a root; every method raises StoreError if it fails.

    Attributes:
        uri: the root in the form that a user gives, without secrets.
        base: local folder in which artifacts are written and from which files are read.
        cache: local folder for files that can be derived again from the store.
    """

    uri: str
    base: Path
    cache: Path

    def __init__(self) -> None:
        self._verified: dict[Path, tuple[int, int]] = {}

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Return the content of a small file, None if it does not exist."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write or replace a small file."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Write a small file unless it exists; return whether it was written."""

    @abstractmethod
    def publish(self, key: str, names: Sequence[str]) -> None:
        """Make the named files of the workspace `key` durable: once this returns, a power cut does not lose them."""

    @abstractmethod
    def walk(self, prefix: str = "") -> list[StoredFile]:
        """List all files below a prefix."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a file, or all files below a prefix; do nothing if there are none."""

    @abstractmethod
    def probe(self) -> None:
        """Check that the root can be written to; raise StoreError if not."""

    def where(self, key: str) -> str:
        """Return the full path or URI of a key, for messages."""
        return f"{self.uri}/{key}"

    def local(self, key: str) -> Path:
        """Return the local path of a key, below `base`.

        Raises:
            StoreError: the key could lead out of the store.
        """
        return self.base / self.checked(key)

    def checked(self, key: str) -> str:
        """Return a key, the empty one of the root included.

        Raises:
            StoreError: the key could lead out of the store.
        """
        if key and not is_safe(key):
            raise StoreError(f"{self.uri}: {key!r} could lead out of the store; nothing was done with it")
        return key

    def workspace(self, key: str) -> Workspace:
        """Create a local folder in which the files below `key` are written."""
        folder = self.local(key)
        with store_errors("writing to", folder):
            return Workspace(folder)

    def fetch(self, key: str, record: FileRecord) -> Path:
        """Return a local path of a file, after checking its content against the record once per process.

        Raises:
            StoreError: the file is missing or damaged.
        """
        path = self.local(key)
        with store_errors("reading", self.where(key)):
            if not self._matches(path, record):
                self._download(key, path)
                if not self._matches(path, record):
                    raise StoreError(self._damage_message(key, path, record))
        return path

    @abstractmethod
    def _download(self, key: str, path: Path) -> None:
        """Copy a file to the local `path`; do nothing if the backend is local."""

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

    def _damage_message(self, key: str, path: Path, record: FileRecord) -> str:
        if not path.exists():
            found = "missing"
        elif path.stat().st_size != record.bytes:
            found = f"damaged: {path.stat().st_size:,} bytes"
        else:
            found = f"damaged: sha256 {file_sha256(path)}"
        folder = self.where(str(PurePosixPath(key).parents[1]))
        return (
            f"{self.where(key)}: {found}; its manifest says {record.bytes:,} bytes, sha256 {record.sha256}. "
            f"Delete {folder} and run again, which builds it anew"
        )

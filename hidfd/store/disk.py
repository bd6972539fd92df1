"""Local disk operations of a store: readable errors, hashes, and folders that are locked while in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from hidfd.errors import StoreError
from hidfd.store.locks import holders_of, try_flock, wait_for

_ELSEWHERE = "Choose another folder (`storage:` of the study file, or HIDFD_STORE)"
_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space (`python -m hidfd store remove` drops what no study refers to)",
    errno.EDQUOT: "the disk quota is used up. Free some space (`python -m hidfd store remove` helps)",
    errno.EACCES: f"permission denied. {_ELSEWHERE}, or change its permissions",
    errno.EPERM: f"not permitted. {_ELSEWHERE}, or change its permissions",
    errno.EROFS: f"the file system is read-only. {_ELSEWHERE}",
    errno.ENOTDIR: f"part of that path is a file, not a folder. {_ELSEWHERE}",
    errno.EEXIST: f"a file is in the way of a folder of that name. {_ELSEWHERE}",
}
ADVISED_ERRORS = frozenset(_ADVICE)
"""Error numbers that point to a problem of the store rather than of the program."""

DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions of code that takes apart a small file that somebody else may have written or damaged."""


def explain(error: Exception, doing: str, where: str | Path) -> StoreError:
    """Return a StoreError for a failed read or write that says what failed, where, why, and what to do."""
    reason = _ADVICE.get(getattr(error, "errno", None) or 0, str(error))
    return StoreError(f"{doing} {where}: {reason}. What was finished earlier is intact")


@contextlib.contextmanager
def store_errors(doing: str, where: str | Path) -> Iterator[None]:
    """Turn errors of the operating system and of pyarrow inside the block into a StoreError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if lacks_memory(error):
            raise
        raise explain(error, doing, where) from error


def lacks_memory(error: Exception) -> bool:
    """Whether pyarrow could not have memory that this machine has: a damaged file may ask for more than that."""
    if not isinstance(error, MemoryError):
        return False
    asked = re.search(r"of size (\d+) failed", str(error))
    return asked is None or int(asked[1]) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder have reached the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Workspace:
    """A new local folder to write into, locked while its writer lives, so that it is not removed as a leftover."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _create_locked(folder)

    def release(self, *, keep: bool) -> None:
        """Release the lock, and delete the folder unless `keep` is set."""
        if self._lock < 0:
            return
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: other writers use the parent folder too
                self.folder.parent.rmdir()
        os.close(self._lock)
        self._lock = -1


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Lock a workspace whose writer has ended, for the length of a block.

    Yields:
        Whether the lock was obtained: False while the writer lives, if there is no such folder, and on a file system
        without locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _create_locked(folder: Path) -> int:
    """Create a folder and lock it, in a loop, because a clean-up may delete it between the two."""
    for _ in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            if not wait_for(partial(try_flock, descriptor, fcntl.LOCK_SH), str(folder), partial(holders_of, folder)):
                os.close(descriptor)
                raise StoreError(f"{folder}: held by {holders_of(folder)}; end that process, or let it go on")
        if folder.exists() and folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)
    raise StoreError(f"{folder}: was deleted each time it was created; does another program clean up the store?")

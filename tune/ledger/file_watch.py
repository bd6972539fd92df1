"""A watch over the SQLite file of an open ledger: whether it is still the file that was opened.

SQLite itself would write on into a file that was deleted or moved, and notice one that was overwritten only when it
reads a page that it does not remember.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tune.errors import LedgerGone

HEADER_BYTES = 100
"""Length of the header of an SQLite file."""

MAGIC = b"SQLite format 3\0"

SETTLING_SECONDS = 1.0
"""Seconds for which a file may be shorter than its header says, since another process is just writing it back."""


@dataclass(frozen=True)
class _Header:
    """The part of an SQLite file's header that tells files apart.

    Attributes:
        mark: of `mark_file`; 0 in a file of an older version.
        bytes: size of the file by its header.
    """

    mark: int
    bytes: int


def mark_file(connection: sqlite3.Connection) -> None:
    """Give a ledger's file a random number in its header, unless it has one: another file has another one."""
    (mark,) = connection.execute("PRAGMA user_version").fetchone()
    if not mark:
        connection.execute(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # into the file itself


class FileWatch:
    """The watch over one file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Begin to watch.

        Args:
            path: of the file.
            descriptor: of the file, opened for reading.
        """
        self._path, self._descriptor = path, descriptor
        header = self._header()
        self._mark = header.mark if isinstance(header, _Header) else 0
        self._log, self._has_log = path.with_name(f"{path.name}-wal"), False

    def check(self) -> None:
        """Check that the file is where it was, whole, and the same.

        Raises:
            LedgerGone: it is not.
        """
        changed = self.change()
        if changed is not None:
            raise changed

    def change(self) -> LedgerGone | None:
        """Return what has happened to the file as an error; None if it is still the file that was opened."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            now = _place_of(self._descriptor)
            return self._error("was deleted" if now is None else f"was moved to {now}")
        except OSError as error:
            return self._error(f"cannot be reached any more ({error.strerror})")
        if not os.path.samestat(found, os.fstat(self._descriptor)):
            return self._error("was replaced by another file")
        until = time.monotonic() + SETTLING_SECONDS
        while isinstance(header := self._header(), str) and time.monotonic() < until:
            time.sleep(SETTLING_SECONDS / 20)
        if isinstance(header, str):
            return self._error(header)
        if self._mark and header.mark != self._mark:
            return self._error("was overwritten by another ledger")
        has_log = self._log.exists()  # it is there for as long as a connection is open that has used it
        if self._has_log and not has_log:
            return self._error(f"lost its file {self._log.name}, which was deleted,")
        self._has_log = has_log
        return None

    def _header(self) -> _Header | str:
        """Return the header, or what is wrong with the file in words.

        Another descriptor must not be opened for it: when it is closed, POSIX gives up SQLite's own locks.
        """
        header, size = os.pread(self._descriptor, HEADER_BYTES, 0), os.fstat(self._descriptor).st_size
        if len(header) < HEADER_BYTES:
            return f"was truncated to {size} bytes"
        if not header.startswith(MAGIC):
            return "was overwritten by something that is no ledger"
        page_bytes = int.from_bytes(header[16:18])
        whole = int.from_bytes(header[28:32]) * (65536 if page_bytes == 1 else page_bytes)
        if size < whole:
            return f"was truncated to {size:,} of {whole:,} bytes"
        return _Header(int.from_bytes(header[60:64]), whole)

    def _error(self, what: str) -> LedgerGone:
        return LedgerGone(
            f"{self._path}: the ledger {what} while it was in use; nothing more was written, and finished artifacts "
            f"are in the store. Put it back there, and the same command goes on; or, if it is lost, begin a new one by "
            f"moving away what is there now and adding --adopt to `python -m tune run`, which builds nothing again "
            f"that the store has"
        )


@contextmanager
def watched(path: Path) -> Iterator[FileWatch]:
    """Watch a file, which must be there, for as long as the block lasts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield FileWatch(path, descriptor)
    finally:
        os.close(descriptor)


def _place_of(descriptor: int) -> str | None:
    """Return where an open file is now; None if it was deleted, or the system does not say."""
    try:
        if not os.fstat(descriptor).st_nlink:
            return None
        place = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None
    return None if place.endswith(" (deleted)") else place  # by another link it may live on

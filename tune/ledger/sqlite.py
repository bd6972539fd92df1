"""A ledger in an SQLite file, and the lock beside it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from tune.errors import LedgerError, StudyLocked
from tune.ledger.mirrored_storage import closing, translate_errors

BUSY_SECONDS = 30
"""How long a write waits for another study that writes into the same file."""

LOOK_SECONDS = 1.0
"""How long a driver waits for the lock: whoever asks who holds it, holds it too for a moment."""


class FileLock:
    """A lock beside the file, which the kernel keeps for as long as the process lives: never lost, never renewed."""

    def check(self) -> None:
        """Held."""

    def renew(self) -> None:
        """Held."""


class SqliteFile:
    """Where a ledger is.

    Attributes:
        path: of the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_ledger(self) -> bool:
        """Whether any study was ever begun there."""
        return self.path.exists()

    @contextmanager
    def open(self) -> Iterator[RDBStorage]:
        """Optuna's storage over it, made if it is not there.

        Write-ahead logging: readers never wait, and a write costs a third.

        Raises:
            LedgerError: it is no database, or cannot be read.
        """
        try:
            # Whoever looks on while a driver makes the tables waits for them; Optuna makes them one by one.
            with self._beside("lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with sqlite3.connect(self.path, timeout=BUSY_SECONDS) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                connection.close()
                arguments = {"connect_args": {"timeout": BUSY_SECONDS}}
                storage = RDBStorage(f"sqlite:///{self.path}", engine_kwargs=arguments)
        except OSError as error:
            raise self._not_writable(error) from error
        except (sqlite3.Error, StorageInternalError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            raise LedgerError(
                f"{self.path}: not a ledger that can be opened ({str(error).splitlines()[0]}); if it is damaged, move "
                f"it away: finished artifacts stay in the store, and the study is rebuilt from them"
            ) from error
        sqlalchemy.event.listen(storage.engine, "connect", _relax)
        storage.engine.dispose()
        translate_errors(storage, self._error_of)
        with closing(storage):
            yield storage

    @contextmanager
    def lock(self, name: str) -> Iterator[FileLock]:
        """Keeps other drivers away from a study for as long as the block lasts.

        Raises:
            LedgerHeld: another driver runs it.
            LedgerError: the folder cannot be written, or its file system cannot lock.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock_path = self._beside(f"{name}.lock")
            file = lock_path.open("a+")
        except OSError as error:
            raise self._not_writable(error) from error
        with file:
            _acquire(file, lock_path, name)
            file.seek(0)
            file.truncate()
            since = datetime.now(UTC).isoformat(timespec="seconds")
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
            file.flush()
            yield FileLock()

    def holder(self, name: str) -> str | None:
        """Who drives a study now, in words; None if nobody does."""
        lock_path = self._beside(f"{name}.lock")
        if not lock_path.exists():
            return None
        with lock_path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(lock_path)
        return None

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _not_writable(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: cannot be written ({error.strerror}); choose another place: storage.ledger=PATH, or "
            f"HIDFD_LEDGER"
        )

    def _error_of(self, error: Exception, _is_connected: bool) -> LedgerError:
        said = str(error).splitlines()[0]
        stands = "what was written before stands, and the same command goes on"
        if "database is locked" in said:
            return LedgerError(
                f"{self.path}: another program has kept it for more than {BUSY_SECONDS} s ({said}); close that program "
                f"(a database browser, a backup); {stands}"
            )
        if "disk is full" in said:
            return LedgerError(f"{self.path}: its disk is full ({said}); make room there; {stands}")
        return LedgerError(f"the ledger cannot be read or written: {said}. Check the disk and {self.path}; {stands}")


def _relax(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _acquire(file: IO[str], path: Path, name: str) -> None:
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise StudyLocked.by(_holder(path), name) from error
        except OSError as error:
            raise LedgerError(
                f"{path}: this file system cannot lock ({error.strerror}); put the ledger on a local disk: "
                f"storage.ledger=PATH, or HIDFD_LEDGER"
            ) from error
        time.sleep(LOOK_SECONDS / 20)


def _holder(lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"

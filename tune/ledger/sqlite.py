"""A ledger in an SQLite file, and the lock file beside it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from hidfd.store import locks
from hidfd.store.locks import holders_of, said_if_slow, try_flock, wait_for
from tune.errors import LedgerError, StudyLocked
from tune.ledger.file_watch import FileWatch, mark_file, watched
from tune.ledger.mirrored_storage import open_storage

FIRST_TABLES = frozenset({"studies", "version_info"})
"""Tables of which Optuna makes one before all others, so that every ledger has it, even a half-made one."""

SHOWN_TABLES = 3
"""Tables of another program that a message names."""

FULL = "disk is full"
"""Words in which SQLite says that."""

BUSY_SECONDS = 30
"""Seconds that a write waits for another study that writes into the same file."""

LOCK_WAIT_SECONDS = 1.0
"""Seconds that a driver waits for the lock: a process that asks who holds it holds it for a moment, too."""


class FileLock:
    """A lock on a file, which the kernel keeps as long as the process lives: it is never lost and never renewed."""

    def check(self) -> None:
        """Do nothing: the lock is held."""

    def renew(self) -> None:
        """Do nothing: the lock is held."""


class SqliteFile:
    """The SQLite file of a ledger."""

    def __init__(self, path: Path) -> None:
        """Name a file, which need not be there yet."""
        self.path = path
        self._is_driven = False
        self._watch: FileWatch | None = None

    def has_ledger(self) -> bool:
        """Whether the file is there and holds anything: SQLite would make tables in an empty one."""
        return self.path.exists() and not (self.path.is_file() and self.path.stat().st_size == 0)

    @contextmanager
    def open(self) -> Iterator[RDBStorage]:
        """Open the file as Optuna's storage, and make it if it is not there.

        It uses write-ahead logging, with which readers never wait and a write costs a third. Only while the tables are
        made there is a lock, so that a reader of a ledger that exists holds up nobody. Before each transaction and
        before its commit it is checked that the file is still the one that was opened.

        Raises:
            LedgerError: it is no database, or cannot be read, or another process keeps it locked.
        """
        self._check_kind()
        try:
            # Optuna makes the tables one by one; another process waits here until the first one has made all of them.
            with self._lock_while_made():
                with contextlib.closing(self._connect()) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                storage = RDBStorage("sqlite:///ledger.db", engine_kwargs={"creator": self._reconnect})
        except OSError as error:
            raise self._not_writable(error) from error
        except (sqlite3.Error, StorageInternalError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            message = str(error).splitlines()[0]
            raise (self._full(message) if FULL in message else self._no_ledger(message)) from error
        sqlalchemy.event.listen(storage.engine, "connect", _set_synchronous)
        sqlalchemy.event.listen(storage.engine, "do_execute", self._execute)
        storage.engine.dispose()
        if self._is_driven:
            self._mark()
        with watched(self.path) as watch:
            for moment in ("begin", "commit"):
                sqlalchemy.event.listen(storage.engine, moment, partial(_check, watch))
            self._watch = watch
            try:
                with open_storage(storage, self._error_of):
                    yield storage
            finally:
                self._watch = None  # its descriptor is closed

    def _check_kind(self) -> None:
        """Refuse what cannot be a ledger before anything is written beside it.

        SQLite itself looks: if another descriptor of the file were closed, POSIX would give up the locks of a ledger
        that this process has open.
        """
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise self._no_ledger("it is no file")
        if not os.access(self.path, os.R_OK):
            raise self._not_writable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        logs = (self.path.with_name(f"{self.path.name}-{log}") for log in ("wal", "journal"))
        # Even a reader makes the files of a write-ahead log, unless it says that nobody writes into the database.
        how = "mode=ro" if any(log.exists() for log in logs) else "mode=ro&immutable=1"
        tables = self._read("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name", how) or []
        if tables and not FIRST_TABLES.intersection(name for (name,) in tables):
            found = ", ".join(name for (name,) in tables[:SHOWN_TABLES])
            raise LedgerError(
                f"{self.path}: another program's database (with the tables {found}), and no ledger; it is left as it "
                f"is. Name another file: storage.ledger=PATH, or HIDFD_LEDGER"
            )

    @contextmanager
    def _lock_while_made(self) -> Iterator[None]:
        """Lock the file against other processes that make its tables; do nothing once all of them are there."""
        if self._is_made():
            yield
            return
        path = self._beside("lock")
        with path.open("a", encoding="utf-8") as lock:

            def take() -> bool:
                return self._is_made() or try_flock(lock.fileno(), fcntl.LOCK_EX)

            if not wait_for(take, str(path), lambda: holders_of(path)):
                raise LedgerError(
                    f"{path}: held by {holders_of(path)} for more than {locks.LIMIT_SECONDS:g} s, while the ledger was "
                    f"to be made; end that process or let it go on, then give the same command again"
                )
            yield

    def _is_made(self) -> bool:
        """Whether the file has all of Optuna's tables, of which alembic_version gets its row last."""
        return self._read("PRAGMA journal_mode") == [("wal",)] and bool(self._read("SELECT 1 FROM alembic_version"))

    def _read(self, query: str, how: str = "mode=ro") -> list[tuple[Any, ...]] | None:
        """Return the rows that a query finds, without writing anything; None where the file cannot be read so.

        Args:
            query: in SQL.
            how: options of SQLite's URI.

        Raises:
            LedgerError: it is no database.
        """
        if not self.path.exists():
            return None
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?{how}", uri=True)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise self._no_ledger(str(error)) from error
            return None

    def _execute(self, cursor: Any, statement: str, parameters: Any, _context: object) -> bool:
        """Execute a statement as SQLAlchemy would, and say who holds the file if a write has to wait for it."""
        if statement.lstrip()[:6].upper() not in ("INSERT", "UPDATE", "DELETE"):
            return False
        with said_if_slow(str(self.path), self._holders):
            cursor.execute(statement, parameters)
        return True

    def _holders(self) -> str:
        return holders_of(self.path, self.path.with_name(f"{self.path.name}-shm"))

    @contextmanager
    def lock(self, name: str) -> Iterator[FileLock]:
        """Lock a study against other drivers for as long as the block lasts.

        Raises:
            StudyLocked: another driver runs it.
            LedgerError: the folder cannot be written, or its file system cannot lock.
        """
        try:
            self._check_kind()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock_path = self._beside(f"{name}.lock")
            file = lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise self._not_writable(error) from error
        with file:
            _acquire(file, lock_path, name)
            file.seek(0)
            file.truncate()
            since = datetime.now(UTC).isoformat(timespec="seconds")
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
            file.flush()
            self._is_driven = True
            yield FileLock()

    def holder(self, name: str) -> str | None:
        """Return which process drives a study now, in words; None if none does."""
        lock_path = self._beside(f"{name}.lock")
        if not lock_path.exists():
            return None
        with lock_path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder_in_words(lock_path)
        return None

    def _connect(self) -> sqlite3.Connection:
        """Connect to the file itself, as Optuna would take an address with some names of folders for another one."""
        return sqlite3.connect(self.path.absolute(), timeout=BUSY_SECONDS, check_same_thread=False)

    def _reconnect(self) -> sqlite3.Connection:
        """Connect to a file that must be there: SQLite would make a new one in place of one that was deleted."""
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _no_ledger(self, reason: str) -> LedgerError:
        return LedgerError(
            f"{self.path}: not a ledger that can be opened ({reason}); if it is damaged, move it away: finished "
            f"artifacts stay in the store, and the study is rebuilt from them"
        )

    def _full(self, message: str) -> LedgerError:
        return LedgerError(
            f"{self.path}: its disk is full ({message}); make room there; what was written before is kept, and the "
            f"same command goes on"
        )

    def _not_writable(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: cannot be written ({error.strerror}); choose another place: storage.ledger=PATH, or "
            f"HIDFD_LEDGER"
        )

    def _mark(self) -> None:
        try:
            with said_if_slow(str(self.path), self._holders), contextlib.closing(self._reconnect()) as connection:
                mark_file(connection)
        except sqlite3.Error as error:
            raise self._error_of(error, True) from error

    def _error_of(self, error: Exception, _is_connected: bool) -> LedgerError:
        changed = None if self._watch is None else self._watch.change()
        if changed is not None:
            return changed
        message = str(error).splitlines()[0]
        advice = "what was written before is kept, and the same command goes on"
        if "database is locked" in message:
            return LedgerError(
                f"{self.path}: another program has kept it for more than {BUSY_SECONDS} s ({message}): "
                f"{self._holders()}; close that program (a database browser, a backup); {advice}"
            )
        if FULL in message:
            return self._full(message)
        return LedgerError(f"the ledger cannot be read or written: {message}. Check the disk and {self.path}; {advice}")


def _check(watch: FileWatch, _connection: object) -> None:
    watch.check()


def _set_synchronous(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _acquire(file: IO[str], path: Path, name: str) -> None:
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise StudyLocked.by(_holder_in_words(path), name) from error
        except OSError as error:
            raise LedgerError(
                f"{path}: this file system cannot lock ({error.strerror}); put the ledger on a local disk: "
                f"storage.ledger=PATH, or HIDFD_LEDGER"
            ) from error
        time.sleep(LOCK_WAIT_SECONDS / 20)


def _holder_in_words(lock: Path) -> str:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"

"""A ledger in a PostgreSQL database: its address, the driver's advisory lock, and its errors in words."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from tune.errors import ConnectionLost, LedgerError, StudyLocked
from tune.ledger.mirrored_storage import closing, storage_errors, translate_errors

LOOK_SECONDS = 1.0
"""How long a driver waits for the lock: the server takes a moment to notice that a driver was killed."""

CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""A server that vanished without a word is missed after 25 s; by default it would be after hours. The address's query
wins over these."""

SESSION = {
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""The same from the server's side, for the lock of a driver whose machine is gone; and the lock may idle for days."""

AWAY = {"57P01", "57P02", "57P03", "53300", "25006"}
"""SQLSTATEs of a server that shuts down, has crashed, is starting, has no connection free, or became a standby."""

APPLICATION_BYTES = 63
"""PostgreSQL cuts an application_name there."""

EXPECTED = "expected postgresql://USER:${NAME}@HOST:PORT/DATABASE, where NAME is an environment variable"


class PostgresDatabase:
    """Where a ledger is.

    Attributes:
        shown: its address without its password and its query.
    """

    def __init__(self, address: str) -> None:
        """Reads an address; connects to nothing.

        Raises:
            LedgerError: it is none.
        """
        try:
            url = sqlalchemy.make_url(address)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise LedgerError(f"storage.ledger: this is no address of a database; {EXPECTED}") from None
        if "@" in (url.host or ""):  # what follows the first @ is part of the password
            raise LedgerError(
                f"storage.ledger: this address has more than one @; write a password's special characters as %40 and "
                f"so on (in ${{NAME}} they may stand as they are); {EXPECTED}"
            )
        self._password = str(url.password or "")
        self.shown = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
        named = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
        named["dbname"] = url.database
        given = {name: value for name, value in named.items() if value is not None}
        self._arguments: dict[str, Any] = CONNECTION | {"application_name": "hidfd"} | given | dict(url.query)

    def has_ledger(self) -> bool:
        """Whether any study was ever begun there."""
        with self.connect() as connection:
            return bool(_one(connection, f"SELECT {HAS_TABLES}"))

    @contextmanager
    def open(self) -> Iterator[RDBStorage]:
        """Optuna's storage over it, its tables made if they are not there.

        Raises:
            ConnectionLost: it does not answer.
            LedgerError: it refuses, or its tables are another version's.
        """
        with self.connect() as first, storage_errors():
            # Drivers of several studies may be the first ones at once; the lock ends with the connection.
            _one(first, "SELECT pg_advisory_lock(%s)", _key("tables"))
            if not _one(first, MAY_OPEN):
                raise self._no_right("no tables yet, and no right to make them")
            # The password stands in no URL, and so in no error of SQLAlchemy, Alembic or Optuna.
            arguments = self._arguments | {"target_session_attrs": "read-write"}
            try:
                storage = RDBStorage("postgresql+psycopg://", engine_kwargs={"connect_args": arguments})
            except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
                cause = error if isinstance(error, sqlalchemy.exc.DBAPIError) else error.__cause__
                raise self.error_of(getattr(cause, "orig", None) or error, True) from None
            except RuntimeError as error:
                raise LedgerError(f"{self.shown}: not a ledger of this version ({error})") from error
        translate_errors(storage, self.error_of)
        with closing(storage):
            yield storage

    @contextmanager
    def lock(self, name: str) -> Iterator[AdvisoryLock]:
        """Keeps other drivers away from a study for as long as the block lasts.

        Raises:
            LedgerHeld: another driver runs it.
            LedgerError: see `open`.
        """
        lock = AdvisoryLock(self, name)
        try:
            lock.renew()
            yield lock
        finally:
            lock.release()

    def holder(self, name: str) -> str | None:
        """Who drives a study now, in words; None if nobody does."""
        with self.connect() as connection:
            found = _holder(connection, _key(name))
        return None if found is None else _in_words(found[1])

    @contextmanager
    def connect(self, **arguments: str) -> Iterator[psycopg.Connection]:
        """A connection of its own, for a few statements; its errors are the ledger's."""
        connection = self.open_connection(**arguments)
        try:
            yield connection
        except psycopg.Error as error:
            raise self.error_of(error, True) from None
        finally:
            connection.close()

    def open_connection(self, **arguments: str) -> psycopg.Connection:
        """A connection to keep, on which each statement is a transaction."""
        try:
            return psycopg.connect(**(self._arguments | arguments), autocommit=True)
        except psycopg.Error as error:
            raise self.error_of(error, False) from None

    def error_of(self, error: BaseException, is_connected: bool) -> LedgerError:
        """What went wrong, in words that hold no password."""
        said = str(error).partition("\n")[0].removeprefix("connection failed: ").strip()
        said = said.replace(self._password, "***") if self._password else said
        state = getattr(error, "sqlstate", None) or ""
        correct = "correct the address: storage.ledger=URL, or HIDFD_LEDGER"
        if not is_connected:
            if re.search(r"authentication failed|no password supplied|role .* does not exist|pg_hba", said):
                return LedgerError(
                    f"{self.shown}: the server refuses this user or this password ({said}); set the environment "
                    f"variable that storage.ledger names, or {correct}"
                )
            if re.search(r"database .* does not exist", said):
                return LedgerError(f"{self.shown}: the server has no such database ({said}); create it, or {correct}")
            return ConnectionLost(f"{self.shown}: no PostgreSQL server answers there ({said}); start it, or {correct}")
        is_broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state
        if is_broken or state in AWAY or state.startswith("08"):
            return ConnectionLost(f"{self.shown}: the connection is lost ({said})")
        if state == "42501":
            return self._no_right(said)
        return LedgerError(
            f"{self.shown}: the ledger cannot be read or written ({said}); what was written before stands, and the "
            f"same command goes on once that is mended"
        )

    def _no_right(self, said: str) -> LedgerError:
        return LedgerError(
            f"{self.shown}: this user may not make or use the ledger's tables ({said}); make it the owner of the "
            f"database, or grant it CREATE on the schema"
        )


class AdvisoryLock:
    """A driver's lock: a session's, on a connection that does nothing else, so that it ends when the driver does."""

    def __init__(self, database: PostgresDatabase, name: str) -> None:
        """Not taken yet."""
        self._database, self._name, self._key = database, name, _key(name)
        words = f"hidfd {os.getpid()} {int(time.time())} {secrets.token_hex(3)} {socket.gethostname()}"
        self._label = words.encode("ascii", "replace")[:APPLICATION_BYTES].decode()
        self._connection: psycopg.Connection | None = None

    def check(self) -> None:
        """See `LedgerLock`. A connection that has something to say while it idles has ended, or is about to."""
        assert self._connection is not None
        try:
            waiting = select.poll()
            waiting.register(self._connection.fileno(), select.POLLIN)
            if waiting.poll(0):
                self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise self._database.error_of(error, True) from None

    def renew(self) -> None:
        """See `LedgerLock`."""
        self.release()
        self._connection = self._database.open_connection(application_name=self._label, target_session_attrs="read-write")
        until = time.monotonic() + LOOK_SECONDS
        try:
            _one(self._connection, SET_SESSION, list(SESSION), list(SESSION.values()))
            while not _one(self._connection, "SELECT pg_try_advisory_lock(%s)", self._key):
                found = _holder(self._connection, self._key)
                if found is not None and found[1] == self._label:
                    # This driver's own, of a connection that broke unheard by the server.
                    _one(self._connection, "SELECT pg_terminate_backend(%s)", found[0])
                elif found is not None and time.monotonic() >= until:
                    raise StudyLocked.by(_in_words(found[1]), self._name)
                time.sleep(LOOK_SECONDS / 20)
        except psycopg.Error as error:
            raise self._database.error_of(error, True) from None

    def release(self) -> None:
        """Lets another driver have it; it is free at once where the server hears of it."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute("SELECT pg_advisory_unlock_all()")
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


HAS_TABLES = "to_regclass('alembic_version') IS NOT NULL"
"""The last one that Optuna makes."""

MAY_OPEN = f"SELECT {HAS_TABLES} OR coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"

SET_SESSION = """
SELECT count(set_config(name, value, false))
FROM unnest(%s::text[], %s::text[]) AS wanted (name, value) JOIN pg_settings USING (name)
"""
"""Those that this server knows: idle_session_timeout is there since PostgreSQL 14."""

FIND_HOLDER = """
SELECT activity.pid, activity.application_name FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = %s AND objid = %s
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def _key(name: str) -> int:
    """64 bits, signed, as PostgreSQL names an advisory lock."""
    return int.from_bytes(hashlib.sha256(f"hidfd/{name}".encode()).digest()[:8], signed=True)


def _holder(connection: psycopg.Connection, key: int) -> tuple[int, str] | None:
    """Who holds a lock: its process at the server, and what it calls itself."""
    high, low = (key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF
    row = connection.execute(FIND_HOLDER, [high, low]).fetchone()
    return None if row is None else (row[0], row[1])


def _in_words(label: str) -> str:
    match label.split(" ", 4):
        case ["hidfd", pid, since, _, host] if since.isdecimal():
            return f"process {pid} on {host} since {datetime.fromtimestamp(int(since), UTC).isoformat()}"
    return "another process"


def _one(connection: psycopg.Connection, query: str, *values: Any) -> Any:
    """The one value of the one row."""
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]

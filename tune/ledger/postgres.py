"""A ledger in a PostgreSQL database: its address, the advisory lock of its driver, and its errors in words."""

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

from hidfd.store import locks
from hidfd.store.locks import wait_for
from tune.errors import ConnectionLost, LedgerError, LedgerGone, StudyLocked
from tune.ledger.mirrored_storage import open_storage, storage_errors

LOCK_WAIT_SECONDS = 1.0
"""Seconds that a driver waits for the lock: the server takes a moment to notice that another driver was killed."""

CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""Arguments of connections, with which a server that vanished is noticed after 25 s instead of hours. Those in the
address's query win over these."""

SESSION = {
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Settings of the lock's session: the server notices a driver whose machine is gone, and the lock may idle for days."""

UNAVAILABLE = {"57P01", "57P02", "57P03", "53300", "25006"}
"""SQLSTATEs of a server that shuts down, has crashed, is starting, has no free connection, or became a standby."""

APPLICATION_BYTES = 63
"""Length at which PostgreSQL cuts an application_name."""

ADDRESS_FORM = "expected postgresql://USER:${NAME}@HOST:PORT/DATABASE, where NAME is an environment variable"


class PostgresDatabase:
    """The PostgreSQL database of a ledger.

    Attributes:
        shown: its address for messages, without the password and the query.
    """

    def __init__(self, address: str) -> None:
        """Read an address, without connecting to it.

        Raises:
            LedgerError: it is no address of a database.
        """
        try:
            url = sqlalchemy.make_url(address)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise LedgerError(f"storage.ledger: this is no address of a database; {ADDRESS_FORM}") from None
        if "@" in (url.host or ""):  # what follows the first @ is part of the password
            raise LedgerError(
                f"storage.ledger: this address has more than one @; write a password's special characters as %40 and "
                f"so on (in ${{NAME}} they need no change); {ADDRESS_FORM}"
            )
        self._password = str(url.password or "")
        self.shown = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
        named = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
        named["dbname"] = url.database
        given = {name: value for name, value in named.items() if value is not None}
        self._arguments: dict[str, Any] = CONNECTION | {"application_name": "hidfd"} | given | dict(url.query)

    def has_ledger(self) -> bool:
        """Whether the ledger's tables are there."""
        with self.connect() as connection:
            return bool(_query_one(connection, f"SELECT {HAS_TABLES}"))

    @contextmanager
    def open(self) -> Iterator[RDBStorage]:
        """Open the database as Optuna's storage, and make its tables if they are not there.

        Raises:
            ConnectionLost: the server does not answer.
            LedgerError: the server refuses, or the tables are those of another version.
        """
        with self.connect() as first, storage_errors():
            # Drivers of several studies may be the first at the same time; this lock ends with the connection.
            key = _lock_key_of("tables")

            def take() -> bool:
                free = _query_one(first, "SELECT pg_try_advisory_lock(%s)", key)
                return bool(free or _query_one(first, f"SELECT {HAS_TABLES}"))

            def holder() -> str:
                found = _query_holder(first, key)
                return "another session" if found is None else f"session {found[0]} of the server ({found[1]})"

            if not _query_one(first, f"SELECT {HAS_TABLES}") and not wait_for(
                take, f"the tables of {self.shown}", holder
            ):
                raise LedgerError(
                    f"{self.shown}: {holder()} has made the ledger's tables for more than {locks.LIMIT_SECONDS:g} s; "
                    f"end it (pg_terminate_backend), then give the same command again"
                )
            if not _query_one(first, MAY_OPEN):
                raise self._no_right("no tables yet, and no right to make them")
            # A password that is in no URL is in no error of SQLAlchemy, Alembic or Optuna.
            arguments = self._arguments | {"target_session_attrs": "read-write"}
            try:
                storage = RDBStorage("postgresql+psycopg://", engine_kwargs={"connect_args": arguments})
            except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
                cause = error if isinstance(error, sqlalchemy.exc.DBAPIError) else error.__cause__
                raise self.error_of(getattr(cause, "orig", None) or error, True) from None
            except RuntimeError as error:
                raise LedgerError(f"{self.shown}: not a ledger of this version ({error})") from error
        sqlalchemy.event.listen(storage.engine, "connect", _limit_lock_waits)
        storage.engine.dispose()
        with open_storage(storage, self.error_of):
            yield storage

    @contextmanager
    def lock(self, name: str) -> Iterator[AdvisoryLock]:
        """Lock a study against other drivers for as long as the block lasts.

        Raises:
            StudyLocked: another driver runs it.
            LedgerError: see `open`.
        """
        lock = AdvisoryLock(self, name)
        try:
            lock.renew()
            yield lock
        finally:
            lock.release()

    def holder(self, name: str) -> str | None:
        """Return which process drives a study now, in words; None if none does."""
        with self.connect() as connection:
            found = _query_holder(connection, _lock_key_of(name))
        return None if found is None else _holder_in_words(found[1])

    @contextmanager
    def connect(self, **arguments: str) -> Iterator[psycopg.Connection]:
        """Open a connection for a few statements; its errors are raised as `LedgerError`."""
        connection = self.open_connection(**arguments)
        try:
            yield connection
        except psycopg.Error as error:
            raise self.error_of(error, True) from None
        finally:
            connection.close()

    def open_connection(self, **arguments: str) -> psycopg.Connection:
        """Open a connection on which each statement is a transaction; the caller closes it."""
        try:
            return psycopg.connect(**(self._arguments | arguments), autocommit=True)
        except psycopg.Error as error:
            raise self.error_of(error, False) from None

    def error_of(self, error: BaseException, is_connected: bool) -> LedgerError:
        """Translate an error of the database, without its password.

        Args:
            error: of psycopg.
            is_connected: whether the connection had been made before.
        """
        message = str(error).partition("\n")[0].removeprefix("connection failed: ").strip()
        message = message.replace(self._password, "***") if self._password else message
        sqlstate = getattr(error, "sqlstate", None) or ""
        correct = "correct the address: storage.ledger=URL, or HIDFD_LEDGER"
        if not is_connected:
            if re.search(r"authentication failed|no password supplied|role .* does not exist|pg_hba", message):
                return LedgerError(
                    f"{self.shown}: the server refuses this user or this password ({message}); set the environment "
                    f"variable that storage.ledger names, or {correct}"
                )
            if re.search(r"database .* does not exist", message):
                return LedgerGone(f"{self.shown}: the server has no such database ({message}); create it, or {correct}")
            return ConnectionLost(
                f"{self.shown}: no PostgreSQL server answers there ({message}); start it, or {correct}"
            )
        is_broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not sqlstate
        if is_broken or sqlstate in UNAVAILABLE or sqlstate.startswith("08"):
            return ConnectionLost(f"{self.shown}: the connection is lost ({message})")
        if sqlstate == "42501":
            return self._no_right(message)
        if sqlstate == "55P03":
            return LedgerError(
                f"{self.shown}: another session has kept a row or table of the ledger locked for more than "
                f"{locks.LIMIT_SECONDS:g} s ({message}): {self._idle_holders()}; end it (pg_terminate_backend); what "
                f"was written before is kept, and the same command goes on"
            )
        return LedgerError(
            f"{self.shown}: the ledger cannot be read or written ({message}); what was written before is kept, and the "
            f"same command goes on once that is mended"
        )

    def _idle_holders(self) -> str:
        """Return in words which sessions hold locks although they do nothing."""
        try:
            with self.connect() as connection:
                rows = connection.execute(FIND_IDLE_HOLDERS).fetchall()
        except LedgerError:
            rows = []
        return ", ".join(f"session {pid} of the server ({name})" for pid, name in rows) or "pg_stat_activity shows it"

    def _no_right(self, message: str) -> LedgerError:
        return LedgerError(
            f"{self.shown}: this user may not make or use the ledger's tables ({message}); make it the owner of the "
            f"database, or grant it CREATE on the schema"
        )


class AdvisoryLock:
    """The lock of a driver: an advisory lock on a connection of its own, so that it ends when the driver does."""

    def __init__(self, database: PostgresDatabase, name: str) -> None:
        """Prepare the lock of a study; `renew` takes it."""
        self._database, self._name, self._lock_key = database, name, _lock_key_of(name)
        words = f"hidfd {os.getpid()} {int(time.time())} {secrets.token_hex(3)} {socket.gethostname()}"
        self._label = words.encode("ascii", "replace")[:APPLICATION_BYTES].decode()
        self._connection: psycopg.Connection | None = None

    def check(self) -> None:
        """Check the lock; see `LedgerLock`. An idle connection that has data to read has ended, or is about to."""
        assert self._connection is not None
        try:
            waiting = select.poll()
            waiting.register(self._connection.fileno(), select.POLLIN)
            if waiting.poll(0):
                self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise self._database.error_of(error, True) from None

    def renew(self) -> None:
        """Take the lock, on a new connection; see `LedgerLock`."""
        self.release()
        self._connection = self._database.open_connection(
            application_name=self._label, target_session_attrs="read-write"
        )
        until = time.monotonic() + LOCK_WAIT_SECONDS
        try:
            _query_one(self._connection, SET_SESSION, list(SESSION), list(SESSION.values()))
            while not _query_one(self._connection, "SELECT pg_try_advisory_lock(%s)", self._lock_key):
                found = _query_holder(self._connection, self._lock_key)
                if found is not None and found[1] == self._label:
                    # It is this driver's own lock, on a connection of which the server has not noticed that it broke.
                    _query_one(self._connection, "SELECT pg_terminate_backend(%s)", found[0])
                elif found is not None and time.monotonic() >= until:
                    raise StudyLocked.by(_holder_in_words(found[1]), self._name)
                time.sleep(LOCK_WAIT_SECONDS / 20)
        except psycopg.Error as error:
            raise self._database.error_of(error, True) from None

    def release(self) -> None:
        """Free the lock, at once if the server can be reached."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute("SELECT pg_advisory_unlock_all()")
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


HAS_TABLES = "to_regclass('alembic_version') IS NOT NULL"
"""Condition that is true once Optuna has made its tables, of which this is the last one."""

MAY_OPEN = f"SELECT {HAS_TABLES} OR coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
"""Query whether the tables are there, or the user may make them."""

SET_SESSION = """
SELECT count(set_config(name, value, false))
FROM unnest(%s::text[], %s::text[]) AS wanted (name, value) JOIN pg_settings USING (name)
"""
"""Query that sets those of `SESSION` that this server knows: idle_session_timeout exists since PostgreSQL 14."""

FIND_HOLDER = """
SELECT activity.pid, activity.application_name FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = %s AND objid = %s
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Query for the process that holds an advisory lock, given the two halves of its key."""


FIND_IDLE_HOLDERS = """
SELECT pid, application_name FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND state_change < now() - interval '5 seconds'
"""
"""Query for the sessions that hold locks and do nothing, as a stopped process leaves them."""


def _limit_lock_waits(connection: Any, _record: object) -> None:
    """Have statements end with SQLSTATE 55P03 rather than wait for a lock without a limit."""
    connection.execute(f"SET lock_timeout = '{int(1000 * locks.LIMIT_SECONDS)}ms'")
    connection.commit()


def _lock_key_of(name: str) -> int:
    """Return the key of a study's advisory lock, a signed integer of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"hidfd/{name}".encode()).digest()[:8], signed=True)


def _query_holder(connection: psycopg.Connection, key: int) -> tuple[int, str] | None:
    """Return the holder of a lock: its process at the server, and its application_name."""
    high, low = (key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF
    row = connection.execute(FIND_HOLDER, [high, low]).fetchone()
    return None if row is None else (row[0], row[1])


def _holder_in_words(label: str) -> str:
    match label.split(" ", 4):
        case ["hidfd", pid, since, _, host] if since.isdecimal():
            return f"process {pid} on {host} since {datetime.fromtimestamp(int(since), UTC).isoformat()}"
    return "another process"


def _query_one(connection: psycopg.Connection, query: str, *values: Any) -> Any:
    """Return the one value of the one row."""
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]

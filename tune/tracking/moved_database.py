"""MLflow's SQLite file in a folder that was moved or renamed: the addresses in it follow.

MLflow keeps where artifacts lie as absolute addresses. After a move they would be missed at the old place, and new ones
written there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from tune.errors import TrackingError

ARTIFACTS = "mlartifacts"
"""Folder of artifacts beside the database, with one folder for each experiment of a study, of the study's name."""

ADDRESSES = (
    ("experiments", "artifact_location", "TRUE"),
    ("runs", "artifact_uri", "TRUE"),
    ("logged_models", "artifact_location", "TRUE"),
    ("model_versions", "source", "TRUE"),
    ("model_versions", "storage_location", "TRUE"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
    ("workspaces", "default_artifact_root", "TRUE"),
    ("workspaces", "trace_archival_location", "TRUE"),
)
"""Every table and column of MLflow 3.17 that holds addresses of artifacts, and which of its rows."""

WAIT_SECONDS = 20.0
"""Time to wait for a server or another study that writes into the database now."""

_log = logging.getLogger(__name__)


def follow_move(database: Path) -> None:
    """Rewrite the addresses of a database that lies elsewhere than when they were written; say so if any were.

    Former places are those whose `mlartifacts` folders the experiments of studies name. An address below one of them is
    rewritten if its files are here; or if they are in neither place, as those of a run that has written none yet, and
    the folder around them is here. All others stay: files that are still at the former place, and what was never moved.
    All are rewritten in one transaction, after a copy of the database was made beside it.

    Args:
        database: absolute path of an existing SQLite file.

    Raises:
        TrackingError: the database cannot be read, copied or written; no address was rewritten.
    """
    try:
        with closing(sqlite3.connect(database, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
            former = _former_places(connection, database.parent)
            if not former or not _num_to_rewrite(connection, _Move(former, database.parent)):
                return
            connection.execute("BEGIN IMMEDIATE")  # whoever came first has rewritten them meanwhile
            move = _Move(_former_places(connection, database.parent), database.parent)
            if not _num_to_rewrite(connection, move):
                return
            copy = _copy(database, move.former)
            number = _rewrite(connection, move)
            connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(
            f"{database}: MLflow's database cannot be read, or not be rewritten after its folder was moved "
            f"({error}); nothing in it was changed"
        ) from error
    left = f"; {len(move.left)} stay, since their files are still there and not here" if move.left else ""
    _log.warning(
        "MLflow's database was moved here, to %s, from %s: %d addresses in it were rewritten%s. As it was before: %s",
        database.parent,
        ", ".join(map(str, move.former)),
        number,
        left,
        copy.name,
    )


class _Move:
    """The way from former places to the one of today, as an SQL function of an address; `left` collects what stays."""

    def __init__(self, former: Iterable[Path], here: Path) -> None:
        self.former, self.here = sorted(former), here
        self.left: set[str] = set()
        self._by_depth = sorted({here, *self.former}, key=lambda place: -len(place.parts))
        self._known: dict[str, str] = {}

    def __call__(self, address: str | None) -> str | None:
        if address is None:
            return None
        if address not in self._known:
            self._known[address] = self._moved(address)
        return self._known[address]

    def _moved(self, address: str) -> str:
        path = _path_of(address)
        place = None if path is None else next(filter(path.is_relative_to, self._by_depth), None)
        if path is None or place is None or path == place or place == self.here:
            return address
        inner = path.relative_to(place)
        new, is_left = self.here / inner, os.path.lexists(path)
        has_moved_along = inner.parts[:1] == (ARTIFACTS,) or os.path.lexists(self.here / inner.parts[0])
        if os.path.lexists(new) or (has_moved_along and not is_left):
            return new.as_uri() if address.startswith("file:") else str(new)
        if is_left:
            self.left.add(address)
        return address


def _former_places(connection: sqlite3.Connection, here: Path) -> set[Path]:
    """Return the folders other than `here` that the database was in when the experiments of studies were made."""
    if "artifact_location" not in _columns(connection, "experiments"):
        return set()  # not a database of MLflow; MLflow says so
    found = set()
    for name, address in connection.execute("SELECT name, artifact_location FROM experiments"):
        path = _path_of(address or "")
        if path is not None and path.name == name and path.parent.name == ARTIFACTS:
            found.add(path.parent.parent)
    return {place for place in found if not _is_same(place, here)}


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same folder, by whatever links."""
    return one == other or (one.exists() and one.samefile(other))


def _path_of(address: str) -> Path | None:
    """Return the path of a `file:` address or of a plain absolute one; None for all others."""
    text = address
    if address.startswith("file:"):
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            return None
        text = os.fsdecode(unquote_to_bytes(parts.path))
    path = Path(text)
    return path if path.is_absolute() and ".." not in path.parts and "\0" not in text else None


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def _existing(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return those of `ADDRESSES` that this version of the database has."""
    return [entry for entry in ADDRESSES if entry[1] in _columns(connection, entry[0])]


def _num_to_rewrite(connection: sqlite3.Connection, move: _Move) -> int:
    connection.create_function("moved", 1, move)
    return sum(
        connection.execute(f"SELECT count(*) FROM {table} WHERE {rows} AND {column} <> moved({column})").fetchone()[0]
        for table, column, rows in _existing(connection)
    )


def _rewrite(connection: sqlite3.Connection, move: _Move) -> int:
    connection.create_function("moved", 1, move)
    return sum(
        connection.execute(
            f"UPDATE {table} SET {column} = moved({column}) WHERE {rows} AND {column} <> moved({column})"
        ).rowcount
        for table, column, rows in _existing(connection)
    )


def _copy(database: Path, former: Iterable[Path]) -> Path:
    """Copy the database beside itself, once for each former place, so that moves to and fro do not fill the disk."""
    place = hashlib.sha256("\n".join(map(str, former)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    copy = database.with_name(f"{database.name}.before-move-{place}")
    unfinished = copy.with_name(f"{copy.name}.part")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(unfinished)) as target:
        source.backup(target)
    shutil.copymode(database, unfinished)
    unfinished.replace(copy)
    return copy

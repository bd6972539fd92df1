"""Ways to open a ledger: for the one driver of a study, as a copy for readers, to leave a request, to delete it."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from hidfd.addresses import SQLITE, path_at
from hidfd.config.storage import redacted
from tune.errors import LedgerError
from tune.ledger.ledger import IDENTITY, IDENTITY_KEYS, REQUEST, RUN_ARGUMENTS, SETTINGS, Ledger, is_own, own_trials
from tune.ledger.mirrored_storage import MirroredStorage, storage_errors
from tune.ledger.rows import id_of, mapping_of, reading_row
from tune.ledger.sqlite import SqliteFile

if TYPE_CHECKING:
    from tune.ledger.postgres import PostgresDatabase

FORGOTTEN = "forgotten"
"""Name of the study attribute of a ledger whose study is being deleted."""


def database_at(address: str) -> SqliteFile | PostgresDatabase:
    """Return the database at a `storage.ledger`: a path, `sqlite:///path` or `postgresql://...`.

    Raises:
        LedgerError: it is the address of another kind of database, a folder, or no address.
    """
    scheme, is_address, _ = address.partition("://")
    if not is_address or address.startswith(SQLITE):
        path = path_at(address)
        if path.is_dir():
            raise LedgerError(
                f"storage.ledger: {path} is a folder; give the path of a file, such as {path / 'ledger.db'}"
            )
        return SqliteFile(path)
    from tune.ledger.postgres import ADDRESS_FORM, PostgresDatabase  # only here: a file needs no psycopg

    if scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return PostgresDatabase(address)
    raise LedgerError(
        f"storage.ledger: {redacted(address)}: {scheme} is not supported; give the path of an SQLite file, or a "
        f"PostgreSQL database: {ADDRESS_FORM}"
    )


@contextmanager
def open_ledger(
    address: str,
    name: str,
    objective: str,
    should_stop: Callable[[], str | None] = lambda: None,
    further: Iterable[str] = (),
    check: Callable[[Ledger], int] = lambda _: 0,
) -> Iterator[Ledger]:
    """Open the ledger of a study for reading and writing, and lock the study for as long as the block lasts.

    Args:
        address: see `database_at`.
        name: of the study.
        objective: metric of a student that Optuna is told.
        should_stop: called while the ledger's database does not answer; a reason ends the wait with `Stopped`.
        further: more objectives that Optuna is told.
        check: called with the ledger before it is claimed, so that an error leaves it as it is; returns `above` of
            `Ledger.claim`.

    Raises:
        StudyLocked: another driver runs the study.
        LedgerError: it cannot be opened, or its study was not forgotten to the end.
    """
    database = database_at(address)
    with database.lock(name) as lock, database.open() as storage:
        _refuse_half_forgotten(storage, name)
        ledger = Ledger(MirroredStorage(storage, lock, should_stop), name, objective, further)
        ledger.claim(above=check(ledger))
        yield ledger


def copy_ledger(
    address: str, name: str, objective: str, further: Iterable[str] = (), *, half_forgotten: bool = False
) -> Ledger:
    """Copy the ledger of a study into memory, as it is now, whoever writes it; the copy is empty if there is none yet.

    A reader draws the same conclusions from the copy as the driver would, and leaves no trace.

    Args:
        address: see `database_at`.
        name, objective, further: see `open_ledger`.
        half_forgotten: whether a study may be copied that was not forgotten to the end.

    Raises:
        LedgerError: it cannot be read, or its study was not forgotten to the end.
    """
    database = database_at(address)
    copy = InMemoryStorage()
    if database.has_ledger():
        with database.open() as storage, storage_errors():
            if not half_forgotten:
                _refuse_half_forgotten(storage, name)
            with reading_row("trials"):
                copy = _copy_of(storage, name)
    ledger = Ledger(copy, name, objective, further)
    ledger.claim()
    return ledger


def _copy_of(storage: BaseStorage, name: str) -> InMemoryStorage:
    """Copy the search trials first, then the tasks of these: the driver may write more meanwhile."""
    copy, tasks = InMemoryStorage(), f"{name}/work"
    known = {study.study_name for study in storage.get_all_studies()}
    num_search_trials = 0
    if name in known:
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=copy)
        num_search_trials = len(own_trials(optuna.load_study(study_name=name, storage=copy)))
    if tasks in known:
        found = optuna.load_study(study_name=tasks, storage=storage)
        copied = optuna.create_study(study_name=tasks, storage=copy, direction="maximize")
        for key, value in found.user_attrs.items():
            copied.set_user_attr(key, value)
        trials = found.get_trials(deepcopy=False)
        copied.add_trials(itertools.takewhile(lambda trial: _trial_of(trial) < num_search_trials, trials))
    return copy


def _trial_of(task: FrozenTrial) -> int:
    """Return the number of the search trial that a task was made for; -1 for a task of the comparison at the end.

    It is -1, too, for a trial that is no task because somebody else added it.
    """
    number = task.user_attrs["work"].get("trial") if is_own(task) else None
    return number if isinstance(number, int) else -1


def run_arguments_of(address: str, name: str) -> dict[str, Any] | None:
    """Return the arguments of a study's last run, as `Ledger.set_run_arguments` wrote them; None if none are known.

    Args:
        address: see `database_at`.
        name: of the study.
    """
    arguments = _attribute(address, name, RUN_ARGUMENTS)
    is_whole = isinstance(arguments, dict) and isinstance(arguments.get("overrides"), list)
    return arguments if is_whole and "seeds" in arguments else None


def has_study(address: str, name: str) -> bool:
    """Whether there is a ledger that has a study.

    Raises:
        LedgerError: it cannot be read.
    """
    with _existing(address) as (_, known):
        return f"{name}/work" in known or name in known


def recorded_settings(address: str, name: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return a study's identity and all settings of its last run; each None where the ledger does not have it.

    Args:
        address: see `database_at`.
        name: of the study.
    """
    with _existing(address) as (_, known):
        kept_by = known.get(name) or known.get(f"{name}/work")  # the second where it is being forgotten
        attributes = {} if kept_by is None else kept_by.user_attrs
        return mapping_of(attributes, IDENTITY, IDENTITY_KEYS), mapping_of(attributes, SETTINGS, ())


def ledger_id_of(address: str, name: str) -> str | None:
    """Return the id of a study's ledger; None if there is no ledger, or an older version made it."""
    known = _attribute(address, f"{name}/work", "id")
    return None if known is None else id_of({"id": known})


def _attribute(address: str, study: str, attribute: str) -> Any:
    """Return an attribute of one of the Optuna studies in a ledger; None where there is none."""
    with _existing(address) as (_, known):
        return known[study].user_attrs.get(attribute) if study in known else None


@contextmanager
def _existing(address: str) -> Iterator[tuple[BaseStorage, dict[str, FrozenStudy]]]:
    """Open a ledger with its Optuna studies by name; an empty one in memory where there is none, so that none is made.

    Raises:
        LedgerError: it cannot be read or written.
    """
    database = database_at(address)
    if not database.has_ledger():
        yield InMemoryStorage(), {}
        return
    with database.open() as storage, storage_errors():
        yield storage, _studies_in(storage)


def _studies_in(storage: BaseStorage) -> dict[str, FrozenStudy]:
    return {study.study_name: study for study in storage.get_all_studies()}


def holder_of(address: str, name: str) -> str | None:
    """Return which process drives the study now, in words; None if none does."""
    return database_at(address).holder(name)


def send_request(address: str, name: str, request: dict[str, Any]) -> None:
    """Leave a request for the driver of a study, which reads requests every few seconds.

    Args:
        address: see `database_at`.
        name: of the study.
        request: plain JSON.

    Raises:
        LedgerError: it cannot be written, or has no such study.
    """
    with database_at(address).open() as storage, storage_errors():
        try:
            study_id = storage.get_study_id_from_name(name)
        except KeyError:
            raise LedgerError(f"the ledger has no study {name!r}") from None
        storage.set_study_user_attr(study_id, f"{REQUEST}{secrets.token_hex(8)}", request)


def mark_forgotten(address: str, name: str) -> None:
    """Write into a ledger that its study is being forgotten, so that nobody goes on with what is left after a kill.

    Raises:
        LedgerError: it cannot be written.
    """
    with _existing(address) as (storage, known):
        if f"{name}/work" not in known:
            return
        tasks = known[f"{name}/work"]._study_id
        for key in (IDENTITY, SETTINGS):  # with these the same command opens the study again
            if name in known and key in known[name].user_attrs:
                storage.set_study_user_attr(tasks, key, known[name].user_attrs[key])
        storage.set_study_user_attr(tasks, FORGOTTEN, True)


def _refuse_half_forgotten(storage: BaseStorage, name: str) -> None:
    with storage_errors():
        known = _studies_in(storage)
    tasks = known.get(f"{name}/work")
    if tasks is not None and (tasks.user_attrs.get(FORGOTTEN) or name not in known):
        raise LedgerError(
            f"study {name!r}: `forget` was ended before it had deleted everything; end it with "
            f"`python -m tune forget FILE --yes`, after which the study can begin anew"
        )


def drop_ledger(address: str, name: str) -> None:
    """Delete all that a ledger has of a study, its tasks last; the caller must have locked the study.

    Raises:
        LedgerError: it cannot be written.
    """
    with _existing(address) as (storage, known):
        for part in (name, f"{name}/work"):
            if part in known:
                storage.delete_study(known[part]._study_id)

"""The storage of a ledger's one writer: a mirror of the database in memory, so that no trial is ever read back.

Every write goes into the database first. While the database does not answer the writer waits here, so nothing is
decided, started or reported meanwhile. When it answers again, the last write is looked for before it is repeated: its
commit may have gone through although no answer came.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import column, table

from hidfd.errors import Stopped
from hidfd.formatting import duration
from tune.errors import ConnectionLost, LedgerError, LedgerGone, StudyLocked
from tune.ledger.rows import reading_row

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Bounds of the pause between two tries to reach a database that does not answer; each pause is twice the last one."""

POLL_SECONDS = 0.25
"""Interval at which a pausing driver checks whether it shall stop."""

GONE_ADVICE = (
    "Nothing more was written, and finished artifacts are in the store. Bring back what was deleted, and the same "
    "command goes on; or add --adopt to it, which begins the study anew and builds nothing again that the store has"
)

T = TypeVar("T")

_attributes = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
"""Optuna's own table, read directly so that the fence is checked in the transaction of the write that it guards."""

_log = logging.getLogger(__name__)


class LedgerLock(Protocol):
    """A driver's lock on a study, which only one process has."""

    def check(self) -> None:
        """Check that the lock is still held; called before every write, so it costs next to nothing.

        Raises:
            ConnectionLost: it may be lost.
        """

    def renew(self) -> None:
        """Take the lock again after an outage.

        Raises:
            ConnectionLost: the database still does not answer.
            StudyLocked: another driver has the lock now.
        """


class MirroredStorage(InMemoryStorage):
    """Optuna's storage for the one writer of a ledger.

    Attributes of studies are read from the database, since `tune stop` writes there too; all else is read from memory.
    """

    def __init__(
        self, database: RDBStorage, lock: LedgerLock, should_stop: Callable[[], str | None] = lambda: None
    ) -> None:
        """Begin with an empty mirror; `create_new_study` reads studies into it.

        Args:
            database: keeps the ledger; it raises its errors as `LedgerError`, see `open_storage`.
            lock: of the study, held already.
            should_stop: called while the database does not answer; a reason ends the wait.
        """
        super().__init__()
        self._database, self._study_lock, self._should_stop = database, lock, should_stop
        self._study_ids: dict[int, int] = {}  # id in the mirror -> id in the database
        self._trial_ids: dict[int, int] = {}
        self._fence: tuple[int, str, int] | None = None
        self._is_writing = False
        sqlalchemy.event.listen(database.scoped_session, "after_begin", self._before_write)

    def fence(self, study_id: int, key: str, value: int) -> None:
        """Write from now on only as long as this attribute of a study has this value.

        The attribute is read, and kept from changing, in the transaction of each write: a driver that was suspended
        while another one claimed the ledger cannot write one last time.
        """
        self._fence = self._study_ids[study_id], key, value

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Read the study of this name from the database into the mirror; make it if it is not there."""
        assert study_name is not None

        def create_or_find() -> int:
            try:
                return self._database.create_new_study(directions, study_name)
            except DuplicatedStudyError:
                return self._database.get_study_id_from_name(study_name)

        database_id = self._write(create_or_find)

        def read_trials() -> list[FrozenTrial]:
            with reading_row("trials"):
                return self._database.get_all_trials(database_id, deepcopy=False)

        trials = self._retry(read_trials)
        known_directions = self._retry(lambda: self._database.get_study_directions(database_id))
        study_id = super().create_new_study(known_directions, study_name)
        self._study_ids[study_id] = database_id
        for trial in trials:
            self._trial_ids[super().create_new_trial(study_id, trial)] = trial._trial_id
        return study_id

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the attributes of a study from the database."""
        return self._retry(lambda: self._database.get_study_user_attrs(self._study_ids[study_id]))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study, in the database only."""
        self._write(lambda: self._database.set_study_user_attr(self._study_ids[study_id], key, value))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial, which must be given as a template so that it is written whole."""
        assert template_trial is not None
        template_trial.user_attrs = _plain(template_trial.user_attrs)
        database_study_id = self._study_ids[study_id]

        def find() -> int | None:
            known = set(self._trial_ids.values())
            for trial in self._database.get_all_trials(database_study_id, deepcopy=False):
                if trial._trial_id in known or not template_trial.user_attrs.keys() <= trial.user_attrs.keys():
                    continue  # the second kind was added from outside, by `enqueue_trial` say
                if (trial.params, trial.user_attrs) != (template_trial.params, template_trial.user_attrs):
                    raise StudyLocked(
                        f"another driver has written into this study (its entry {trial.number}); this one stops here"
                    )
                return trial._trial_id
            return None

        database_id = self._write(lambda: self._database.create_new_trial(database_study_id, template_trial), find)
        trial_id = super().create_new_trial(study_id, template_trial)
        self._trial_ids[trial_id] = database_id
        return trial_id

    def count_in_database(self, study_id: int) -> int:
        """Return how many trials the database has of a study, with those that others have added since it was read."""
        return self._retry(lambda: self._database.get_n_trials(self._study_ids[study_id]))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        self._write(lambda: self._database.set_trial_user_attr(self._trial_ids[trial_id], key, value))
        super().set_trial_user_attr(trial_id, key, _plain(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that belongs to Optuna."""
        self._write(lambda: self._database.set_trial_system_attr(self._trial_ids[trial_id], key, value))
        super().set_trial_system_attr(trial_id, key, _plain(value))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value of a trial at a step."""
        database_id = self._trial_ids[trial_id]
        self._write(lambda: self._database.set_trial_intermediate_value(database_id, step, intermediate_value))
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state and the values of a trial."""
        database_id = self._trial_ids[trial_id]
        self._write(
            lambda: self._database.set_trial_state_values(database_id, state, values),
            lambda: True if self._database.get_trial(database_id).state == state else None,
        )
        return super().set_trial_state_values(trial_id, state, values)

    def _write(self, write: Callable[[], T], find: Callable[[], T | None] = lambda: None) -> T:
        """Make a write; every write goes through here.

        Args:
            write: makes one transaction.
            find: returns the result of an earlier try that went through; None if none did, or if writing the same again
                does no harm.
        """
        tried = False

        def write_once() -> T:
            nonlocal tried
            earlier = find() if tried else None
            if earlier is not None:
                return earlier
            tried = self._is_writing = True
            try:
                return write()
            finally:
                self._is_writing = False

        return self._retry(write_once)

    def _retry(self, action: Callable[[], T]) -> T:
        """Return the action's result, after as many tries as it takes until the database answers."""
        while True:
            try:
                with storage_errors():
                    self._study_lock.check()
                    return action()
            except ConnectionLost as error:
                self._wait(error)
            except KeyError as error:  # Optuna's way to say that a row is not there
                raise _deleted() from error

    def _wait(self, lost: ConnectionLost) -> None:
        """Wait until the database answers, and check that no other driver has claimed the study meanwhile."""
        _log.warning("paused: %s; the study goes on by itself when the ledger is back", lost)
        began, pause, message = time.monotonic(), FIRST_PAUSE_SECONDS, ""
        while True:
            self._sleep(pause)
            try:
                with storage_errors():
                    self._database.engine.dispose()
                    self._study_lock.renew()
                    with self._database.engine.connect() as connection:
                        self._check_fence(connection)
                break
            except StudyLocked:
                raise
            except LedgerGone as error:
                raise LedgerGone(f"{error}. It was there when this study began. {GONE_ADVICE}") from error
            except LedgerError as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if not isinstance(error, ConnectionLost) and str(error) != message:
                    message = str(error)
                    _log.warning("still paused: %s", message)
        _log.warning("the ledger is back after %s; the study goes on", duration(time.monotonic() - began))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            reason = self._should_stop()
            if reason is not None:
                raise Stopped(
                    f"stopped by {reason} while the ledger was away: all that was written before is kept, and what was "
                    f"built since is found in the store"
                )
            time.sleep(min(left, POLL_SECONDS))

    def _before_write(self, _session: object, _transaction: object, connection: sqlalchemy.Connection) -> None:
        if self._is_writing:
            self._check_fence(connection)

    def _check_fence(self, connection: sqlalchemy.Connection) -> None:
        if self._fence is None:
            return
        study_id, key, value = self._fence
        where = (_attributes.c.study_id == study_id) & (_attributes.c.key == key)
        found = connection.execute(
            sqlalchemy.select(_attributes.c.value_json).where(where).with_for_update(read=True)
        ).scalar()
        if found is None:
            raise _deleted()
        if json.loads(found) != value:
            raise StudyLocked(
                f"another driver has taken this study over ({key} {found}, ours was {value}); this one stops here"
            )


def _deleted() -> LedgerGone:
    return LedgerGone(f"the study, or a part of it, was deleted from the ledger while it ran. {GONE_ADVICE}")


@contextmanager
def open_storage(storage: RDBStorage, error_of: Callable[[Exception, bool], LedgerError]) -> Iterator[RDBStorage]:
    """Yield Optuna's storage, with the errors of its database translated, and close it at the end.

    Optuna tries a lost commit five times more, and so might write a trial twice, but not after an error that it does
    not know.

    Args:
        storage: of Optuna.
        error_of: translates the database's error; the flag says whether the connection had been made before.
    """

    def handle(context: sqlalchemy.engine.ExceptionContext) -> None:
        error, database = context.original_exception, storage.engine.dialect.loaded_dbapi
        if isinstance(error, database.Error) and not isinstance(error, database.IntegrityError):  # which Optuna expects
            raise error_of(error, context.connection is not None)

    sqlalchemy.event.listen(storage.engine, "handle_error", handle)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise the errors of Optuna and SQLAlchemy in the block as `LedgerError`."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise LedgerError(
            f"the ledger cannot be read or written: {str(error.__cause__ or error).splitlines()[0]}"
        ) from error
    except json.JSONDecodeError as error:  # Optuna keeps attributes and distributions as JSON
        raise LedgerError(
            f"the ledger is damaged: one of its entries is no JSON ({error}); restore it from a copy, or move it away: "
            f"finished artifacts stay in the store, and the study is rebuilt from them"
        ) from error


def _plain(value: Any) -> Any:
    """Return a value as the database gives it back."""
    return json.loads(json.dumps(value))

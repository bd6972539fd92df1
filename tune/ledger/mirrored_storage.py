"""The ledger's trials in memory, with every write in its database first: one writer need not read what it wrote.

While the database is away the writer waits here: nothing is decided, started or told meanwhile. When it is back, what
was being written is looked for before it is written again, as its commit may have gone through unheard.
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
from tune.errors import ConnectionLost, LedgerError, StudyLocked

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Between two tries to reach a database that is away: twice as long each time."""

POLL_SECONDS = 0.25
"""How often a pausing driver asks whether it shall stop."""

T = TypeVar("T")

_attributes = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
"""Optuna's own table. Read directly, so that the fence stands in the same transaction as the write behind it."""

_log = logging.getLogger(__name__)


class LedgerLock(Protocol):
    """A driver's claim on a study, which only one process has."""

    def check(self) -> None:
        """Raises ConnectionLost where it is gone; asked before every write, so it costs next to nothing."""

    def renew(self) -> None:
        """Takes it again after an outage.

        Raises:
            ConnectionLost: the database is still away.
            LedgerHeld: another driver has it now.
        """


class MirroredStorage(InMemoryStorage):
    """Optuna's storage for the ledger's one writer.

    Attributes of studies are read from the database, since `stop` writes there too; everything else from memory.
    """

    def __init__(
        self, database: RDBStorage, lock: LedgerLock, should_stop: Callable[[], str | None] = lambda: None
    ) -> None:
        """Empty, until studies are opened by `create_new_study`.

        Args:
            database: where everything is kept; its errors arrive as `LedgerError`, see `translate_errors`.
            lock: taken already.
            should_stop: asked while the database is away; a reason ends the wait.
        """
        super().__init__()
        self._database, self._study_lock, self._should_stop = database, lock, should_stop
        self._study_ids: dict[int, int] = {}  # the mirror's -> the database's
        self._trial_ids: dict[int, int] = {}
        self._fence: tuple[int, str, int] | None = None
        self._is_writing = False
        sqlalchemy.event.listen(database.scoped_session, "after_begin", self._before_write)

    def fence(self, study_id: int, key: str, value: int) -> None:
        """From now on nothing is written unless this attribute of a study still has this value.

        It is read, and kept from changing, in the transaction of each write: a driver that slept through its own
        replacement cannot write one last time.
        """
        self._fence = self._study_ids[study_id], key, value

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Takes in the study of that name as the database has it, made if it is not there."""
        assert study_name is not None

        def made_or_found() -> int:
            try:
                return self._database.create_new_study(directions, study_name)
            except DuplicatedStudyError:
                return self._database.get_study_id_from_name(study_name)

        below = self._write(made_or_found)
        trials = self._reach(lambda: self._database.get_all_trials(below, deepcopy=False))
        known = self._reach(lambda: self._database.get_study_directions(below))
        study_id = super().create_new_study(known, study_name)
        self._study_ids[study_id] = below
        for trial in trials:
            self._trial_ids[super().create_new_trial(study_id, trial)] = trial._trial_id
        return study_id

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """From the database."""
        return self._reach(lambda: self._database.get_study_user_attrs(self._study_ids[study_id]))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna does."""
        self._write(lambda: self._database.set_study_user_attr(self._study_ids[study_id], key, value))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna does; only from a template, which is whole."""
        assert template_trial is not None
        template_trial.user_attrs = _plain(template_trial.user_attrs)
        below, number = self._study_ids[study_id], self.get_n_trials(study_id)

        def found() -> int | None:
            try:
                trial_id = self._database.get_trial_id_from_study_id_trial_number(below, number)
            except KeyError:
                return None
            trial = self._database.get_trial(trial_id)
            if (trial.params, trial.user_attrs) != (template_trial.params, template_trial.user_attrs):
                raise StudyLocked(
                    f"another driver has written into this study (its entry {number}); this one stops here"
                )
            return trial_id

        trial_id = self._write(lambda: self._database.create_new_trial(below, template_trial), found)
        own_id = super().create_new_trial(study_id, template_trial)
        self._trial_ids[own_id] = trial_id
        return own_id

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna does."""
        self._write(lambda: self._database.set_trial_user_attr(self._trial_ids[trial_id], key, value))
        super().set_trial_user_attr(trial_id, key, _plain(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna does."""
        self._write(lambda: self._database.set_trial_system_attr(self._trial_ids[trial_id], key, value))
        super().set_trial_system_attr(trial_id, key, _plain(value))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As Optuna does."""
        below = self._trial_ids[trial_id]
        self._write(lambda: self._database.set_trial_intermediate_value(below, step, intermediate_value))
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna does."""
        below = self._trial_ids[trial_id]
        self._write(
            lambda: self._database.set_trial_state_values(below, state, values),
            lambda: True if self._database.get_trial(below).state == state else None,
        )
        return super().set_trial_state_values(trial_id, state, values)

    def _write(self, write: Callable[[], T], found: Callable[[], T | None] = lambda: None) -> T:
        """The one door of every write.

        Args:
            write: one transaction.
            found: what it returned, where the database shows that it went through; None where it did not, or where
                writing the same again does no harm.
        """
        tried = False

        def once() -> T:
            nonlocal tried
            stands = found() if tried else None
            if stands is not None:
                return stands
            tried = self._is_writing = True
            try:
                return write()
            finally:
                self._is_writing = False

        return self._reach(once)

    def _reach(self, action: Callable[[], T]) -> T:
        """The action's result, however long the database is away."""
        while True:
            try:
                with storage_errors():
                    self._study_lock.check()
                    return action()
            except ConnectionLost as error:
                self._wait(error)

    def _wait(self, lost: ConnectionLost) -> None:
        """Until the database answers, and the study is still this driver's."""
        _log.warning("paused: %s; the study goes on by itself when the ledger is back", lost)
        began, pause, said = time.monotonic(), FIRST_PAUSE_SECONDS, ""
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
            except LedgerError as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if not isinstance(error, ConnectionLost) and str(error) != said:
                    said = str(error)
                    _log.warning("still paused: %s", said)
        _log.warning("the ledger is back after %s; the study goes on", duration(time.monotonic() - began))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            reason = self._should_stop()
            if reason is not None:
                raise Stopped(
                    f"stopped by {reason} while the ledger was away: what it had heard stands, and whatever was built "
                    f"since is found in the store"
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
            raise LedgerError("the study was deleted from the ledger while it ran; the same command begins it anew")
        if json.loads(found) != value:
            raise StudyLocked(
                f"another driver has taken this study over ({key} {found}, ours was {value}); this one stops here"
            )


def translate_errors(storage: RDBStorage, error_of: Callable[[Exception, bool], LedgerError]) -> None:
    """Has everything that goes wrong with a database raised as an error of the ledger.

    Optuna would try a lost commit five times more, and so might write a trial twice; that it leaves to others' errors.

    Args:
        storage: Optuna's.
        error_of: the database's error, and whether it came over a connection that had been made.
    """

    def handle(context: sqlalchemy.engine.ExceptionContext) -> None:
        error, database = context.original_exception, storage.engine.dialect.loaded_dbapi
        if isinstance(error, database.Error) and not isinstance(error, database.IntegrityError):  # which Optuna expects
            raise error_of(error, context.connection is not None)

    sqlalchemy.event.listen(storage.engine, "handle_error", handle)


@contextmanager
def storage_errors() -> Iterator[None]:
    """What Optuna and SQLAlchemy raise of their own, as an error of the ledger."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise LedgerError(
            f"the ledger cannot be read or written: {str(error.__cause__ or error).splitlines()[0]}"
        ) from error


@contextmanager
def closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    """The storage for as long as the block lasts."""
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _plain(value: Any) -> Any:
    """As the database gives it back."""
    return json.loads(json.dumps(value))

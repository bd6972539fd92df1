from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial

from hidfd.errors import Stopped
from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.errors import ConnectionLost, LedgerError, StudyLocked
from tune.ledger import mirrored_storage as ledger_storage
from tune.ledger.ledger import IDENTITY_KEYS, Ledger
from tune.ledger.mirrored_storage import MirroredStorage
from tune.ledger.opening import open_ledger
from tune.ledger.sqlite import SqliteFile
from tune.planner.planner import Planner
from tune.planner.state import StudyState


class ShakyLock:
    """A lock that is lost on demand, and is taken again after some tries."""

    def __init__(self) -> None:
        self.lost = 0
        self.taken_over = False

    def check(self) -> None:
        if self.lost:
            raise ConnectionLost("the server is away")

    def renew(self) -> None:
        self.lost -= 1
        if self.taken_over:
            raise StudyLocked.by("process 7 on elsewhere since then", "s")
        self.check()


@contextmanager
def shaky(path: Path, should_stop: Callable[[], str | None] = lambda: None) -> Iterator[tuple[Ledger, ShakyLock]]:
    """A ledger in a file that behaves like a database far away."""
    lock = ShakyLock()
    with SqliteFile(path).open() as database:
        ledger = Ledger(MirroredStorage(database, lock, should_stop), "s", "agreement")
        ledger.claim()
        yield ledger, lock


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_storage, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(ledger_storage, "POLL_SECONDS", 0.001)


def contents(ledger: Ledger) -> list[dict[str, Any]]:
    """Return all that is in the ledger's trials as JSON, without their ids and times."""

    def plain(trial: FrozenTrial) -> dict[str, Any]:
        kept = {name: value for name, value in vars(trial).items() if name != "_trial_id" and "datetime" not in name}
        return dict(json.loads(json.dumps(kept, default=str)))

    return [plain(trial) for study in (ledger._search_study, ledger._tasks_study) for trial in study.get_trials()]


def test_memory_holds_what_the_database_holds(tmp_path: Path) -> None:
    world = World(collapsed=lambda task: task.label == "generator-1")
    with open_ledger(str(tmp_path / "ledger.db"), "s", "agreement") as ledger:
        run_local(Planner(StudyState(definition(), ledger), lambda: 100.0), world.execute)
        remembered = contents(ledger)
    with open_ledger(str(tmp_path / "ledger.db"), "s", "agreement") as ledger:
        assert contents(ledger) == remembered


def test_write_costs_few_statements_and_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()
    write = Ledger._write

    def counting(ledger: Ledger, action: Callable[[], object]) -> None:
        counted["writes"] += 1
        write(ledger, action)

    monkeypatch.setattr(Ledger, "_write", counting)
    study = definition({"num_students": 10, "sampler": "random"})
    with shaky(tmp_path / "ledger.db") as (ledger, _):
        engine = ledger._storage._database.engine  # type: ignore[attr-defined]  # what it was opened with
        sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *_: counted.update(["statements"]))
        sqlalchemy.event.listen(engine, "begin", lambda *_: counted.update(["transactions"]))
        run_local(Planner(StudyState(study, ledger), lambda: 100.0), World().execute)
    assert counted["transactions"] <= counted["writes"] + 3, counted  # reads at its start: identity, test evaluations
    assert counted["statements"] <= 6 * counted["writes"], counted


def test_driver_pauses_while_the_ledger_is_away_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, study = World(), definition()
    planner = World().planner(study)
    run_local(planner, World().execute)
    with shaky(tmp_path / "ledger.db") as (ledger, lock):

        def lose(task: Any, step: int) -> bool:
            lock.lost = 3 if step == 2 else lock.lost
            return False

        world.lose = lose
        run_local(Planner(StudyState(study, ledger), lambda: 0.0), world.execute)
        assert contents(ledger) == contents(planner.state.ledger)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert set(said[::2]) == {
        "paused: the server is away; the study goes on by itself when the ledger is back",
    }
    assert all(line.startswith("the ledger is back after 0.") for line in said[1::2])


def test_pausing_driver_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    asked = iter([None, None, "SIGTERM"])
    with shaky(tmp_path / "ledger.db", lambda: next(asked)) as (ledger, lock):
        lock.lost = 1000
        with pytest.raises(Stopped, match="stopped by SIGTERM while the ledger was away"):
            ledger.set_identity({})


def test_driver_whose_study_was_taken_meanwhile_stops(tmp_path: Path) -> None:
    with shaky(tmp_path / "ledger.db") as (ledger, lock):
        lock.lost, lock.taken_over = 2, True
        with pytest.raises(StudyLocked, match=r"run by process 7 on elsewhere since then"):
            ledger.set_identity({})


def test_driver_that_slept_through_its_replacement_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with shaky(path) as (older, _), shaky(path) as (newer, _):
        settings = {key: {"whose": "the newer's"} for key in IDENTITY_KEYS}
        newer.set_identity(settings)
        with pytest.raises(StudyLocked, match="another driver has taken this study over"):
            older.set_identity({"whose": "the older's"})
        assert newer.identity == settings


def test_study_that_was_deleted_under_its_driver_is_one_clear_error(tmp_path: Path) -> None:
    with shaky(tmp_path / "ledger.db") as (ledger, _), SqliteFile(tmp_path / "ledger.db").open() as other:
        for study in other.get_all_studies():
            other.delete_study(study._study_id)
        with pytest.raises(LedgerError, match="deleted from the ledger while it ran"):
            ledger.set_identity({})

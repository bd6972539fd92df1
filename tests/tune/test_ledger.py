from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from tests.tune.world import World, definition
from tune.errors import LedgerError, LedgerHeld
from tune.ledger import Ledger, copy_ledger, holder_of, open_ledger
from tune.local import run_local
from tune.planner import Planner
from tune.snapshot import WorkState
from tune.state import StudyState


def _hold(place: str, ready: multiprocessing.synchronize.Event, leave: multiprocessing.synchronize.Event) -> None:
    with open_ledger(place, "s", "agreement"):
        ready.set()
        leave.wait(30)


def test_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.db")
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(place, ready, leave))
    holder.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(LedgerHeld, match=rf"process {holder.pid} on .* since .*tune status"),
            open_ledger(place, "s", "agreement"),
        ):
            pass
        assert copy_ledger(place, "s", "agreement").works() == []  # looking on is always possible
        assert f"process {holder.pid} on " in (holder_of(place, "s") or "")
    finally:
        leave.set()
        holder.join(30)
    assert holder_of(place, "s") is None
    with open_ledger(place, "s", "agreement"):
        pass


def test_driver_that_was_replaced_cannot_write(tmp_path: Path) -> None:
    world = World()
    planner = world.planner(definition())
    newer = Ledger(world.storage, "s", "agreement")
    newer.take()
    with pytest.raises(LedgerHeld, match="taken this study over"):
        run_local(planner, world.execute)


def test_study_in_a_file_survives_its_process(tmp_path: Path) -> None:
    place, world, study = str(tmp_path / "ledger.db"), World(), definition()
    with open_ledger(place, "s", "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), lambda: 100.0)
        run_local(planner, world.execute)
        before = planner.state
    with open_ledger(place, "s", "agreement") as ledger:
        again = StudyState(study, ledger)
    assert again.is_over()
    assert again.suggestions == before.suggestions
    assert again.works == before.works


def test_optuna_is_told_the_truth(tmp_path: Path) -> None:
    world = World(collapsed=lambda work: work.label == "generator-1")
    planner = world.planner(definition())
    run_local(planner, world.execute)
    states = {s.number: s.state for s in planner.state.suggestions}
    for trial in planner.state.ledger.history():
        match states[trial.number]:
            case WorkState.COMPLETE:
                assert (trial.state.name, trial.value) == ("COMPLETE", planner.state.suggestions[trial.number].value)
            case WorkState.PRUNED:
                assert trial.state.name == "PRUNED"
                assert trial.last_step == 3200
            case WorkState.COLLAPSED:
                assert (trial.state.name, trial.value, trial.constraints["feasible"]) == ("PRUNED", None, 1.0)


def test_ledger_writes_ahead(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "ledger.db"
    with open_ledger(f"sqlite:///{place}", "s", "agreement"):
        pass
    connection = sqlite3.connect(place)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    place = tmp_path / "ledger.db"
    place.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(LedgerError, match="not a ledger that can be opened"), open_ledger(str(place), "s", "agreement"):
        pass


def test_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LedgerError, match="cannot be written"),
        open_ledger(str(tmp_path / "file" / "ledger.db"), "s", "agreement"),
    ):
        pass


def test_other_databases_are_refused() -> None:
    with (
        pytest.raises(LedgerError, match="postgresql is not supported yet"),
        open_ledger("postgresql://somewhere/db", "s", "agreement"),
    ):
        pass


def test_ledger_of_a_newer_version_is_refused() -> None:
    world = World()
    ledger = Ledger(world.storage, "s", "agreement")
    ledger.take()
    ledger._work.set_user_attr("schema", 99)
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(world.storage, "s", "agreement")


def test_study_that_never_ran_has_no_ledger(tmp_path: Path) -> None:
    assert copy_ledger(str(tmp_path / "ledger.db"), "s", "agreement").suggestions() == []
    assert not (tmp_path / "ledger.db").exists()

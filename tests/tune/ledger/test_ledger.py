from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.tune.world import Silent, World, definition
from tune.engines.local import run_local
from tune.errors import LedgerError, StudyLocked
from tune.ledger.ledger import Ledger
from tune.ledger.opening import copy_ledger, holder_of, open_ledger
from tune.ledger.sqlite import SqliteFile
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.states import TaskState
from tune.study.task import Task


def _hold(address: str, ready: multiprocessing.synchronize.Event, leave: multiprocessing.synchronize.Event) -> None:
    with open_ledger(address, "s", "agreement"):
        ready.set()
        leave.wait(30)


@pytest.mark.parametrize("name", ["which #1?", "my%20study", "x{y} & z", os.fsdecode(b"b\xffd")])
def test_ledger_lies_in_its_folder_whatever_the_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with open_ledger(str(folder / "ledger.db"), "s", "agreement"):
        pass
    assert holder_of(str(folder / "ledger.db"), "s") is None
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "ledger.db").stat().st_size > 0


def test_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    address = str(tmp_path / "ledger.db")
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(address, ready, leave))
    holder.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(StudyLocked, match=rf"process {holder.pid} on .* since "),
            open_ledger(address, "s", "agreement"),
        ):
            pass
        assert copy_ledger(address, "s", "agreement").tasks() == []  # reading is always possible
        assert f"process {holder.pid} on " in (holder_of(address, "s") or "")
    finally:
        leave.set()
        holder.join(30)
    assert holder_of(address, "s") is None
    with open_ledger(address, "s", "agreement"):
        pass


def test_driver_that_was_replaced_cannot_write(tmp_path: Path) -> None:
    world = World()
    planner = world.planner(definition())
    newer = Ledger(world.storage, "s", "agreement")
    newer.claim()
    with pytest.raises(StudyLocked, match="taken this study over"):
        run_local(planner, world.execute)


def test_study_in_a_file_survives_its_process(tmp_path: Path) -> None:
    address, world, study = str(tmp_path / "ledger.db"), World(), definition()
    with open_ledger(address, "s", "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), lambda: 100.0)
        run_local(planner, world.execute)
        before = planner.state
    with open_ledger(address, "s", "agreement") as ledger:
        again = StudyState(study, ledger)
    assert again.is_over()
    assert again.search_trials == before.search_trials
    assert again.tasks == before.tasks


def test_optuna_is_told_the_truth(tmp_path: Path) -> None:
    world = World(collapsed=lambda task: task.label == "generator-1")
    planner = world.planner(definition())
    run_local(planner, world.execute)
    states = {s.number: s.state for s in planner.state.search_trials}
    for trial in planner.state.ledger.history():
        match states[trial.number]:
            case TaskState.COMPLETE:
                assert (trial.state.name, trial.value) == ("COMPLETE", planner.state.search_trials[trial.number].value)
            case TaskState.PRUNED:
                assert trial.state.name == "PRUNED"
                assert trial.last_step == 3200
            case TaskState.COLLAPSED:
                assert (trial.state.name, trial.value, trial.constraints["feasible"]) == ("PRUNED", None, 1.0)


def test_file_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    together, refused = threading.Barrier(4), []

    def look() -> None:
        together.wait()
        try:
            with SqliteFile(tmp_path / "ledger.db").open() as storage:
                storage.get_all_studies()
        except LedgerError as error:
            refused.append(str(error))

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert refused == []


def test_ledger_writes_ahead(tmp_path: Path) -> None:
    address = tmp_path / "deep" / "ledger.db"
    with open_ledger(f"sqlite:///{address}", "s", "agreement"):
        pass
    connection = sqlite3.connect(address)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_optuna_is_not_told_agreement_for_another_objective() -> None:
    world = World()
    planner = world.planner(definition({"objective": "validation_accuracy"}))
    run_local(planner, world.execute)
    pruned = [trial for trial in planner.state.ledger.history() if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.intermediate_values == {} for trial in pruned)


def test_study_can_be_looked_at_while_its_driver_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, world, study = str(tmp_path / "ledger.db"), World(), definition({"sampler": "random"})
    copy_study = optuna.copy_study
    with open_ledger(address, "s", "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), lambda: 0.0)

        def step() -> None:
            task = planner.next_task(1)
            assert isinstance(task, Task)
            planner.on_start(task, "here")
            planner.on_end(task, world.execute(task, Silent()))

        def copy_and_write(**asked: Any) -> None:
            copy_study(**asked)
            step()

        step()
        monkeypatch.setattr(optuna, "copy_study", copy_and_write)
        for _ in range(8):
            looked = StudyState(study, copy_ledger(address, "s", "agreement"), is_driven=True)
            assert all(task.trial is None or task.trial < len(looked.search_trials) for task in looked.tasks.values())


def test_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    address = tmp_path / "ledger.db"
    address.write_bytes(b"this is no database, whatever its name says" * 100)
    with (
        pytest.raises(LedgerError, match="not a ledger that can be opened"),
        open_ledger(str(address), "s", "agreement"),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("folder", "is a folder"),
        ("pipe", "not a ledger that can be opened .it is no file"),
        ("text", "not a ledger that can be opened .file is not a database"),
        ("database", "another program's database .with the tables notes"),
        ("database with a write-ahead log", "another program's database .with the tables notes"),
    ],
)
def test_what_can_be_no_ledger_is_left_as_it_is_with_nothing_beside_it(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "notes"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("database"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if "log" in kind:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE notes (text)")
    else:
        path.write_text("my notes")
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LedgerError, match=said):
        copy_ledger(str(path), "s", "agreement")
    with pytest.raises(LedgerError, match=said), open_ledger(str(path), "s", "agreement"):
        pass
    assert list(tmp_path.iterdir()) == [path]
    assert before is None or path.read_bytes() == before


def test_full_disk_is_no_damaged_ledger_that_is_to_be_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = SqliteFile._reconnect

    def without_room(self: SqliteFile) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    monkeypatch.setattr(SqliteFile, "_reconnect", without_room)
    with (
        pytest.raises(LedgerError, match="its disk is full .*make room there"),
        open_ledger(str(tmp_path / "ledger.db"), "s", "agreement"),
    ):
        pass


@pytest.fixture
def ended(tmp_path: Path) -> str:
    """Return the address of the ledger of a study of variants that has ended."""
    address, world = str(tmp_path / "ledger.db"), World()
    with open_ledger(address, "s", "agreement") as ledger:
        run_local(
            Planner(StudyState(definition({"variants": {"a": {}}}, search={}), ledger), lambda: 0.0), world.execute
        )
    return address


def drive(address: str) -> None:
    with open_ledger(address, "s", "agreement") as ledger:
        StudyState(definition({"variants": {"a": {}}}, search={}), ledger)


def read_only(address: str) -> None:
    StudyState(definition({"variants": {"a": {}}}, search={}), copy_ledger(address, "s", "agreement"))


@pytest.mark.parametrize("use", [drive, read_only])
@pytest.mark.parametrize("table", ["studies", "trials", "trial_user_attributes"])
def test_file_that_is_damaged_inside_is_one_clear_error(use: Callable[[str], None], table: str, ended: str) -> None:
    with contextlib.closing(sqlite3.connect(ended)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    content = bytearray(Path(ended).read_bytes())
    content[4096 * (page - 1) : 4096 * page] = b"\xff" * 4096
    Path(ended).write_bytes(content)
    with pytest.raises(LedgerError, match="the ledger cannot be read or written: .*malformed"):
        use(ended)


def test_file_that_another_program_holds_is_one_clear_error(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.ledger.sqlite.BUSY_SECONDS", 0.1)
    other = sqlite3.connect(ended, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=r"ledger\.db: another program has kept it .*database is locked"):
        drive(ended)
    other.close()


def test_full_disk_is_one_clear_error(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # which SQLite raises to what there is already

    monkeypatch.setattr("tune.ledger.sqlite._set_synchronous", limit)
    more = definition({"variants": {"a": {}}, "seeds": [1, 2, 3]}, search={})
    with (
        pytest.raises(LedgerError, match=r"ledger\.db: its disk is full .*what was written before is kept"),
        open_ledger(ended, "s", "agreement") as ledger,
    ):
        run_local(Planner(StudyState(more, ledger), lambda: 0.0), World().execute)


@pytest.mark.parametrize("use", [drive, read_only])
def test_record_of_other_settings_is_one_clear_error(use: Callable[[str], None], ended: str) -> None:
    with contextlib.closing(sqlite3.connect(ended)) as connection, connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.config.distillation.old_field', 1) "
            "WHERE key = 'work'"
        )
    with pytest.raises(LedgerError, match=r"'collection-0' has settings .*distillation\.old_field.*another `name:`"):
        use(ended)


def test_looking_who_drives_a_study_does_not_refuse_its_driver(ended: str) -> None:
    with Path(f"{ended}.s.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        drive(ended)


def test_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LedgerError, match="cannot be written"),
        open_ledger(str(tmp_path / "file" / "ledger.db"), "s", "agreement"),
    ):
        pass


def test_other_databases_are_refused() -> None:
    with (
        pytest.raises(LedgerError, match="mysql is not supported; give the path of an SQLite file, or a PostgreSQL"),
        open_ledger("mysql://somewhere/db", "s", "agreement"),
    ):
        pass


def test_ledger_of_a_newer_version_is_refused() -> None:
    world = World()
    ledger = Ledger(world.storage, "s", "agreement")
    ledger.claim()
    ledger._tasks_study.set_user_attr("schema", 99)
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(world.storage, "s", "agreement")


def test_study_that_never_ran_has_no_ledger(tmp_path: Path) -> None:
    assert copy_ledger(str(tmp_path / "ledger.db"), "s", "agreement").search_trials() == []
    assert not (tmp_path / "ledger.db").exists()

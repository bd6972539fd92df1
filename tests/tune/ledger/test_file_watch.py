"""A ledger that goes away under those who use it: said at the next write, nothing finished, nothing doubled."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tune.world import World, definition, summary
from tune.engines.local import run_local
from tune.errors import LedgerError
from tune.ledger import file_watch
from tune.ledger.opening import copy_ledger, open_ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.task import Task

NAME = "led ger#%41.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a ledger, beside `other.db`, which is the ledger of another study of the same name."""
    with open_ledger(str(tmp_path / "other.db"), "s", "agreement") as ledger:
        ledger.set_identity({"other": 1})
    return tmp_path / NAME


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "SETTLING_SECONDS", 0.02)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for part in path.parent.glob(f"{NAME}*"):
        part.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def replace(path: Path) -> None:
    path.with_name("other.db").replace(path)


def copy_over(path: Path) -> None:
    shutil.copyfile(path.with_name("other.db"), path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, 8192)


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 18))


def delete_log(path: Path) -> None:
    path.with_name(f"{NAME}-wal").unlink()


def delete_rows(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        for table in ("studies", "study_user_attributes", "trials", "trial_user_attributes"):
            connection.execute(f"DELETE FROM {table}")


def delete_trials(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM trials")


CHANGES: dict[Callable[[Path], None], str] = {
    delete: "was deleted",
    delete_all: "was deleted",
    move: r"was moved to .*elsewhere\.db",
    move_folder: r"was moved to .*elsewhere/led ger",
    replace: "was replaced by another file",
    copy_over: "was overwritten by another ledger",
    empty: "was truncated to 0 bytes",
    cut: "was truncated to 8,192 of",
    overwrite: "overwritten by something that is no ledger",
    delete_log: "lost its file .*-wal",
    delete_rows: "was deleted from the ledger while it ran",
    delete_trials: "was deleted from the ledger while it ran",
}


def planner_of(path: Path, world: World, change: Callable[[], None]) -> Planner:
    """Run the study until its ledger changes, in the middle of a task, and return the planner that noticed."""
    steps: list[int] = []

    def lose(task: Task, step: int) -> bool:
        steps.append(step)
        if len(steps) == 5:
            change()
        return False

    world.lose = lose
    with open_ledger(str(path), "s", "agreement") as ledger:
        planner = Planner(StudyState(definition(), ledger), lambda: 0.0)
        run_local(planner, world.execute)
        ledger.check_kept()
    return planner


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_driver_whose_ledger_changes_says_so_at_its_next_write(path: Path, change: Callable[[Path], None]) -> None:
    world = World()
    with pytest.raises(LedgerError, match=CHANGES[change]) as raised:
        planner_of(path, world, lambda: change(path))
    said = str(raised.value)
    assert "the same command goes on" in said
    assert "--adopt" in said
    assert len(world.log) <= 2, "no other task was begun"


def test_ledger_that_is_put_back_goes_on_where_it_was(path: Path) -> None:
    world, whole = World(), World()
    away = path.with_name("elsewhere.db")
    with pytest.raises(LedgerError, match="was moved"):
        planner_of(path, world, lambda: move(path))
    assert not path.exists(), "no other ledger was made in its place"
    away.rename(path)
    ended = planner_of(path, world, lambda: None)
    assert summary(ended) == summary(planner_of(path.with_name("whole.db"), whole, lambda: None))
    assert max(world.built.values()) == 1


def test_change_after_the_last_write_is_noticed_before_the_study_is_called_finished(path: Path) -> None:
    with open_ledger(str(path), "s", "agreement") as ledger:
        run_local(Planner(StudyState(definition(), ledger), lambda: 0.0), World().execute)
        ledger.check_kept()
        delete(path)
        with pytest.raises(LedgerError, match="was deleted"):
            ledger.check_kept()


def test_vacuum_and_readers_are_no_change(path: Path) -> None:
    def read() -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("VACUUM")
        connection.close()
        copy_ledger(str(path), "s", "agreement")

    planner_of(path, World(), read)


def test_reader_makes_no_ledger_in_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    assert not copy_ledger(str(path), "s", "agreement").tasks()
    assert path.stat().st_size == 0


def test_two_studies_in_one_file_are_no_change_for_each_other(tmp_path: Path) -> None:
    address = str(tmp_path / "ledger.db")
    with open_ledger(address, "a", "agreement") as first, open_ledger(address, "b", "agreement") as second:
        for number in range(3):
            first.set_identity({"number": number})
            second.set_identity({"number": number})
        first.check_kept()
        second.check_kept()

"""What stands in a ledger's rows is data from outside: it is refused in one message, and leads nowhere."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.errors import LedgerError
from tune.ledger.opening import copy_ledger, ledger_id_of, open_ledger, recorded_settings, run_arguments_of
from tune.planner.planner import Planner
from tune.planner.state import StudyState

STUDY = definition({"sampler": "random", "num_students": 2})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the ledger of a finished study called `s`."""
    path, world = tmp_path_factory.mktemp("finished") / "ledger.db", World()
    with open_ledger(str(path), "s", "agreement") as ledger:
        run_local(Planner(StudyState(STUDY, ledger), lambda: 0.0), world.execute)
    return path.read_bytes()


@pytest.fixture
def ledger(finished: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(finished)
    return path


def rewrite(ledger: Path, key: str, change: Callable[[Any], str]) -> None:
    """Rewrite the last attribute of this name, of a trial or else of a study."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        for table in ("trial_user_attributes", "study_user_attributes"):
            found = connection.execute(f"SELECT max(rowid), value_json FROM {table} WHERE key = ?", (key,)).fetchone()
            if found[0] is not None:
                content = change(json.loads(found[1]))
                connection.execute(f"UPDATE {table} SET value_json = ? WHERE rowid = ?", (content, found[0]))
                return
    raise AssertionError(key)


def with_field(name: str, value: Any) -> Callable[[Any], str]:
    return lambda record: json.dumps({**record, name: value})


def read(ledger: Path) -> None:
    StudyState(STUDY, copy_ledger(str(ledger), "s", "agreement"))


def run(ledger: Path) -> None:
    with open_ledger(str(ledger), "s", "agreement") as opened:
        StudyState(STUDY, opened)


@pytest.mark.parametrize("use", [read, run])
@pytest.mark.parametrize(
    ("key", "change"),
    [
        *(
            ("work", with_field("label", label))
            for label in ("../../elsewhere", "/elsewhere", "..", "", "a/b", "a\0b", "a\nb", "x" * 300, 7, None)
        ),
        *(("work", with_field("key", key)) for key in ("../x", "a" * 63, 7)),
        *(("work", with_field("needs", needs)) for needs in (["f" * 64], "no list", 7)),
        ("work", with_field("until", "nowhere")),
        ("work", with_field("config", {})),
        ("work", with_field("outcome", {"state": "unheard-of"})),
        ("work", with_field("outcome", {"state": "complete", "metrics": {"agreement": "high"}})),
        ("work", lambda _: "{}"),
        ("work", lambda _: "{"),
        ("attempt/0", with_field("started", "yesterday")),
        ("attempt/0", lambda _: "[]"),
        ("group", lambda _: "99"),
        ("group", lambda _: "-1"),
        ("outcome", with_field("state", "unheard-of")),
        ("outcome", lambda _: '{"state": "complete"}'),
        ("outcome", lambda _: "[1]"),
        ("identity", lambda _: "{}"),
        ("epoch", lambda _: '"x"'),
        ("schema", lambda _: '"x"'),
        ("id", lambda _: "7"),
        ("id", lambda _: '"../../x"'),
    ],
)
def test_row_that_no_driver_writes_is_one_message(
    use: Callable[[Path], None], key: str, change: Callable[[Any], str], ledger: Path
) -> None:
    rewrite(ledger, key, change)
    with pytest.raises(LedgerError, match="ledger"):
        use(ledger)


def test_trial_without_one_of_its_tasks_is_one_message(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'work' AND value_json LIKE '[%'",
            (json.dumps(["f" * 64]),),
        )
    with pytest.raises(LedgerError, match="trial 0 .*lacks a task"):
        read(ledger)


def test_damaged_attributes_of_the_study_are_one_message_or_as_if_they_were_not_there(ledger: Path) -> None:
    with open_ledger(str(ledger), "s", "agreement") as opened:
        opened.set_run_arguments({"overrides": [], "seeds": None})
        opened.set_settings({"study": {}})
    assert run_arguments_of(str(ledger), "s") == {"overrides": [], "seeds": None}
    rewrite(ledger, "run_arguments", with_field("overrides", 3))
    assert run_arguments_of(str(ledger), "s") is None
    rewrite(ledger, "settings", lambda _: "[1]")
    rewrite(ledger, "id", lambda _: "7")
    for ask in (recorded_settings, ledger_id_of):
        with pytest.raises(LedgerError, match="not what this program writes"):
            ask(str(ledger), "s")


@pytest.mark.parametrize(
    ("use", "statement"),
    [
        *(
            (use, f"UPDATE trial_params SET distribution_json = '{text}'")
            for use in (read, run)
            for text in ("{}", "{")
        ),
        (read, "DELETE FROM trial_values"),
    ],
)
def test_trial_that_optuna_cannot_restore_is_one_message(
    use: Callable[[Path], None], statement: str, ledger: Path
) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(LedgerError, match="the ledger"):
        use(ledger)

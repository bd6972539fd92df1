"""The ledger in a real PostgreSQL: one driver, outages, and a password that is not shown anywhere.

Most tests run virtual tasks (`tests.tune.world`), which take no time.
"""

import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from hidfd.errors import Stopped
from hidfd.store import locks
from tests.integration.conftest import Workplace, tiny_study
from tests.integration.postgres import USER, PostgresServer, running_postgres
from tests.integration.test_study import started, wait_for
from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.errors import ConnectionLost, LedgerError, StudyLocked
from tune.ledger import mirrored_storage as ledger_storage
from tune.ledger.ledger import IDENTITY_KEYS, Ledger
from tune.ledger.opening import copy_ledger, holder_of, open_ledger
from tune.ledger.postgres import PostgresDatabase, _lock_key_of
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.task import Task

pytestmark = pytest.mark.integration

STUDY = definition({"sampler": "random"})

THIS_PROCESS = rf"process {os.getpid()} on .* since \d{{4}}-"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that every test leaves running."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def place(server: PostgresServer) -> str:
    """The `storage.ledger` of an empty database."""
    return server.url(server.new_database())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_storage, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(ledger_storage, "LONGEST_PAUSE_SECONDS", 0.1)


@contextmanager
def held(place: str, should_stop: Callable[[], str | None] = lambda: None) -> Iterator[Ledger]:
    with open_ledger(place, "s", "agreement", should_stop) as ledger:
        yield ledger


def identity_of(whose: str) -> dict[str, Any]:
    """Return settings as a driver writes them into its ledger, in the form alone."""
    return {key: {"whose": whose} for key in IDENTITY_KEYS}


def summary(ledger: Ledger) -> dict[str, Any]:
    """Return all that a study found, without times."""
    return {
        "suggestions": [(s.params, s.group, s.task_keys, s.rungs, s.state, s.value) for s in ledger.search_trials()],
        "works": [(w.key, w.label, w.outcome, [(a.end, a.images_to) for a in w.attempts]) for w in ledger.tasks()],
        "told": [(t.number, t.state, t.values, t.constraints, t.intermediate_values) for t in ledger.history()],
    }


def drive(place: str, world: World, study: Definition = STUDY) -> dict[str, Any]:
    with held(place) as ledger:
        run_local(Planner(StudyState(study, ledger), lambda: 0.0), world.execute)
    return summary(copy_ledger(place, "s", "agreement"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The results of the same study with its storage in memory."""
    world = World()
    planner = world.planner(STUDY)
    run_local(planner, world.execute)
    return summary(planner.state.ledger)


def end_connections(place: str, condition: str) -> None:
    """End connections from the server's side, as an administrator or a firewall does."""
    with PostgresDatabase(place).connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
        )


def away_for(server: PostgresServer, seconds: float, how: Callable[[], None]) -> threading.Timer:
    """Take the server away now, and start it again after some seconds."""
    how()
    timer = threading.Timer(seconds, server.start)
    timer.start()
    return timer


def test_study_ends_as_it_does_in_memory(place: str, expected: dict[str, Any]) -> None:
    assert drive(place, World()) == expected
    assert drive(place, World()) == expected, "and run again it changes nothing"
    assert copy_ledger(place, "another", "agreement").search_trials() == []


def test_reader_leaves_no_trace_in_an_empty_database(server: PostgresServer) -> None:
    database = server.new_database()
    assert copy_ledger(server.url(database), "s", "agreement").tasks() == []
    assert holder_of(server.url(database), "s") is None
    with server.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_second_driver_is_told_who_holds_the_study(place: str) -> None:
    with held(place) as ledger:
        ledger.set_identity(identity_of("nobody"))
        with pytest.raises(StudyLocked, match=rf"study 's' is run by {THIS_PROCESS}"), held(place):
            pass
        assert copy_ledger(place, "s", "agreement").identity == identity_of("nobody")  # a reader needs no lock
        with open_ledger(place, "another", "agreement"):
            pass
    assert holder_of(place, "s") is None
    with held(place):
        pass


@pytest.mark.parametrize("outage", ["killed", "stopped", "lock ended", "connections ended"])
def test_study_goes_on_after_an_outage_with_nothing_lost_or_doubled(
    server: PostgresServer, place: str, outage: str, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    outages = {
        "killed": lambda: away_for(server, 0.3, server.kill),
        "stopped": lambda: away_for(server, 0.3, server.stop),
        "lock ended": lambda: end_connections(place, "application_name LIKE 'hidfd %'"),
        "connections ended": lambda: end_connections(place, "true"),
    }
    steps, restarts = iter(range(1000)), []

    def sometimes(task: Task, step: int) -> bool:
        if next(steps) in (2, 25, 60):
            restarts.append(outages[outage]())
        return False

    found = drive(place, World(lose=sometimes))
    assert found == expected
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line[:16] for line in said] == ["paused: postgres", "the ledger is ba"] * 3, said
    assert server.password not in caplog.text
    for timer in restarts:
        if timer is not None:
            timer.join()


@pytest.mark.parametrize("went_through", [True, False])
def test_commit_that_was_not_heard_of_is_neither_lost_nor_doubled(
    place: str, went_through: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to one commit in three is lost, by chance, so that all kinds of writes are hit and tried again."""
    commit, chance = psycopg.Connection.commit, random.Random(0)

    def lost(connection: psycopg.Connection) -> None:
        if chance.random() > 1 / 3:
            commit(connection)
            return
        if went_through:
            commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with held(place) as ledger:
        state = StudyState(STUDY, ledger)
        monkeypatch.setattr(psycopg.Connection, "commit", lost)
        run_local(Planner(state, lambda: 0.0), World().execute)
        monkeypatch.undo()
    assert summary(copy_ledger(place, "s", "agreement")) == expected


def test_lock_is_held_again_after_an_outage(server: PostgresServer, place: str) -> None:
    with held(place) as ledger:
        server.kill()
        server.start()
        ledger.set_identity(identity_of("nobody"))
        with pytest.raises(StudyLocked, match=THIS_PROCESS), held(place):
            pass


def test_driver_whose_study_was_taken_during_the_outage_stops(server: PostgresServer, place: str) -> None:
    with held(place) as older:
        server.kill()
        server.start()
        with held(place) as newer:
            with pytest.raises(StudyLocked, match=THIS_PROCESS):
                older.set_identity(identity_of("the older"))
            newer.set_identity(identity_of("the newer"))
        with pytest.raises(StudyLocked, match="another driver has taken this study over"):
            older.set_identity(identity_of("the older"))
    assert copy_ledger(place, "s", "agreement").identity == identity_of("the newer")


def test_write_under_way_cannot_slip_behind_a_takeover(server: PostgresServer, place: str) -> None:
    """The epoch cannot be changed while a write that has read it lasts."""
    with held(place) as ledger, PostgresDatabase(place).open_connection() as other:
        storage: Any = ledger._storage
        storage._is_writing = True
        with storage._database.scoped_session() as session:
            session.connection()  # its transaction begins
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SET lock_timeout = '200ms'; UPDATE study_user_attributes SET value_json = '9'")


def test_own_lock_of_a_connection_that_broke_unheard_is_taken_back(place: str) -> None:
    """A server may take half a minute to notice that a connection's network is gone."""
    with held(place) as ledger:
        lock: Any = ledger._storage._study_lock  # type: ignore[attr-defined]
        broken, lock._connection = lock._connection, None
        lock.renew()
        ledger.set_identity(identity_of("nobody"))
        with pytest.raises(psycopg.OperationalError):
            broken.execute("SELECT 1")


def delete_rows(server: PostgresServer, place: str, table: str) -> None:
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {table} CASCADE")


def drop_database(server: PostgresServer, place: str, name: str) -> None:
    with server.connect("postgres") as connection:
        connection.execute(f'DROP DATABASE "{place.rpartition("/")[2]}" WITH (FORCE)')


@pytest.mark.parametrize(
    ("delete", "what", "words"),
    [
        (delete_rows, "studies", "was deleted from the ledger while it ran"),
        (delete_rows, "trials", "was deleted from the ledger while it ran"),
        (drop_database, "", "the server has no such database"),
    ],
    ids=["study", "tasks", "database"],
)
def test_driver_whose_ledger_is_deleted_ends_with_one_message(
    server: PostgresServer, place: str, delete: Callable[..., None], what: str, words: str
) -> None:
    steps = iter(range(1000))

    def once(task: Task, step: int) -> bool:
        if next(steps) == 5:
            delete(server, place, what)
        return False

    with pytest.raises(LedgerError, match=words) as raised:
        drive(place, World(lose=once))
    assert raised.value.exit_code == 7
    assert "--adopt" in str(raised.value)
    assert server.password not in str(raised.value)


def test_pausing_driver_stops_when_it_is_asked_to(server: PostgresServer, place: str) -> None:
    asked: list[str] = []
    with held(place, lambda: asked[0] if asked else None) as ledger:
        server.kill()
        threading.Timer(0.3, asked.append, ("Ctrl-C",)).start()
        with pytest.raises(Stopped, match="stopped by Ctrl-C while the ledger was away"):
            ledger.set_identity(identity_of("nobody"))
    server.start()


def test_lock_of_a_session_that_stands_still_is_waited_for_with_a_limit(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "SAY_SECONDS", 0.2)
    monkeypatch.setattr(locks, "LIMIT_SECONDS", 1.0)
    with psycopg.connect(place, autocommit=True, application_name="elsewhere") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_lock_key_of("tables")])
        with pytest.raises(LedgerError, match=r"session \d+ of the server \(elsewhere\) has made the ledger's tables"):
            Planner(StudyState(STUDY, ledger_of(place)), lambda: 0.0)
    assert "(elsewhere); at most 1 s" in caplog.text
    with held(place) as ledger, psycopg.connect(place) as other:
        planner = Planner(StudyState(STUDY, ledger), lambda: 0.0)
        other.execute("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LedgerError, match="another session has kept a row or table of the ledger locked") as raised:
            run_local(planner, World().execute)
        assert raised.value.exit_code == 7
        other.rollback()
    with held(place) as ledger:
        run_local(Planner(StudyState(STUDY, ledger), lambda: 0.0), World().execute)


def ledger_of(place: str) -> Ledger:
    with held(place) as ledger:
        return ledger


def test_several_studies_may_be_the_first_in_one_database(place: str) -> None:
    failed: list[Exception] = []

    def begin(name: str) -> None:
        try:
            with open_ledger(place, name, "agreement") as ledger:
                ledger.set_identity(identity_of(name))
        except LedgerError as error:
            failed.append(error)

    drivers = [threading.Thread(target=begin, args=(f"study-{number}",)) for number in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert not failed
    assert copy_ledger(place, "study-3", "agreement").identity == identity_of("study-3")


def refusals(server: PostgresServer) -> dict[str, tuple[str, tuple[str, ...]]]:
    database = server.new_database()
    with server.connect(database) as connection:
        connection.execute(f"CREATE ROLE guest_{database} LOGIN PASSWORD 'guest'")
    good, shown = server.url(database), f"postgresql://{USER}:***@127.0.0.1:{server.port}"
    guest = f"guest_{database}"
    return {
        "nobody there": (good.replace(str(server.port), "1"), (":1/", "no PostgreSQL server answers", "start it")),
        "password": (
            server.url(database, "wr0ng"),
            (shown, "refuses this user or this password", "set the environment"),
        ),
        "user": (good.replace(f"//{USER}:", "//me:"), ("refuses this user", "storage.ledger")),
        "database": (server.url("elsewhere"), (shown, 'database "elsewhere" does not exist', "create it")),
        "rights": (good.replace(f"{good.split('@')[0]}@", f"postgresql://{guest}:guest@"), (guest, "grant it CREATE")),
        "scheme": (
            good.replace("postgresql:", "mysql:"),
            ("mysql is not supported", "SQLite file", "postgresql://USER"),
        ),
        "two signs": (server.url(database, "wr0ng@word"), ("more than one @", "%40", "${NAME}")),
        "no port": (good.replace(str(server.port), "many"), ("no address of a database", "HOST:PORT")),
    }


@pytest.mark.parametrize(
    "what", ["nobody there", "password", "user", "database", "rights", "scheme", "two signs", "no port"]
)
def test_ledger_that_cannot_be_opened_is_one_clear_message(
    server: PostgresServer, tiny: Workplace, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place, words = refusals(server)[what]
    tree = tiny_study()
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    for arguments in (("run", "study.yaml", "--engine", "local"), ("status", "study.yaml")):
        done = tiny.run("tune", *arguments, HIDFD_LEDGER=place)
        if what == "rights" and arguments[0] == "status":
            continue  # who only looks needs none as long as there is nothing
        assert done.returncode == 7, done.stderr
        for word in words:
            assert word in done.stderr, done.stderr
        assert [line[:7] for line in done.stderr.splitlines() if not line.startswith("store ")] == ["error: "]
        said = done.stdout + done.stderr + "".join(capfd.readouterr())
        assert server.password not in said
        assert "wr0ng" not in said


@pytest.fixture
def study(tiny: Workplace) -> Workplace:
    """A study of three students over two generators, as in `test_study`."""
    tree = tiny_study()
    tree["study"] = {"sampler": "tpe", "num_students": 3, "students_per_generator": 2, "startup_students": 2}
    tree["search"] = {
        "distillation.inflation": {"type": "float", "low": 1, "high": 10},
        "generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4},
    }
    tiny.write(tree)
    return tiny


@pytest.mark.slow
def test_study_outlives_a_killed_server_and_its_password_is_nowhere(
    server: PostgresServer, study: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_WORD", server.password)
    database = server.new_database()
    place = f"storage.ledger={server.url(database, '${LEDGER_WORD}')}"
    process = started(study, "run", "study.yaml", "--engine", "local", place)
    wait_for(study, "collection", process)
    second = study.run("tune", "run", "study.yaml", "--engine", "local", place)
    assert second.returncode == 8, second.stderr
    assert f"process {process.pid} on " in second.stderr
    server.kill()
    time.sleep(1.0)
    unreachable = study.run("tune", "status", "study.yaml", place)
    assert unreachable.returncode == 7, unreachable.stderr
    server.start()
    wait_for(study, "evaluation", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "paused: postgresql://" in err
    assert "the ledger is back after" in err
    verbs = [("plan",), ("run", "--engine", "local"), ("status",), ("report",), ("show", "0")]
    shown = [study.run("tune", verb, "study.yaml", *more, place) for verb, *more in verbs]
    assert {done.returncode for done in shown} == {0}, [done.stderr for done in shown]

    texts = [out, err, *(text for done in (second, unreachable, *shown) for text in (done.stdout, done.stderr))]
    files = [path for path in study.folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    contents = [text.encode() for text in texts] + [path.read_bytes() for path in files]
    for form in (server.password, json.dumps(server.password)[1:-1], server.url("x").split(":")[2].split("@")[0]):
        assert not any(form.encode() in content for content in contents)

    monkeypatch.setenv("HIDFD_LEDGER", server.url(database))
    snapshot = json.loads(study.run("tune", "status", "study.yaml", "--json").stdout)
    assert snapshot["finished"]
    assert len(snapshot["trials"]) == 3
    keys = [task.key for task in copy_ledger(server.url(database), "tiny", "agreement").tasks()]
    assert len(set(keys)) == len(keys)
    ends = [[attempt["end"] for attempt in task["attempts"]] for task in snapshot["works"]]
    assert all(task.count("finished") <= 1 for task in ends), ends
    assert sum(len(task) - 1 for task in ends) <= 1, "an outage interrupts nothing, Ctrl-C one task"


def test_place_that_went_away_is_told_apart_from_one_that_refuses(server: PostgresServer) -> None:
    database = PostgresDatabase(server.url("postgres"))
    server.stop()
    try:
        with pytest.raises(ConnectionLost):
            database.open_connection()
    finally:
        server.start()
    with pytest.raises(LedgerError) as refused:
        PostgresDatabase(server.url("nowhere")).open_connection()
    assert not isinstance(refused.value, ConnectionLost)

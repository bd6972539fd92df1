"""Ledgers that another process keeps locked: no wait without a word and a limit."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hidfd.store import locks
from hidfd.store.disk import Workspace
from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.errors import LedgerError
from tune.ledger.opening import copy_ledger, open_ledger, send_request
from tune.planner.planner import Planner
from tune.planner.state import StudyState


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SAY_SECONDS", 0.2)
    monkeypatch.setattr(locks, "LIMIT_SECONDS", 1.0)


@contextmanager
def stopped(program: str, *arguments: str) -> Iterator[int]:
    """Run a program until it has printed a line, then stop it as Ctrl-Z does."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        yield process.pid
    finally:
        process.kill()
        process.communicate()


FLOCK = """
import fcntl, os, sys, time
held = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(held, fcntl.LOCK_EX); print("held", flush=True); time.sleep(600)
"""
WRITE = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None); held.execute("BEGIN IMMEDIATE"); print("held", flush=True)
time.sleep(600)
"""


def drive(address: str) -> None:
    with open_ledger(address, "s", "agreement") as ledger:
        run_local(
            Planner(StudyState(definition({"variants": {"a": {}}}, search={}), ledger), lambda: 0.0), World().execute
        )


def look(address: str) -> None:
    copy_ledger(address, "s", "agreement")


@pytest.mark.parametrize("use", [drive, look])
def test_ledger_that_a_stopped_process_is_making_is_waited_for_with_a_word_and_a_limit(
    use: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as half_made:
        half_made.execute("CREATE TABLE studies (study_id)")
    lock = tmp_path / "ledger.db.lock"
    lock.touch()
    with stopped(FLOCK, str(lock)) as pid, pytest.raises(LedgerError, match=f"process {pid} .*stopped") as raised:
        use(str(path))
    assert raised.value.exit_code == 7
    assert f"process {pid} " in caplog.text


def test_stopped_reader_of_a_ledger_that_exists_holds_up_nobody(tmp_path: Path) -> None:
    address = str(tmp_path / "ledger.db")
    drive(address)
    with stopped(FLOCK, f"{address}.lock"):
        look(address)
        drive(address)
        send_request(address, "s", {"to": "somebody", "by": "me", "now": False})


def test_write_that_waits_says_for_whom_and_goes_on_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = str(tmp_path / "ledger.db")
    drive(address)
    with stopped(WRITE, address) as pid:
        threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
        drive(address)
    assert f"waiting for {address}, which is held by process {pid} " in caplog.text
    assert "is stopped" in caplog.text


def test_folder_of_the_store_that_a_stopped_clean_up_holds_is_waited_for_with_a_limit(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with stopped(FLOCK, str(folder)) as pid, pytest.raises(Exception, match=f"work: held by process {pid} "):
        Workspace(folder)


def test_file_that_nobody_holds_has_no_holder(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        assert "another process" in locks.holders_of(tmp_path / "file")

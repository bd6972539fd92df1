"""An MLflow server of one's own, for as long as somebody looks at its pages.

Beside a database on the disk a file names the server that shows it, so that a second `tune open` finds the first one's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hidfd.addresses import SQLITE, path_at, sqlite_address
from tune.errors import TrackingError
from tune.tracking.connection import connect
from tune.tracking.moved_database import ARTIFACTS

START_SECONDS = 120.0
"""Seconds that the server may take to answer; on two quiet cores it takes some ten."""

STOP_SECONDS = 10.0
"""Seconds that it may take to end, before it is killed."""

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class OwnServer:
    """A server that shows a database.

    Attributes:
        address: of its pages.
        pid: of its process.
        is_new: whether it was started for the asker, and ends with them.
    """

    address: str
    pid: int
    is_new: bool = False


@contextlib.contextmanager
def server_of(tracking: str) -> Iterator[OwnServer]:
    """Yield a server that shows a tracking database: one that runs already, or one that ends with the block.

    Args:
        tracking: MLflow's URI of the database: `sqlite:///PATH`, `postgresql://...`.

    Raises:
        TrackingError: it cannot be started.
    """
    database = path_at(tracking).absolute() if tracking.startswith(SQLITE) else None
    mark = None if database is None else database.with_name(f"{database.name}.server.json")
    running = None if mark is None else _server_in(mark)
    if running is not None:
        yield running
        return
    connect(tracking)  # brings a database that was moved in order, which a server would not
    with tempfile.TemporaryDirectory(prefix="hidfd-mlflow-") as folder:
        log = Path(folder) / "server.log"
        address, process = _start(tracking if database is None else sqlite_address(database), database, log)
        server = OwnServer(address, process.pid, is_new=True)
        try:
            _wait_for(server, process, log)
            if mark is not None:
                mark.write_text(json.dumps(asdict(server)), encoding="utf-8")
            yield server
        finally:
            if mark is not None and _pid_in(mark) == process.pid:
                mark.unlink(missing_ok=True)
            _end(process)


def wait_for_its_end(server: OwnServer) -> None:
    """Return when a server that this process has started has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(server.pid, 0)


def _start(tracking: str, database: Path | None, log: Path) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if database is not None:
        words += ["--no-serve-artifacts", "--default-artifact-root", (database.parent / ARTIFACTS).as_uri()]
    # The address may hold a password, which a command line would show to everybody.
    own = {"MLFLOW_BACKEND_STORE_URI": tracking, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = os.environ | own | {"MLFLOW_DISABLE_TELEMETRY": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, start_new_session=True)
    return f"http://127.0.0.1:{port}", process


def _wait_for(server: OwnServer, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while not _answers(server.address):
        if process.poll() is not None or time.monotonic() > until:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
            raise TrackingError(f"MLflow's server does not start; the last that it said: {said[-1]}")
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers, which are a session of their own."""
    for how, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _server_in(mark: Path) -> OwnServer | None:
    """Return the server that a mark names, if that process still runs MLflow and answers."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        named = json.loads(mark.read_text(encoding="utf-8"))
        server = OwnServer(str(named["address"]), int(named["pid"]))
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
        port = server.address.rpartition(":")[2].encode()
        if b"mlflow" in command and port in command and _answers(server.address):
            return server
    return None


def _pid_in(mark: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return int(json.loads(mark.read_text(encoding="utf-8"))["pid"])
    return None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

"""A real PostgreSQL server for a test: Debian's binaries, on loopback, with its own folder and password."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER = "hidfd"

READY_SECONDS = 60.0
"""Seconds that a server may take to answer, including recovery after a kill."""


class PostgresServer:
    """A server that can be stopped, killed and started again without losing its databases.

    Attributes:
        port: on 127.0.0.1, the same after a restart.
        password: of the superuser `hidfd`; it has every character that an address has to escape.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        """Make a new server in an empty folder, without starting it."""
        self.password = f"{secrets.token_hex(8)}/@:?#%{{x}}"
        self._binaries, self._data, self._log = binaries, folder / "data", folder / "log"
        self._as_user: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            user = pwd.getpwnam("postgres")
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            os.chown(folder, user.pw_uid, user.pw_gid)
        word = folder / "password"
        word.write_text(self.password)
        word.chmod(0o644)
        self._run("initdb", "-U", USER, "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync", "-E", "UTF8")
        word.unlink()

    def start(self) -> None:
        """Start the server, and return when it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, self._binaries / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server as an administrator does: it rolls back open transactions and closes connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_SECONDS)
            self._process = None

    def kill(self) -> None:
        """Kill the server and every process that serves a connection, as when its node is lost."""
        assert self._process is not None
        server = self._process.pid
        serving = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for process in (server, *map(int, serving)):
            with contextlib.suppress(ProcessLookupError):  # it followed the server by itself
                os.kill(process, signal.SIGKILL)
        self._process.wait(READY_SECONDS)
        self._process = None
        for process in serving:  # one that still ends keeps the folder's lock
            while Path(f"/proc/{process}").exists():
                time.sleep(0.01)

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a connection that commits each statement."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database, autocommit=True
        )

    def new_database(self) -> str:
        """Make an empty database, and return its name."""
        name = f"study_{secrets.token_hex(4)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, password: str | None = None) -> str:
        """Return a `storage.ledger` for a database; `password` may be a `${NAME}`."""
        word = quote(self.password, safe="") if password is None else password
        return f"postgresql://{USER}:{word}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, self._binaries / program, "-D", self._data, *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def postgres_binaries() -> Path | None:
    """Return the folder of the newest server that is installed; None if none is."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]  # Debian keeps it off the PATH
    if found:
        return max(found, key=lambda folder: int(folder.parent.name))
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a server for as long as the block lasts; skip the test, and say how to get one, where there is none."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here; get one: apt-get install postgresql")
    # Not in pytest's folder, which only the user who runs the tests can enter.
    with tempfile.TemporaryDirectory(prefix="hidfd-postgres-") as folder:
        server = PostgresServer(binaries, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()

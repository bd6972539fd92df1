"""A program in the background with a log of its own, which never outlives the process that started it."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.processes import family, kill

PROXIES = {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}

STOP_SECONDS = 30.0
"""Seconds that a program may take to end by itself."""


class Daemon:
    """A program that starts at once, as the leader of a process group of its own.

    The kernel ends it with its parent, which is how nothing is left when pytest itself is killed. That parent is the
    thread that started it: start it from one that lasts.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        variables: Mapping[str, str] | None = None,
        *,
        gently: bool = False,
    ) -> None:
        """`variables` are added to the environment of this process, less its proxies.

        A program that has to clean up is ended `gently`, by SIGTERM.
        """
        self.name = log.stem
        self._log, self._gently = log, gently
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM" if gently else "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=without_proxies() | dict(variables or {}),
                start_new_session=True,
            )

    def check(self) -> None:
        """Fail with the end of its log when the program does not run any more."""
        code = self._process.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.tail()}"

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End the program and its process group."""
        if self._gently:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def lose(self) -> None:
        """Kill the program with all that it has started, without a notice, as when a machine dies."""
        kill(family(self._process.pid))
        self._process.wait()


def without_proxies() -> dict[str, str]:
    """Return this process's environment without proxies, which must not reach what the tests start."""
    return {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port

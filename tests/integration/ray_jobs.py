"""A Ray head with a job server on this machine's loopback, as a platform team runs one, and the `ray job` command."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.integration.ray_nodes import descendants

UP_SECONDS = 120.0
"""Seconds that the job server and the agent that starts jobs may take to answer; the agent takes longer."""

BINARIES = Path(sys.executable).parent


class JobServer:
    """A Ray head that takes jobs.

    Attributes:
        address: of the job server.
        environment: of the head and of `ray job`, with which they authenticate each other.
    """

    def __init__(self, folder: Path, authentication: dict[str, str]) -> None:
        ports = _free_ports(3)
        self.address = f"http://127.0.0.1:{ports[1]}"
        self.environment = os.environ | {"PATH": f"{BINARIES}:{os.environ['PATH']}"} | authentication
        self._log = folder / "head.log"
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                [
                    BINARIES / "ray",
                    "start",
                    "--head",
                    "--block",
                    "--disable-usage-stats",
                    "--node-ip-address=127.0.0.1",
                    f"--port={ports[0]}",
                    "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={ports[1]}",
                    f"--dashboard-agent-listen-port={ports[2]}",
                    "--num-cpus=2",
                    f"--object-store-memory={100 * 2**20}",
                    f"--temp-dir={folder}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self._agent = f"http://127.0.0.1:{ports[2]}/api/local_raylet_healthz"

    def wait_until_up(self) -> None:
        """Wait until jobs can be submitted."""
        until = time.monotonic() + UP_SECONDS
        while not (_answers(f"{self.address}/api/version") and _answers(self._agent)):
            assert self._head.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.2)

    def job(self, verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `ray job VERB` to its end."""
        return subprocess.run(
            [BINARIES / "ray", "job", verb, "--address", self.address, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def close(self) -> None:
        """End the head and all that it has started."""
        for process in [*descendants(self._head.pid), self._head.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._head.wait()


@contextlib.contextmanager
def job_server(authentication: dict[str, str]) -> Iterator[JobServer]:
    """Run a head, for a `with`; its folder's name is short, because the paths of Ray's sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        server = JobServer(Path(folder), authentication)
        try:
            server.wait_until_up()
            yield server
        finally:
            server.close()


def _answers(address: str) -> bool:
    """Whether a server answers at an address, even if it wants a token."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]

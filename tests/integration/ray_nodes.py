"""A real Ray cluster on this machine: a head without processors, and nodes that can be killed like a lost machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STARTED = "To terminate the Ray runtime"
"""The words that `ray start --block` prints when a node is up."""

UP_SECONDS = 120.0
"""Seconds that a node may take to come up; Ray's default of 30 s is too short on a busy machine."""

HIDING = (
    *("unshare", "--user", "--map-root-user", "--mount"),
    *("bash", "-c", 'mount -t tmpfs tmpfs "$0" || exit 77; exec "$@"'),
)
"""The beginning of a command; the folder that its next word names appears empty to the rest of it."""

WORKER = "ray::ImplicitFunc"
"""The title that Ray gives to a process that runs functions of Ray Tune, one after another."""


class RayNodes:
    """A head and its nodes, each a process group of its own.

    Attributes:
        address: for RAY_ADDRESS.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        self._start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")

    def add(self, cpus: int, without: Path | None = None) -> int:
        """Start a node, and return its number; the folder `without` appears empty to it."""
        hidden = [] if without is None else [*HIDING, str(without)]
        return self._start(f"--address={self.address}", f"--num-cpus={cpus}", before=hidden)

    def kill(self, number: int) -> None:
        """Kill all processes of a node at once, as if its machine were lost."""
        node = self._nodes[number]
        for process in [*descendants(node.pid), node.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()

    def workers(self, number: int) -> list[int]:
        """Return the process ids of a node's workers that run tasks."""
        return processes_titled(WORKER, self._nodes[number].pid)

    def actors(self, number: int, title: str) -> list[int]:
        """Return the process ids of a node's actors whose title begins so."""
        return processes_titled(title, self._nodes[number].pid)

    def close(self) -> None:
        """Kill the nodes that still run."""
        for number in reversed(range(len(self._nodes))):
            self.kill(number)

    def _start(self, *options: str, before: Sequence[str] = ()) -> int:
        log = self._folder / f"node-{len(self._nodes)}.log"
        with log.open("wb") as stream:
            node = subprocess.Popen(
                [
                    *before,
                    str(Path(sys.executable).with_name("ray")),
                    "start",
                    "--block",
                    "--disable-usage-stats",
                    f"--object-store-memory={100 * 2**20}",
                    *options,
                ],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": f"{UP_SECONDS:.0f}"},
                start_new_session=True,
            )
        self._nodes.append(node)
        until = time.monotonic() + UP_SECONDS
        while STARTED not in log.read_text(errors="replace"):
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        return len(self._nodes) - 1


@contextlib.contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """Run a head, for a `with`; its folder's name is short, because the paths of Ray's sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        nodes = RayNodes(Path(folder))
        try:
            yield nodes
        finally:
            nodes.close()


def descendants(ancestor: int) -> list[int]:
    """Return the process ids of a process's children and of their children, the nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [ancestor]
    for process in found:
        found += parents.get(process, [])
    return found[1:]


def processes_titled(title: str, ancestor: int | None = None) -> list[int]:
    """Return the process ids of the descendants of a process (of this one) whose title begins so."""
    return [found for found in descendants(ancestor or os.getpid()) if _title(found).startswith(title)]


def is_running(process: int) -> bool:
    """Whether a process has not ended; one that has, and whose end nobody asked for, is still listed by the kernel."""
    return bool(_title(process))


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port

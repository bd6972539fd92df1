"""A container of the process node: one process, its log, its restarts and its entry in the pod's status."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.pod_inputs import MissingInputError
from tests.cluster.processes import Family, family, kill

NO_IMAGE = "missing.invalid/"
"""Beginning of the names of images that cannot be pulled; every other image exists already."""

BACK_OFF_SECONDS = (1.0, 30.0)
"""Seconds before the first restart, doubled for each further one, and the longest wait; a kubelet begins with ten."""


@dataclass(frozen=True)
class Launch:
    """The command of a container with its environment and folder."""

    command: list[str]
    variables: dict[str, str]
    folder: Path


class Container:
    """A container that its pod steps: it starts, watches and, by the pod's restart policy, restarts its process.

    Attributes:
        done: whether it has ended and will not be started again.
        ready: whether its pod's Service may use it.
        restarts: number of restarts.
    """

    def __init__(self, manifest: dict[str, Any], logs: Path, prepare: Callable[[], Launch]) -> None:
        """`prepare` returns the command before every start; it raises `MissingInputError` while that is not known."""
        self.name: str = manifest["name"]
        self.done = self.ready = False
        self.restarts = 0
        self._image: str = manifest.get("image", "")
        self._logs, self._prepare = logs, prepare
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[str, str] = {"reason": "ContainerCreating"}
        self._ended: dict[str, Any] | None = None
        self._ended_before: dict[str, Any] | None = None
        self._crash_reason: str | None = None
        self._started_at = ""
        self._next_start = 0.0

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._ended is None

    @property
    def started(self) -> bool:
        """Whether the process has ever run."""
        return self._process is not None

    @property
    def waiting(self) -> dict[str, str]:
        """The reason why the process does not run (yet)."""
        return self._waiting

    def log(self, *, previous: bool = False) -> Path:
        """Return the path of the log, each line after its time; `previous` is that before the last restart."""
        return self._logs / f"{self.restarts - previous}.log"

    def step(self, policy: str, is_ready: Callable[[], bool]) -> None:
        """Start or restart the process where that is due; `policy` is the pod's `restartPolicy`."""
        if self.running:
            if self._has_ended():
                self._end(policy)
            elif not self.ready:
                self.ready = is_ready()
        elif not self.done and time.monotonic() >= self._next_start:
            self._start()

    def crash(self, reason: str) -> None:
        """Kill all processes; `reason` is what the status will say, such as OOMKilled."""
        if self.running:
            assert self._process is not None
            self._crash_reason = reason
            kill(family(self._process.pid))

    def stop(self, seconds: float) -> None:
        """End the process for good, within `seconds` by itself if it can."""
        self.done = True
        if not self.running:
            return
        assert self._process is not None
        members = family(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        until = time.monotonic() + max(seconds, 1.0)
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(0.05)
        self._reap(members)

    def status(self) -> dict[str, Any]:
        """The container's entry in the pod's `status.containerStatuses`."""
        if self.running:
            state: dict[str, Any] = {"running": {"startedAt": self._started_at}}
        elif self._ended is not None and self.done:
            state = {"terminated": self._ended}
        else:
            state = {"waiting": self._waiting}
        earlier = self._ended_before if self.running or self.done else self._ended
        return {
            "name": self.name,
            "image": self._image,
            "imageID": "",
            "started": self.running,
            "ready": self.ready and self.running,
            "restartCount": self.restarts,
            "state": state,
            "lastState": {"terminated": earlier} if earlier else {},
        }

    def _start(self) -> None:
        if self._image.startswith(NO_IMAGE):
            self._waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{self._image}"'}
            return
        try:
            launch = self._prepare()
        except MissingInputError as missing:
            self._waiting = {"reason": missing.reason, "message": str(missing)}
            return
        if self._ended is not None:
            self.restarts += 1
        self._logs.mkdir(parents=True, exist_ok=True)
        self.log().touch()
        read, write = os.pipe()
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *launch.command],
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            env=launch.variables,
            cwd=launch.folder,
            start_new_session=True,
        )
        os.close(write)
        threading.Thread(target=_keep, args=(read, self.log()), daemon=True).start()
        self._ended_before = self._ended
        self._started_at, self._ended, self._crash_reason = now(), None, None

    def _has_ended(self) -> bool:
        """Whether the process has ended; until `_reap` its number is not given to another one."""
        assert self._process is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _end(self, policy: str) -> None:
        code = self._reap(set())
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            self.done = True
        else:
            first, longest = BACK_OFF_SECONDS
            self._next_start = time.monotonic() + min(first * 2**self.restarts, longest)
            self._waiting = {"reason": "CrashLoopBackOff"}

    def _reap(self, members: Family) -> int:
        """Kill what is left of the process and its known descendants, and record how it ended."""
        assert self._process is not None
        kill(members | family(self._process.pid))
        code = self._process.wait()
        status = code if code >= 0 else 128 - code
        self.ready = False
        self._ended = {
            "exitCode": status,
            "reason": self._crash_reason or ("Error" if status else "Completed"),
            "startedAt": self._started_at,
            "finishedAt": now(),
        }
        return code


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _keep(read: int, log: Path) -> None:
    with os.fdopen(read, "rb") as source, log.open("ab", buffering=0) as target:
        for line in source:
            target.write(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode() + line)

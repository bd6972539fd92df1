"""Read the logs of pods again and again: every line once, also over lost connections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from k8s.api_paths import ApiObject, core
from k8s.client import Api
from k8s.errors import Forbidden, NotFound, Refused, Unreachable

STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[-+]\d\d:\d\d)")
"""The time stamp (RFC 3339) that a kubelet writes before every line."""


@dataclass
class ContainerLog:
    """The log of one container.

    Attributes:
        path: path of its pod.
        container: its name.
    """

    path: str
    container: str
    _last: str = ""
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def read_new(self, api: Api) -> list[str]:
        """Return the lines since the last call; none where the container has not started, or its pod is gone.

        The server takes whole seconds: it is asked from the second of the last line on, and lines that were read before
        are left out.

        Raises:
            Unreachable: no line is lost; the next call asks for the same.
        """
        since = datetime.strptime(f"{self._last[:19]}Z", "%Y-%m-%dT%H:%M:%S%z") if self._last else None
        try:
            found = api.log(self.path, self.container, since)
        except NotFound:
            return []
        except Refused as refusal:
            if refusal.status == 400:  # the container has not started yet
                return []
            raise
        stamped = [(_utc_nanoseconds(stamp), line) for stamp, line in found if STAMP.fullmatch(stamp)]
        new = [(stamp, line) for stamp, line in stamped if stamp >= self._last and (stamp, line) not in self._seen]
        if new:
            self._last = max(stamp for stamp, _ in new)
            self._seen = {entry for entry in (*self._seen, *new) if entry[0][:19] == self._last[:19]}
        return [line for _, line in new]


class PodLogs:
    """The logs of all containers of several pods.

    Attributes:
        unreadable: pods whose log could not be read at the last call -> why, in words.
    """

    def __init__(self, namespace: str) -> None:
        self.unreadable: dict[str, str] = {}
        self._namespace = namespace
        self._logs: dict[tuple[str, str], ContainerLog] = {}

    def read_new(self, pods: list[ApiObject], api: Api) -> list[tuple[str, str]]:
        """Return the lines since the last call as pairs of pod and line."""
        found: list[tuple[str, str]] = []
        self.unreadable = {}
        for pod in pods:
            name = pod["metadata"]["name"]
            for container in pod["spec"]["containers"]:
                key = (pod["metadata"]["uid"], container["name"])
                path = core(self._namespace, "pods", name)
                log = self._logs.setdefault(key, ContainerLog(path, container["name"]))
                try:
                    found += [(name, line) for line in log.read_new(api)]
                except Unreachable:
                    self.unreadable[name] = f"{name}: its log cannot be read now; asking again"
                except Forbidden as error:
                    self.unreadable[name] = f"{name}: its log cannot be read: {error}"
        return found


def _utc_nanoseconds(stamp: str) -> str:
    """Return a time stamp in UTC with nine digits of a second: nodes write their own zone, and drop trailing zeros."""
    match = STAMP.fullmatch(stamp)
    assert match is not None, stamp
    moment = datetime.fromisoformat(f"{match[1]}{match[3]}").astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{match[2] or '':0<9}"

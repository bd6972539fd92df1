"""Pods' logs, read again and again: what is new since the last look, over lost connections, each line once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from k8s.api_paths import ApiObject, core
from k8s.client import Api
from k8s.errors import Forbidden, NotFound, Refused, Unreachable

STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[-+]\d\d:\d\d)")
"""RFC 3339, as a kubelet puts it before every line."""


@dataclass
class PodLog:
    """One container's.

    Attributes:
        path: of the pod.
        container: its name.
    """

    path: str
    container: str
    _last: str = ""
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def new(self, api: Api) -> list[str]:
        """Lines that came since the last call; none where the container has not begun, or its pod is gone.

        The server is asked for what came since the second of the last line, and what was seen is left out.

        Raises:
            Unreachable: nothing is lost; the next call asks for the same.
        """
        since = datetime.strptime(f"{self._last[:19]}Z", "%Y-%m-%dT%H:%M:%S%z") if self._last else None
        try:
            found = api.log(self.path, self.container, since)
        except NotFound:
            return []
        except Refused as refusal:
            if refusal.status == 400:  # its container is still being made
                return []
            raise
        stamped = [(_full(stamp), line) for stamp, line in found if STAMP.fullmatch(stamp)]
        new = [(stamp, line) for stamp, line in stamped if stamp >= self._last and (stamp, line) not in self._seen]
        if new:
            self._last = max(stamp for stamp, _ in new)
            self._seen = {entry for entry in (*self._seen, *new) if entry[0][:19] == self._last[:19]}
        return [line for _, line in new]


class Logs:
    """Those of all containers of a set of pods.

    Attributes:
        silent: pods whose log could not be had at the last call -> why, in words.
    """

    def __init__(self, namespace: str) -> None:
        self.silent: dict[str, str] = {}
        self._namespace = namespace
        self._logs: dict[tuple[str, str], PodLog] = {}

    def new(self, pods: list[ApiObject], api: Api) -> list[tuple[str, str]]:
        """What came since the last call, as (pod, line)."""
        found: list[tuple[str, str]] = []
        self.silent = {}
        for pod in pods:
            name = pod["metadata"]["name"]
            for container in pod["spec"]["containers"]:
                key = (pod["metadata"]["uid"], container["name"])
                path = core(self._namespace, "pods", name)
                log = self._logs.setdefault(key, PodLog(path, container["name"]))
                try:
                    found += [(name, line) for line in log.new(api)]
                except Unreachable:
                    self.silent[name] = f"{name}: its log cannot be had now; asking again"
                except Forbidden as error:
                    self.silent[name] = f"{name}: its log cannot be had: {error}"
        return found


def _full(stamp: str) -> str:
    """In UTC, with nine digits of a second: nodes write their own zone, and may leave trailing zeros out."""
    match = STAMP.fullmatch(stamp)
    assert match is not None, stamp
    moment = datetime.fromisoformat(f"{match[1]}{match[3]}").astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{match[2] or '':0<9}"

"""An HTTP server that answers as an API server does, from memory, and fails as it is told to.

It is for faults that a real server does not produce on demand; tests/cluster tests what a real one does.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from k8s.api_paths import ApiObject

DROP = 0
"""A fault: the connection ends without an answer."""


@dataclass
class ApiServer:
    """An API server in memory.

    Attributes:
        url: its address.
        objects: path -> object.
        logs: path of a pod -> lines with time stamps.
        faults: answers to the next requests, in order: a status, `DROP`, or None for an ordinary answer.
        asked: all requests so far as (method, path with query).
        on_request: called before each one.
    """

    url: str = ""
    objects: dict[str, ApiObject] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    faults: list[int | None] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    on_request: Callable[[str, str], None] = lambda method, path: None

    def put(self, path: str, **parts: Any) -> ApiObject:
        """Store an object at a path, whose last part is its name."""
        name = path.rsplit("/", 1)[-1]
        metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        found = {**parts, "metadata": metadata | parts.get("metadata", {})}
        self.objects[path] = found
        return found

    def kubeconfig(self, folder: Path, token: str = "a-token") -> Path:
        """Write a kubeconfig for this server."""
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(document))
        return path

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: ApiObject) -> tuple[int, Any]:
        """Answer a request as an API server does, as far as this project asks one."""
        if path.endswith("/log"):
            return (200, self._log(path, query)) if path.removesuffix("/log") in self.logs else _status(404, path)
        if method == "POST" and "reviews" in path:
            return 201, body | {"status": {"allowed": True, "userInfo": {"username": "tester"}}}
        if method == "POST":
            return self._create(path, query, body)
        if path in self.objects and method == "PATCH":
            self.objects[path]["metadata"] |= body.get("metadata", {})
        if path in self.objects and method == "DELETE":
            found = self.objects[path]
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z"
            if not found["metadata"].get("finalizers"):
                del self.objects[path]
                self._collect(found["metadata"]["uid"])
            return 200, found
        if path in self.objects:
            return 200, self.objects[path]
        if path.rsplit("/", 1)[-1] in LISTS:
            return 200, {"items": self._list(path, query)}
        return _status(404, path)

    def _create(self, path: str, query: dict[str, list[str]], body: ApiObject) -> tuple[int, Any]:
        name = body["metadata"].get("name") or body["metadata"]["generateName"] + "x"
        where = f"{path}/{name}"
        if where in self.objects:
            return _status(409, f"{name} already exists")
        made = json.loads(json.dumps(body))
        made["metadata"] |= {"uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        if "dryRun" not in query:
            self.objects[where] = made
        return 201, made

    def _collect(self, owner: str) -> None:
        """Delete what an object owned, except what a finalizer holds."""
        for path, thing in list(self.objects.items()):
            owners = [reference["uid"] for reference in thing["metadata"].get("ownerReferences", [])]
            if owner in owners and not thing["metadata"].get("finalizers"):
                del self.objects[path]

    def _list(self, path: str, query: dict[str, list[str]]) -> list[ApiObject]:
        wanted = [part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part]
        found = [thing for where, thing in self.objects.items() if where.rsplit("/", 1)[0] == path]
        return [o for o in found if all(o["metadata"].get("labels", {}).get(key) == value for key, value in wanted)]

    def _log(self, path: str, query: dict[str, list[str]]) -> str:
        since = datetime.fromisoformat(query.get("sinceTime", ["1970-01-01T00:00:00Z"])[0])
        lines = self.logs[path.removesuffix("/log")]
        return "\n".join(line for line in lines if datetime.fromisoformat(line.partition(" ")[0]) >= since)


LISTS = (
    *("pods", "nodes", "events", "secrets", "configmaps", "resourcequotas", "limitranges", "deployments"),
    *("rayjobs", "rayclusters", "jobs", "namespaces", "persistentvolumeclaims", "serviceaccounts", "networkpolicies"),
    "workloads",
)


@contextlib.contextmanager
def serving() -> Iterator[ApiServer]:
    """Run a server on a free port of this machine while the block lasts."""
    state = ApiServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            state.on_request(self.command, parts.path)
            state.asked.append((self.command, self.path))
            fault = state.faults.pop(0) if state.faults else None
            if fault == DROP:
                self.close_connection = True
                return
            body = json.loads(content) if content else {}
            status, found = state.answer(self.command, parts.path, parse_qs(parts.query), body)
            if fault is not None:
                status, found = _status(fault, "as the test wants it")
            data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  http.server's names

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _status(code: int, message: str) -> tuple[int, ApiObject]:
    return code, {"kind": "Status", "code": code, "message": message}

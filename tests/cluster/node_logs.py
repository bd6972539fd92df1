"""Serve the logs of a node's containers to the API server: whole or from some time on, and as they grow."""

import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from tests.cluster.containers import Container

Find = Callable[[str, str, str], Container | None]
"""A function from a namespace, a pod and a name to the container."""


class LogRequest(BaseHTTPRequestHandler):
    """Answer GET /containerLogs/NAMESPACE/POD/CONTAINER as a kubelet does."""

    protocol_version = "HTTP/1.1"
    find: Find

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  its base class's name
        """Print nothing."""

    def do_GET(self) -> None:
        """Send the lines, until the container has ended at the latest."""
        url = urlsplit(self.path)
        options = dict(parse_qsl(url.query))
        _, *names = url.path.strip("/").split("/")
        container = self.find(*names) if url.path.startswith("/containerLogs/") and len(names) == 3 else None
        if container is None:
            self._refuse(404, "no such container here")
            return
        log = container.log(previous=options.get("previous") == "true")
        if not log.exists():
            why = container.waiting["reason"]
            self._refuse(400, f'container "{names[2]}" in pod "{names[1]}" is waiting to start: {why}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send(container, log, options)
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, container: Container, log: Path, options: dict[str, str]) -> None:
        since = _since(options)
        tail = int(options["tailLines"]) if "tailLines" in options else None
        follow = options.get("follow") == "true"
        with log.open("rb") as source:
            lines = source.readlines()
            if tail is not None:
                lines = lines[-tail:] if tail else []
            while True:
                over = not container.running or container.log() != log  # before the last look
                for line in lines:
                    stamp, _, text = line.partition(b" ")
                    if since is None or datetime.fromisoformat(stamp.decode()) >= since:
                        data = line if options.get("timestamps") == "true" else text
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
                if not follow or (over and not lines):
                    return
                time.sleep(0.2)
                lines = source.readlines()

    def _refuse(self, code: int, message: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(message)))
        self.end_headers()
        self.wfile.write(message.encode())


def _since(options: dict[str, str]) -> datetime | None:
    if "sinceTime" in options:
        return datetime.fromisoformat(options["sinceTime"])
    if "sinceSeconds" in options:
        return datetime.now(UTC) - timedelta(seconds=int(options["sinceSeconds"]))
    return None


def serve_logs(port: int, certificate: Path, key: Path, find: Find) -> None:
    """Answer the API server, by HTTPS and in threads, while this process lives."""
    handler = type("Handler", (LogRequest,), {"find": staticmethod(find)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()

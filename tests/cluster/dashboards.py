"""A proxy in place of cluster DNS, by which the operator reaches the dashboard behind http://SERVICE.NAMESPACE.svc."""

import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.cluster.pod_inputs import MissingInputError

Dashboard = Callable[[str, str], int]
"""A function from a namespace and a Service to the local port of the dashboard behind it; raises MissingInputError."""

NOT_PASSED = {"proxy-connection", "connection", "accept-encoding", "host"}


class ProxyRequest(BaseHTTPRequestHandler):
    """Forward a request with its Authorization, and return the answer."""

    protocol_version = "HTTP/1.1"
    dashboard: Dashboard

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  its base class's name
        """Print nothing."""

    def forward(self) -> None:
        """Answer 502 where there is no such dashboard."""
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED}
        try:
            service, namespace = (url.hostname or "").split(".")[:2]
            connection = HTTPConnection("127.0.0.1", self.dashboard(service, namespace), timeout=30)
            connection.request(self.command, url._replace(scheme="", netloc="").geturl(), body, headers)
            answer = connection.getresponse()
            code, data, kind = answer.status, answer.read(), answer.getheader("Content-Type", "text/plain")
            connection.close()
        except (OSError, ValueError, HTTPException, MissingInputError) as error:
            code, data, kind = 502, f"{type(error).__name__}: {error}".encode(), "text/plain"
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = forward  # noqa: N815  its base class's names


def serve_dashboards(port: int, dashboard: Dashboard) -> None:
    """Answer requests in threads while this process lives."""
    handler = type("Handler", (ProxyRequest,), {"dashboard": staticmethod(dashboard)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

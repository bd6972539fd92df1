"""A small client of an API server for the harness, by the standard library and past every proxy."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The server refused a request.

    Attributes:
        code: HTTP status.
        reason: the server's own words.
    """

    def __init__(self, code: int, body: bytes) -> None:
        self.code = code
        try:
            self.reason = str(json.loads(body)["message"])
        except (ValueError, LookupError, TypeError):
            self.reason = body.decode(errors="replace")
        super().__init__(f"{code}: {self.reason}")


class ApiClient:
    """A client of one server as one user, unless a request names another one's token."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self._url, self._token = url, token
        secured = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority)))
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), secured)

    def text(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        content: str = JSON,
        seconds: float = 60.0,
    ) -> str:
        """Send a request and return the answer.

        Args:
            body: sent as JSON; a string is sent unchanged.
            seconds: longest time without an answer.

        Raises:
            ApiError: it refused.
            OSError: it did not answer.
        """
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self._token}", "Content-Type": content}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=seconds) as response:
                return str(response.read().decode(errors="replace"))
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise ApiError(refusal.code, refusal.read()) from None

    def request(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, content: str = JSON
    ) -> Any:
        """Send a request and return the object in the answer; see `text`."""
        return json.loads(self.text(method, path, body, token=token, content=content))

    def apply(self, path: str, manifest: str) -> None:
        """Create or change the objects of a YAML text as `kubectl apply --server-side` does."""
        self.text("PATCH", f"{path}?fieldManager=tests&force=true", manifest, content=APPLY)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.text("GET", path)
        except ApiError as refusal:
            if refusal.code != 404:
                raise
            return False
        return True


def read_kubeconfig(file: Path) -> ApiClient:
    """Return a client for the server and user of a kubeconfig that `ControlPlane` wrote."""
    tree = yaml.safe_load(file.read_text())
    server, user = tree["clusters"][0]["cluster"], tree["users"][0]["user"]
    return ApiClient(server["server"], Path(server["certificate-authority"]), user["token"])

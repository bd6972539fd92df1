"""The client of the API server: plain dictionaries in and out, refusals as this package's errors."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import load_incluster_config, load_kube_config

from k8s.api_paths import ApiObject
from k8s.errors import Conflict, Forbidden, KubernetesError, NotFound, Refused, Unauthorized, Unreachable

TIMEOUT_SECONDS = (5.0, 30.0)
"""Time limits of one request: to connect, and between two parts of its answer."""

TRANSIENT_STATUSES = (408, 410, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""

Query = dict[str, str | int | bool]
_ERRORS: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


class Api:
    """An API server with the credentials of the kubeconfig or, inside a pod, of its service account."""

    def __init__(self, context: str | None = None) -> None:
        """Read the credentials; send no request yet.

        Args:
            context: a context of the kubeconfig; its current one if None.

        Raises:
            KubernetesError: there are no usable credentials.
        """
        configuration = Configuration()
        configuration.retries = False
        where = os.environ.get("KUBECONFIG") or "~/.kube/config"  # may list several files, separated by colons
        is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        try:
            if context is None and is_in_pod and not Path(where).expanduser().exists():
                where = "this pod's service account"
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                load_kube_config(where, context, configuration)  # type: ignore[no-untyped-call]
            self._client = ApiClient(configuration)
        except Exception as error:  # plugins for credentials ask servers and run programs
            raise KubernetesError(
                f"{where}: no usable kubeconfig ({_reason(error)}); set KUBECONFIG to one, or pick a context with "
                f"--context"
            ) from error
        self.url: str = configuration.host

    def get(self, path: str, **query: str | int | bool) -> ApiObject:
        """Return an object, or the document of a list.

        Raises:
            NotFound, Forbidden, Refused: the server refuses.
            Unreachable: there is no answer, or one that may change soon.
        """
        return self._json("GET", path, query)

    def find(self, path: str) -> ApiObject | None:
        """Return an object, or None where there is none."""
        try:
            return self.get(path)
        except NotFound:
            return None

    def items(self, path: str, **query: str | int | bool) -> list[ApiObject]:
        """Return the objects of a list."""
        found: list[ApiObject] = self.get(path, **query).get("items") or []
        return found

    def create(self, path: str, body: ApiObject, **query: str | int | bool) -> ApiObject:
        """Create an object; fields that its kind does not know are refused, not dropped.

        Raises:
            Conflict: there is one of that name.
        """
        return self._json("POST", path, {"fieldValidation": "Strict", "fieldManager": "hidfd", **query}, body)

    def patch(self, path: str, body: ApiObject) -> ApiObject:
        """Change an object by a JSON merge patch."""
        return self._json("PATCH", path, {"fieldManager": "hidfd"}, body, "application/merge-patch+json")

    def delete(self, path: str) -> ApiObject:
        """Begin to delete an object; Kubernetes deletes what it owns after it."""
        return self._json("DELETE", path, {}, {"propagationPolicy": "Background"})

    def log(self, pod: str, container: str, since: datetime | None) -> list[tuple[str, str]]:
        """Return a container's log so far as pairs of time stamp and line.

        Args:
            pod: path of its pod.
            container: its name.
            since: leave out earlier lines, to the second.
        """
        query: Query = {"container": container, "timestamps": True}
        if since is not None:
            query["sinceTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = self._send("GET", f"{pod}/log", query).decode(errors="replace")
        parts = (line.partition(" ") for line in text.split("\n"))
        return [(stamp, line) for stamp, _, line in parts]

    def _json(
        self, method: str, path: str, query: Query, body: ApiObject | None = None, kind: str = "application/json"
    ) -> ApiObject:
        answer = self._send(method, path, query, body, kind)
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise Unreachable(f"{self.url}{path}: the answer is no JSON, so this is no API server") from error
        if not isinstance(found, dict):
            raise Unreachable(f"{self.url}{path}: the answer is no JSON object, so this is no API server")
        return found

    def _send(
        self, method: str, path: str, query: Query, body: ApiObject | None = None, kind: str = "application/json"
    ) -> bytes:
        words = [(key, str(value).lower() if isinstance(value, bool) else value) for key, value in query.items()]
        headers = {"Accept": "application/json, */*", "Content-Type": kind}
        verb, url, headers, content, _ = self._client.param_serialize(
            method, path, query_params=words, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response: Any = self._client.call_api(verb, url, headers, content, _request_timeout=TIMEOUT_SECONDS)
            answer: bytes = response.read() or b""
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise Unreachable(f"{self.url}: no answer from the API server ({_reason(error)})") from error
        if response.status < 400:
            return answer
        what, message = f"{method} {path}", _message(answer)
        if response.status in TRANSIENT_STATUSES:
            raise Unreachable(f"{what}: the API server answers {response.status}: {message}")
        raise _ERRORS.get(response.status, Refused)(response.status, message, what)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()[:500]


def _reason(error: BaseException) -> str:
    """Return the innermost cause: urllib3 wraps it in an error about the number of tries."""
    inner = getattr(error, "reason", None)
    return _reason(inner) if isinstance(inner, BaseException) else " ".join(str(error).split())


class Server(Protocol):
    """The requests that checks send; `Api` sends them to a real API server."""

    def get(self, path: str, **query: str | int | bool) -> ApiObject:
        """Return an object.

        Raises:
            NotFound, Forbidden: the server refuses.
        """

    def items(self, path: str, **query: str | int | bool) -> list[ApiObject]:
        """Return the objects of a list."""

    def create(self, path: str, body: ApiObject, **query: str | int | bool) -> ApiObject:
        """Create an object, or with `dryRun` only try whether it could be created."""

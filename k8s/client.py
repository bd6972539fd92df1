"""The one door to the API server: requests with plain dictionaries, and its answers as this package's errors."""

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
"""Of one request: to connect, and between two pieces of its answer."""

PASSING = (408, 410, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""

Query = dict[str, str | int | bool]
_KINDS: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


class Api:
    """An API server, as the kubeconfig or, inside a pod, its service account has it."""

    def __init__(self, context: str | None = None) -> None:
        """Reads the credentials; asks nothing yet.

        Args:
            context: of the kubeconfig; its current one if None.

        Raises:
            KubernetesError: there are none.
        """
        configuration = Configuration()
        configuration.retries = False
        where = os.environ.get("KUBECONFIG") or "~/.kube/config"  # several files may stand in it, with colons between
        is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        try:
            if context is None and is_in_pod and not Path(where).expanduser().exists():
                where = "this pod's service account"
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                load_kube_config(where, context, configuration)  # type: ignore[no-untyped-call]
            self._client = ApiClient(configuration)
        except Exception as error:  # what gives credentials asks servers and runs programs of its own
            raise KubernetesError(
                f"{where}: no usable kubeconfig ({_reason(error)}); set KUBECONFIG to one, or pick a context with "
                f"--context"
            ) from error
        self.url: str = configuration.host

    def get(self, path: str, **query: str | int | bool) -> ApiObject:
        """An object, or a list's document.

        Raises:
            NotFound, Forbidden, Refused: the server's answer.
            Unreachable: none, or one that may be another soon.
        """
        return self._json("GET", path, query)

    def find(self, path: str) -> ApiObject | None:
        """An object, or None where there is none."""
        try:
            return self.get(path)
        except NotFound:
            return None

    def items(self, path: str, **query: str | int | bool) -> list[ApiObject]:
        """What a list holds."""
        found: list[ApiObject] = self.get(path, **query).get("items") or []
        return found

    def create(self, path: str, body: ApiObject, **query: str | int | bool) -> ApiObject:
        """A new object; fields that its kind does not know are refused, not dropped.

        Raises:
            Conflict: there is one of that name.
        """
        return self._json("POST", path, {"fieldValidation": "Strict", "fieldManager": "hidfd", **query}, body)

    def patch(self, path: str, body: ApiObject) -> ApiObject:
        """A JSON merge patch."""
        return self._json("PATCH", path, {"fieldManager": "hidfd"}, body, "application/merge-patch+json")

    def delete(self, path: str) -> ApiObject:
        """Begins to delete an object; what it owns is collected after it."""
        return self._json("DELETE", path, {}, {"propagationPolicy": "Background"})

    def log(self, pod: str, container: str, since: datetime | None) -> list[tuple[str, str]]:
        """A container's log so far as (time stamp, line).

        Args:
            pod: its path.
            since: only what came then or later, to the second.
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
        if response.status in PASSING:
            raise Unreachable(f"{what}: the API server answers {response.status}: {message}")
        raise _KINDS.get(response.status, Refused)(response.status, message, what)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()[:500]


def _reason(error: BaseException) -> str:
    """The innermost cause: urllib3 wraps what went wrong in how often it was tried."""
    inner = getattr(error, "reason", None)
    return _reason(inner) if isinstance(inner, BaseException) else " ".join(str(error).split())


class Server(Protocol):
    """What checks ask an API server; `k8s.client.Api` answers for a real one."""

    def get(self, path: str, **query: str | int | bool) -> ApiObject:
        """An object.

        Raises:
            NotFound, Forbidden: the server's answer.
        """

    def items(self, path: str, **query: str | int | bool) -> list[ApiObject]:
        """What a list holds."""

    def create(self, path: str, body: ApiObject, **query: str | int | bool) -> ApiObject:
        """An object, or with `dryRun` the answer whether it could be."""

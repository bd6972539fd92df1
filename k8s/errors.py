"""What can go wrong with a cluster; the tree goes on from `hidfd.errors`.

    HidfdError
      KubernetesError  13  no kubeconfig, no answer, or the API server refuses; the message says which and what to do
      PreflightError   14  something is missing in the cluster, and nothing was started
      JobFailedError   15  the study's job has ended without success
      JobGoneError     16  there is no such job, or somebody deleted it meanwhile

A watcher that was stopped (Ctrl-C) ends with 130: the job goes on without it.
"""

from __future__ import annotations

from hidfd.errors import HidfdError


class KubernetesError(HidfdError):
    exit_code = 13


class Unreachable(KubernetesError):
    """No answer, or none that counts: asked again, it may come."""


class Refused(KubernetesError):
    """The API server's own answer.

    Attributes:
        status: of HTTP.
        message: the server's.
    """

    def __init__(self, status: int, message: str, what: str) -> None:
        super().__init__(f"{what}: the API server answers {status}: {message}")
        self.status = status
        self.message = message


class NotFound(Refused):
    """404."""


class Forbidden(Refused):
    """403."""


class Unauthorized(Refused):
    """401: it does not know who asks; the credentials are wrong or have expired."""


class Conflict(Refused):
    """409: it is there already, or has changed meanwhile."""


class PreflightError(HidfdError):
    exit_code = 14


class JobFailedError(HidfdError):
    exit_code = 15


class JobGoneError(HidfdError):
    exit_code = 16

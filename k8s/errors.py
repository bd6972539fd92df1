"""The errors of clusters; the tree goes on from `hidfd.errors`.

    HidfdError
      KubernetesError  13  no kubeconfig, no answer, or the API server refuses; the message says which and what to do
      PreflightError   14  something is missing in the cluster, and nothing was started
      JobFailedError   15  the study's job has ended without success
      JobGoneError     16  there is no such job, or somebody deleted it meanwhile

A `watch` that is stopped by Ctrl-C ends with 130: the job goes on without it.
"""

from __future__ import annotations

from hidfd.errors import HidfdError


class KubernetesError(HidfdError):
    """The cluster cannot be reached, or refuses."""

    exit_code = 13


class Unreachable(KubernetesError):
    """The API server gives no answer, or one that may change when it is asked again."""


class Refused(KubernetesError):
    """The API server refuses a request.

    Attributes:
        status: HTTP status.
        message: the server's own words.
    """

    def __init__(self, status: int, message: str, what: str) -> None:
        super().__init__(f"{what}: the API server answers {status}: {message}")
        self.status = status
        self.message = message


class NotFound(Refused):
    """404: there is no such object, or no such kind."""


class Forbidden(Refused):
    """403: this user may not do it, or an admission check refuses it."""


class Unauthorized(Refused):
    """401: the credentials are wrong or have expired."""


class Conflict(Refused):
    """409: the object exists already, or has changed meanwhile."""


class PreflightError(HidfdError):
    """A check before a submission has failed."""

    exit_code = 14


class JobFailedError(HidfdError):
    """The study's job has ended without success."""

    exit_code = 15


class JobGoneError(HidfdError):
    """The study's job does not exist, or not any more."""

    exit_code = 16

"""The findings of preflight checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from k8s.client import Server
from k8s.errors import Forbidden, Refused, Unauthorized, Unreachable
from k8s.request import Request


class CheckStatus(StrEnum):
    """Whether the study may start: PASS and WARN let it, FAIL does not."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """The finding of one check.

    Attributes:
        name: name of the check.
        status: whether the study may start.
        found: what the cluster has, in words.
        todo: what to do about it; None where nothing needs doing.
    """

    name: str
    status: CheckStatus
    found: str
    todo: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as `preflight --json` prints it."""
        return {
            "name": JSON_NAMES.get(self.name, self.name),
            "verdict": self.status,
            "found": self.found,
            "todo": self.todo,
        }


JSON_NAMES = {"a task": "a piece of work", "task": "pieces of work"}
"""Names of checks whose JSON keeps an older word, because programs read it."""

CheckFunction = Callable[[Request, Server], Iterator[Check]]
"""A check of a request against a server, which may have several findings."""


def passed(name: str, found: str) -> Check:
    """Return a finding that nothing needs doing about."""
    return Check(name, CheckStatus.PASS, found)


def warned(name: str, found: str, todo: str | None = None) -> Check:
    """Return a finding that may become a failure, or that something could not be checked."""
    return Check(name, CheckStatus.WARN, found, todo)


def failed(name: str, found: str, todo: str) -> Check:
    """Return a finding with which the study would fail."""
    return Check(name, CheckStatus.FAIL, found, todo)


def unknown(name: str, error: Refused | Unreachable) -> Check:
    """Return a warning that something could not be checked: the pods may be allowed more than their user.

    Raises:
        Unauthorized: the credentials are no longer accepted, so that no other check would be answered.
    """
    if isinstance(error, Unauthorized):
        raise error
    if isinstance(error, Forbidden):
        return warned(name, f"may not be read ({error.message})")
    return warned(name, f"could not be read: {error}")


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run one check of several, so that a refused request prevents none of the others."""
    try:
        return check()
    except (Refused, Unreachable) as error:
        return unknown(name, error)

"""What a preflight check says, and what it may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from k8s.client import Server
from k8s.errors import Forbidden, Refused, Unauthorized, Unreachable
from k8s.request import Request


class CheckStatus(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: of the check.
        status: whether the study may start.
        found: what there is, in words.
        todo: what to do about it; None where nothing needs doing.
    """

    name: str
    status: CheckStatus
    found: str
    todo: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as `preflight --json` prints it."""
        return {"name": self.name, "verdict": self.status, "found": self.found, "todo": self.todo}


Checks = Callable[[Request, Server], Iterator[Check]]


def passed(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, CheckStatus.PASS, found)


def warned(name: str, found: str, todo: str | None = None) -> Check:
    """It may go wrong, or could not be looked at."""
    return Check(name, CheckStatus.WARN, found, todo)


def failed(name: str, found: str, todo: str) -> Check:
    """It would go wrong."""
    return Check(name, CheckStatus.FAIL, found, todo)


def unknown(name: str, error: Refused | Unreachable) -> Check:
    """It could not be looked at, which is no reason to stop: the pods may be allowed more than their user.

    Raises:
        Unauthorized: nothing else would be answered either.
    """
    if isinstance(error, Unauthorized):
        raise error
    if isinstance(error, Forbidden):
        return warned(name, f"may not be looked at ({error.message})")
    return warned(name, f"could not be looked at: {error}")


def looked_at(name: str, look: Callable[[], Check]) -> Check:
    """One finding of several: what keeps it from being made keeps off none of the others."""
    try:
        return look()
    except (Refused, Unreachable) as error:
        return unknown(name, error)

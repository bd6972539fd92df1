"""The rows of a ledger, read as data from outside: what this program would not write is a `LedgerError`.

Others can write into a ledger's database too, and a disk can damage it. A label names a folder of results, so one that
leads elsewhere would let a page be written anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.trial import FrozenTrial
from pydantic import TypeAdapter, ValidationError

from hidfd.errors import HidfdError
from tune.errors import LedgerError
from tune.study.asha import Decision
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import Attempt, Outcome, Task

KEY = re.compile(r"[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f]{16}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")

_ATTEMPT, _OUTCOME, _SEARCH_TRIAL = TypeAdapter(Attempt), TypeAdapter(Outcome), TypeAdapter(SearchTrial)


@contextmanager
def reading_row(what: str) -> Iterator[None]:
    """Raise whatever fails while a row is read as a `LedgerError` that names the row."""
    try:
        yield
    except HidfdError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(
            f"the ledger's {what} is not what this program writes there ({_in_words(error)}); restore the ledger from "
            f"a copy, use the version that made it, or give the study another `name:`: artifacts are found again"
        ) from error


def search_trial_of(number: int, trial: FrozenTrial) -> SearchTrial:
    """Return the search trial that a row describes.

    Raises:
        LedgerError: it describes none.
    """
    attributes = trial.user_attrs
    with reading_row(f"trial {number}"):
        outcome = attributes.get("outcome", {})
        found = _SEARCH_TRIAL.validate_python(
            {
                "number": number,
                "params": dict(trial.params),
                "group": attributes["group"],
                "why": attributes.get("why", ""),
                "point": attributes.get("point"),
                "retries": attributes.get("retries"),
                "task_keys": tuple(attributes.get("work", ())),
                "rungs": {int(k): Decision.from_json(v) for k, v in attributes.get("rungs", {}).items()},
                "state": TaskState(outcome.get("state", TaskState.WAITING)),
                "reason": outcome.get("reason"),
                "value": outcome.get("value"),
                "further": outcome.get("further", {}),
                "violation": outcome.get("violation", 0.0),
            }
        )
        if not 0 <= found.group <= number:
            raise ValueError(f"group: {found.group}")
        if found.state is TaskState.COMPLETE and found.value is None:
            raise ValueError("complete, but without a value")
    return found


def task_of(number: int, trial: FrozenTrial, known: Collection[str]) -> Task:
    """Return the task that a row describes.

    Args:
        number: of the task.
        trial: the row.
        known: keys of the tasks before it, among which are those that it needs.

    Raises:
        LedgerError: it describes none.
    """
    attributes = trial.user_attrs
    with reading_row(f"task {number}"):
        record = attributes["work"]
        _check(record["label"], LABEL, "label")
        _check(record["key"], KEY, "key")
        unknown = [need for need in record["needs"] if need not in known]
        if unknown:
            raise ValueError(f"needs: no task before it has the key {unknown[0]!r}")
        attempts: list[Attempt] = []
        while (attempt := attributes.get(f"attempt/{len(attempts)}")) is not None:
            attempts.append(_ATTEMPT.validate_python(attempt))
        if record["outcome"]:
            _OUTCOME.validate_python(record["outcome"])
        try:
            return Task.restore(number, record, attempts)
        except ValidationError as error:
            raise LedgerError(
                f"the ledger's {record['label']!r} has settings that this version does not know ({_in_words(error)}); "
                f"use the version that made it, or give the study another `name:`: artifacts are found again"
            ) from error


def _check(text: Any, pattern: re.Pattern[str], name: str) -> None:
    if not (isinstance(text, str) and pattern.fullmatch(text)):
        raise ValueError(f"{name}: {str(text)[:80]!r}, expected {pattern.pattern}")


def mapping_of(attributes: Mapping[str, Any], name: str, keys: Collection[str]) -> dict[str, Any] | None:
    """Return an attribute of a ledger's study that is a mapping with these keys; None if it is not there.

    Raises:
        LedgerError: it is something else.
    """
    if name not in attributes:
        return None
    found = attributes[name]
    if not isinstance(found, dict) or not found.keys() >= set(keys):
        with reading_row(f"attribute {name!r}"):
            raise ValueError(f"expected a mapping with {', '.join(keys)}")
    return found


def id_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the id of a ledger from the attributes of its study of tasks; None if an older version made it.

    Raises:
        LedgerError: it is no id.
    """
    known = attributes.get("id")
    if known is not None:
        with reading_row("attribute 'id'"):
            _check(known, ID, "id")
    return known


def _in_words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error).partition("\n")[0]

"""The page over a results folder: every study and trial whose page lies there, with its state and best value."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hidfd.formatting import NONE
from hidfd.report.html import render, write_page
from hidfd.report.links import INDEX, REPORT, Link, about, link_to, navigation_element
from hidfd.store.disk import store_errors

MAX_TRIES = 10
"""How often the page is written anew while others write theirs."""

NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a results folder in which only the folders of studies may be written."""


@dataclass(frozen=True)
class Entry:
    """A study or a trial of the results folder.

    Attributes:
        kind: study or trial.
        link: to its page.
        state, best: in words.
        when: when it last did something, seconds since 1970.
    """

    kind: str
    link: Link
    state: str
    best: str
    when: float

    @property
    def date(self) -> str:
        """When it last did something, to the minute."""
        return f"{datetime.fromtimestamp(self.when, UTC):%Y-%m-%d %H:%M} UTC"


def write_index(results: Path) -> Path | None:
    """Write `index.html` into a results folder; a page of that name that somebody else made is left alone.

    Whoever writes it reads the folder once more afterwards, and writes again if a page has appeared meanwhile. So
    studies that end together need no lock, and the last one to write has seen the pages of all.

    Args:
        results: folder with a folder for each study or trial; its path is not in the page.

    Returns:
        The path of the page; None where it may not be written.

    Raises:
        StoreError: it cannot be written, as the disk is full.
    """
    page = results / INDEX
    if os.path.lexists(page) and (about(page) or {}).get("page") != "index":
        return None
    with store_errors("writing the page over all results into", results):
        written = None
        for _ in range(MAX_TRIES):
            html = _index_of(results)
            if html == written:
                break
            try:
                write_page(page, html)
            except OSError as error:
                if error.errno in NOT_OURS:
                    return None
                raise
            written = html
    return page


def entries_of(results: Path) -> list[Entry]:
    """Return the studies and trials of a results folder, the newest first; what is none of them is passed over.

    The trials of a study are on its own page, so here are only those of studies that have none (yet), and single ones.
    """
    found = []
    for folder in _folders(results):
        study = _entry(folder / REPORT, results)
        found += [] if study is None else [study]
        for inner in _folders(folder):
            is_single = study is None or study.kind != "study" or _is_digest(inner.name)
            trial = _entry(inner / REPORT, results) if is_single else None
            found += [] if trial is None or trial.kind != "trial" else [trial]
    return sorted(found, key=lambda entry: (-entry.when, entry.link.text))


def _index_of(results: Path) -> str:
    return render(
        "hidfd/report/index.html",
        about={"page": "index", "name": "results"},
        navigation=navigation_element([]),
        entries=entries_of(results),
    )


def _entry(page: Path, results: Path) -> Entry | None:
    said = about(page)
    if said is None or said["page"] not in ("study", "trial"):
        return None
    try:
        when = _moment(said.get("when")) or page.stat().st_mtime
    except OSError:  # it is gone
        return None
    name = page.parent.relative_to(results).as_posix()
    text = name if said["page"] == "trial" or said["name"] == name else f"{said['name']} ({name})"
    return Entry(said["page"], link_to(text, page, results), _words(said.get("state")), _words(said.get("best")), when)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder, in the order of their names; none of one that cannot be read."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return
    yield from found


def _is_digest(name: str) -> bool:
    """Whether a folder is that of a single trial, `trial-<8 hex digits>`, which is no trial of a study."""
    digits = name.removeprefix("trial-")
    return len(digits) == 8 and digits != name and all(digit in "0123456789abcdef" for digit in digits)


def _words(said: Any) -> str:
    return said if isinstance(said, str) and said else NONE


def _moment(said: Any) -> float | None:
    """Return a time, given as seconds since 1970 or in ISO 8601; None of anything else."""
    try:
        moment = datetime.fromisoformat(said).timestamp() if isinstance(said, str) else float(said)
        datetime.fromtimestamp(moment, UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return moment if math.isfinite(moment) else None

"""Links between the pages of a results folder: relative, escaped, and only to pages that exist.

A page says what it is in a `meta` element, by which other pages name it. Its links to them are in one `nav` element,
which is written anew whenever one of them appears. So a results folder can be moved or copied, and a file of somebody
else's is neither linked nor touched.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from hidfd.report.html import write_page
from hidfd.store.disk import DAMAGE, store_errors

REPORT, FIGURES, INDEX = "report.html", "figures.html", "index.html"
"""Names of a trial's or a study's page, of a study's figures, and of the page over all results."""

HEAD_BYTES = 65_536
"""Size of the beginning of a page, in which its `meta` and `nav` elements are."""

MAX_NAME_CHARACTERS = 60
"""Length of a study's name in a link; a longer one is cut."""

_META = re.compile(rb'<meta name="hidfd" content="([^"]*)">')
_TITLE = re.compile(rb"<title>(.*) \xc2\xb7 (?:HiDFD (study|trial)|(figures))</title>")
_NAVIGATION = re.compile(rb'<nav class="pages">.*?</nav>', re.DOTALL)
_AFTER_BODY = re.compile(rb"(?<=<body>)")


@dataclass(frozen=True)
class Link:
    """A link to another page.

    Attributes:
        text: the words shown.
        target: escaped path relative to this page; None if that page does not exist (yet).
    """

    text: str
    target: str | None

    def __html__(self) -> str:
        """Return the link as HTML, or its words alone where it leads nowhere."""
        if self.target is None:
            return str(Markup("{}").format(self.text))
        return str(Markup('<a href="{}">{}</a>').format(self.target, self.text))


def link_to(text: str, page: Path, folder: Path) -> Link:
    """Return a link from a page in `folder` to another page; without a target where that is no file."""
    if not page.is_file():
        return Link(text, None)
    # `:` is escaped as well, or the text before it would be a scheme.
    return Link(text, quote(os.fsencode(os.path.relpath(page, folder)), safe="/"))


def about(page: Path) -> dict[str, Any] | None:
    """Return what a page says of itself; None for what is no page of this project, or cannot be read.

    Returns:
        `page`: trial, study, figures or index; `name`; and what else it was written with.
    """
    head = _head(page)
    try:
        if (said := _META.search(head)) is not None:
            found = json.loads(html.unescape(said[1].decode()))
            return found if isinstance(found["page"], str) and isinstance(found["name"], str) else None
        if (title := _TITLE.search(head)) is not None:  # a page of before
            kind = (title[2] or title[3]).decode()
            return {"page": kind, "name": html.unescape(title[1].decode())}
    except DAMAGE:
        return None
    return None


def navigation_of(kind: str, folder: Path) -> list[Link]:
    """Return the links of a page to those above and beside it: all results, its study, the figures of the search.

    Args:
        kind: trial, study or figures.
        folder: of the page, which need not exist yet.
    """
    study = folder.parent if kind == "trial" else folder
    links = [_to_kind("index", "All results", study.parent / INDEX, folder)]
    if kind != "study":
        links.append(_to_kind("study", "Study {}", study / REPORT, folder))
    if kind != "figures":
        links.append(_to_kind("figures", "Figures of the search", study / FIGURES, folder))
    return [link for link in links if link is not None]


def renew_navigation(pages: Iterable[Path]) -> None:
    """Write the links of pages anew where they are no longer right; what is no page of this project stays as it is.

    Raises:
        StoreError: a page cannot be written.
    """
    for page in pages:
        said = about(page)
        if said is None or said["page"] not in ("trial", "study", "figures"):
            continue
        links = str(navigation_element(navigation_of(said["page"], page.parent))).encode()
        if (found := _NAVIGATION.search(_head(page))) is not None and found[0] == links:
            continue
        with store_errors("writing links into", page):
            changed, whole = page.stat(), page.read_bytes()
            place = _NAVIGATION.search(whole, 0, HEAD_BYTES) or _AFTER_BODY.search(whole, 0, HEAD_BYTES)
            if place is not None:
                write_page(page, whole[: place.start()] + links + whole[place.end() :])
                os.utime(page, ns=(changed.st_atime_ns, changed.st_mtime_ns))  # its numbers are no newer than before


def navigation_element(links: Iterable[Link]) -> Markup:
    """Return the `nav` element of a page."""
    return Markup('<nav class="pages">{}</nav>').format(Markup(" · ").join(links))


def _to_kind(kind: str, text: str, page: Path, folder: Path) -> Link | None:
    said = about(page)
    if said is None or said["page"] != kind:
        return None
    name = said["name"]
    short = name if len(name) <= MAX_NAME_CHARACTERS else f"{name[: MAX_NAME_CHARACTERS - 1]}…"
    return link_to(text.format(short), page, folder)


def _head(page: Path) -> bytes:
    """Return the beginning of a file; nothing of what is no regular file (a pipe would not end), or cannot be read."""
    try:
        if not page.is_file():
            return b""
        with page.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""

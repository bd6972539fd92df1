"""The verdict on a terminal: what was won, lost or left undecided, each in its colour."""

from __future__ import annotations

from rich.text import Text

from tune.study.snapshot import StudySnapshot
from tune.study.states import Standing
from tune.study.verdict import parts_of

STYLES: dict[Standing, str] = {"won": "green", "lost": "bold red", "undecided": "yellow", "open": "yellow"}
"""Standing of the best finalist beside another row -> the style of the words that say so."""


def verdict_text(snapshot: StudySnapshot) -> Text | None:
    """Return the verdict in colours; None until there is one."""
    if snapshot.verdict is None:
        return None
    pieces = parts_of(snapshot.verdict, snapshot.gains)
    return Text.assemble("verdict: ", *((words, STYLES[how]) if how is not None else words for words, how in pieces))

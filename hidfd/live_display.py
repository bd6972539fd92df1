"""A table at the foot of a terminal, drawn anew while lines scroll past above it."""

from __future__ import annotations

from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

REDRAWS_PER_SECOND = 4


class LiveDisplay:
    """The base of displays that have such a table on a terminal and print plain lines elsewhere; used by `with`.

    Args:
        console: lines and table go there.
        is_live: whether to draw the table, as on a terminal.
    """

    def __init__(self, console: Console, *, is_live: bool) -> None:
        self._console = console
        self._live: Live | None = None
        if is_live:
            self._live = Live(console=console, refresh_per_second=REDRAWS_PER_SECOND, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether the table is drawn."""
        return self._live is not None

    def draw(self, table: RenderableType) -> None:
        """Replace the table; do nothing where none is drawn."""
        if self._live is not None:
            self._live.update(table)

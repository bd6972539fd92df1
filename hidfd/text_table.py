"""A table of words that keeps them whole: what does not fit beside the rest moves to a second line below its row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = 2
"""Spaces between two columns."""

INDENT = 4
"""Spaces before a second line."""

LEAST_WRAPPED = 18
"""Least width of a column whose cells are wrapped; with less, they are easier to read in a second line."""


@dataclass(frozen=True)
class TextColumn:
    """A column.

    Attributes:
        heading: shown above it, and before its values in a second line.
        rank: 0 = it stays in the row however narrow the screen is; of the others, the highest leaves first, of equal
            ones the last.
        is_right: whether its cells end at one edge, as numbers do.
        says_all: whether its values need no heading in a second line.
        wraps: whether its cells are wrapped, at spaces, in what the other columns leave; at most one does.
    """

    heading: str
    rank: int = 0
    is_right: bool = False
    says_all: bool = False
    wraps: bool = False


class TextTable:
    """A table that is laid out when it is printed, for the width of the screen.

    First headings are wrapped, at spaces; then columns leave for a second line. No word is broken: one that is longer
    than the screen is left to the terminal, so that it can be copied whole.

    Args:
        columns: from left to right.
        title: printed above.
        has_rule: whether a line parts the headings from the rows.
        has_headings: whether headings are printed.
    """

    def __init__(
        self, columns: Sequence[TextColumn], *, title: str = "", has_rule: bool = True, has_headings: bool = True
    ) -> None:
        self.columns, self.title = tuple(columns), title
        self._has_rule, self._has_headings = has_rule, has_headings
        self._rows: list[tuple[tuple[str, ...], str]] = []

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row, with a text for each column; further lines of a text are paragraphs."""
        assert len(cells) == len(self.columns)
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line, style in self._lines(options.max_width):
            yield Text(line, style=style, no_wrap=True, overflow="ignore")

    def _lines(self, width: int) -> Iterator[tuple[str, str]]:
        if self.title:
            yield from ((line, "bold") for line in _wrapped(self.title, width))
        kept, headings = list(range(len(self.columns))), [[column.heading] for column in self.columns]
        if self._width(kept, headings) > width:
            words = [column.heading.split() for column in self.columns]
            headings = [_wrapped(c.heading, self._column_width(n, words[n])) for n, c in enumerate(self.columns)]
        while self._width(kept, headings) > width and (leaves := [n for n in kept if self.columns[n].rank]):
            kept.remove(max(leaves, key=lambda n: (self.columns[n].rank, n)))
        widths = {n: self._column_width(n, headings[n]) for n in kept}
        for wrapped in (n for n in kept if self.columns[n].wraps):
            others = sum(widths[n] + GAP for n in kept if n != wrapped)
            widths[wrapped] = min(widths[wrapped], max(width - others, LEAST_WRAPPED))
        if self._has_headings:
            yield from ((line, "bold") for line in self._lines_of({n: headings[n] for n in kept}, widths))
        if self._has_rule:
            yield "─" * min(width, sum(widths.values()) + GAP * (len(kept) - 1)), ""
        for row, style in self._rows:
            yield from ((line, style) for line in self._row(row, kept, widths, width))

    def _row(self, row: tuple[str, ...], kept: list[int], widths: dict[int, int], width: int) -> Iterator[str]:
        cells = {n: row[n].split("\n") for n in kept}
        moved_here = {n for n in range(len(row)) if n not in kept}
        for n in (n for n in kept if self.columns[n].wraps):
            cells[n] = [line for text in cells[n] for line in _wrapped(text, widths[n]) or [""]]
            if any(cell_len(line) > widths[n] for line in cells[n]):  # a word that is longer than its column
                cells[n] = [""]
                moved_here.add(n)
        yield from self._lines_of(cells, widths)
        moved = [(column, row[n]) for n, column in enumerate(self.columns) if n in moved_here and row[n]]
        words = [value if column.says_all else f"{column.heading} {value}".strip() for column, value in moved]
        for paragraph in ", ".join(words).split("\n"):
            yield from (" " * INDENT + line for line in _wrapped(paragraph, width - INDENT))

    def _width(self, kept: list[int], headings: list[list[str]]) -> int:
        return sum(self._least_width(n, headings[n]) for n in kept) + GAP * (len(kept) - 1)

    def _least_width(self, number: int, heading: list[str]) -> int:
        """Return the width without which a column does not fit."""
        natural = self._column_width(number, heading)
        return min(natural, LEAST_WRAPPED) if self.columns[number].wraps else natural

    def _column_width(self, number: int, heading: list[str]) -> int:
        cells = [line for row, _ in self._rows for line in row[number].split("\n")]
        return max(map(cell_len, (*(heading if self._has_headings else ()), *cells)), default=0)

    def _lines_of(self, cells: dict[int, list[str]], widths: dict[int, int]) -> Iterator[str]:
        """Yield the lines of cells that stand beside each other."""
        for number in range(max(map(len, cells.values()), default=0)):
            line = {n: lines[number] if number < len(lines) else "" for n, lines in cells.items()}
            yield self._line(line, widths)

    def _line(self, cells: dict[int, str], widths: dict[int, int]) -> str:
        parts = []
        for n, text in cells.items():
            space = " " * (widths[n] - cell_len(text))
            parts.append(space + text if self.columns[n].is_right else text + space)
        return (" " * GAP).join(parts).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False)

"""Write the table in charts/hidfd/README.md from the comments in values.yaml: `python charts/readme.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHART = Path(__file__).parent / "hidfd"

BEGIN, END = "<!-- values: python charts/readme.py -->\n", "<!-- end of values -->\n"

_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9]+):(?: (?P<value>.+))?")


class Line(NamedTuple):
    """A value of the chart with its comment.

    Attributes:
        path: its keys, joined by dots.
        default: as values.yaml writes it, on one line.
        comment: empty if there is none.
    """

    path: str
    default: str
    comment: str


def lines(text: str) -> Iterator[Line]:
    """Yield the values of a values.yaml that have no keys below them, in its order.

    Args:
        text: in block style, two spaces a level. A list of more than one line becomes "see values.yaml" in the table.
    """
    path: list[str] = []
    comment: list[str] = []
    rows = text.splitlines()
    for number, row in enumerate(rows):
        key = _KEY.fullmatch(row)
        if row.lstrip().startswith("#"):
            comment.append(row.lstrip(" #"))
        elif key is None:
            comment = []
        else:
            path = [*path[: len(key["indent"]) // 2], key["key"]]
            below = rows[number + 1] if number + 1 < len(rows) else ""
            if key["value"] is not None or below.lstrip().startswith("- "):
                yield Line(".".join(path), key["value"] or "see values.yaml", " ".join(comment))
            comment = []


def table(text: str) -> str:
    """Return the values as a table in Markdown."""
    head = "| value | default | what it is |\n|---|---|---|\n"
    return head + "".join(f"| `{line.path}` | {_code(line.default)} | {line.comment} |\n" for line in lines(text))


def with_table(readme: str, values: str) -> str:
    """Return the README with a new table of values."""
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}{table(values)}{END}{after}"


def _code(default: str) -> str:
    return default if default.startswith("see ") else f"`{default}`"


if __name__ == "__main__":
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))

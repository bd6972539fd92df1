"""The record of a run: sections with tables, written as Markdown and JSON after every row.

So a run that is cut off leaves what it had. The parts of a run are processes of their own, one after the other: each
opens the record that the last one has left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hidfd.formatting import NONE


class Record:
    """The sections of a run.

    Args:
        path: of both files, without a suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._json = path.with_name(f"{path.name}.json")
        self.content: dict[str, Any] = {"title": "", "facts": {}, "sections": []}
        if self._json.exists():
            self.content = json.loads(self._json.read_text())

    def begin(self, title: str, facts: Mapping[str, Any]) -> None:
        """Begin a new record under this title, with facts that hold for all of it."""
        self.content = {"title": title, "facts": dict(facts), "sections": []}
        self.write()

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add facts that hold for the whole run."""
        self.content["facts"] |= facts
        for name, fact in facts.items():
            print(f"{name}: {fact}", flush=True)
        self.write()

    def section(self, title: str, text: str = "") -> Section:
        """Open a section: the one of this title, or a new one at the end."""
        known = [section for section in self.content["sections"] if section["title"] == title]
        if not known:
            known = [{"title": title, "text": text, "columns": [], "rows": [], "notes": []}]
            self.content["sections"] += known
            print(f"\n{title}", flush=True)
            self.write()
        return Section(self, known[0])

    def rows(self, title: str) -> list[dict[str, Any]]:
        """Return the rows of a section of this record; empty where it has none."""
        found = [section["rows"] for section in self.content["sections"] if section["title"] == title]
        return list(found[0]) if found else []

    def write(self) -> None:
        """Write both files, each in one go."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in (("json", json.dumps(self.content, indent=1) + "\n"), ("md", self.markdown())):
            part = self.path.with_name(f"{self.path.name}.{suffix}.part")
            part.write_text(text)
            part.replace(self.path.with_name(f"{self.path.name}.{suffix}"))

    def markdown(self) -> str:
        """Return the whole record as Markdown."""
        lines = [f"# {self.content['title']}"]
        lines += [f"* **{name}**: {fact}" for name, fact in self.content["facts"].items()]
        for section in self.content["sections"]:
            lines += ["", f"## {section['title']}"]
            lines += [section["text"], ""] if section["text"] else [""]
            if section["rows"]:
                lines += _table(section["columns"], section["rows"])
            if section["rows"] and section["notes"]:
                lines.append("")
            lines += [f"* {note}" for note in section["notes"]]
        return "\n".join(lines) + "\n"


class Section:
    """A section of a record: one table, and notes below it."""

    def __init__(self, record: Record, content: dict[str, Any]) -> None:
        self._record, self._content = record, content

    def row(self, cells: Mapping[str, Any]) -> None:
        """Add a row: name of a column -> text, whole number, float, or None."""
        self._content["columns"] += [name for name in cells if name not in self._content["columns"]]
        self._content["rows"].append(dict(cells))
        print("  " + ", ".join(f"{name} {_shown(value)}" for name, value in cells.items()), flush=True)
        self._record.write()

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rows, in silence."""
        self._content["rows"] = [dict(cells) for cells in rows]
        self._content["columns"] = list(rows[0]) if rows else []
        self._record.write()

    def note(self, text: str) -> None:
        """Add a sentence below the table."""
        self._content["notes"].append(text)
        print(f"  {text}", flush=True)
        self._record.write()


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    numeric = {name: not any(isinstance(row.get(name), str) for row in rows) for name in columns}
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join('---:' if numeric[name] else '---' for name in columns)}|"]
    lines += [f"| {' | '.join(_shown(row.get(name)) for name in columns)} |" for row in rows]
    return lines


def _shown(value: Any) -> str:
    """Return a cell as people read it: three significant digits, or a whole number with its thousands grouped."""
    match value:
        case None:
            return NONE
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 100 or value.is_integer() else f"{value:#.3g}".rstrip(".")
        case _:
            return str(value)

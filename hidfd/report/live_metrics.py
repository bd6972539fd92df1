"""`metrics.jsonl` in a trial's folder while the trial trains; in the end `hidfd.report.folder` writes it anew."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import ForwardingObserver, Observer, Row
from hidfd.store.disk import DAMAGE, store_errors

METRICS = "metrics.jsonl"


class LiveMetrics(ForwardingObserver):
    """An observer that adds each row of a training to `metrics.jsonl` as soon as it is measured.

    Rows that a killed attempt left behind its last checkpoint are taken out when the training goes on.

    Args:
        inner: the observer that is told all the same.
        folder: of the trial.
    """

    def __init__(self, inner: Observer, folder: Path) -> None:
        super().__init__(inner)
        self._path = folder / METRICS

    def training_began(self, stage: Stage, rows: Sequence[Row]) -> None:
        with store_errors("writing", self._path):
            others = [row for row in readable_rows(self._path) if row.get("stage") != stage.role]
            part = self._path.with_name(f".{METRICS}.part")
            part.write_text("".join(map(_line, [*others, *_named(stage, rows)])), encoding="utf-8")
            part.replace(self._path)
        super().training_began(stage, rows)

    def logged(self, stage: Stage, row: Row) -> None:
        with store_errors("writing", self._path), self._path.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, _named(stage, [row])))
        super().logged(stage, row)


def readable_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`, none where it does not exist; a line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        with suppress(*DAMAGE):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _named(stage: Stage, rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [{"stage": stage.role, **row} for row in rows]


def _line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON, in which a number that is not finite is null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return json.dumps(plain) + "\n"

"""Rows of metrics that tasks tell while they run, in memory until MLflow has them."""

from __future__ import annotations

from collections.abc import Iterable

from hidfd.pipeline.observer import Row
from tune.study.messages import MAX_ROWS


class ToldRows:
    """The rows of running tasks that MLflow does not have yet, after the last one that it has: a speed needs two."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._num_written: dict[str, int] = {}

    def add(self, key: str, rows: Iterable[Row]) -> None:
        """Take in new rows of a task; of more than `MAX_ROWS` the oldest come at the end, from the task's folder."""
        kept = self._rows.setdefault(key, [])
        kept.extend(rows)
        if len(kept) > MAX_ROWS:
            del kept[:-MAX_ROWS]
            self._num_written[key] = 0

    def of(self, key: str) -> list[Row]:
        """Return the rows of a task, oldest first."""
        return self._rows.get(key, [])

    def num_written(self, key: str) -> int:
        """Return how many of these rows MLflow has: none, or the first."""
        return self._num_written.get(key, 0)

    def mark_written(self, key: str) -> None:
        """Note that MLflow has all rows of a task."""
        self._rows[key] = self.of(key)[-1:]
        self._num_written[key] = len(self._rows[key])

    def drop(self, key: str) -> None:
        """Forget the rows of a task that has ended."""
        self._rows.pop(key, None)
        self._num_written.pop(key, None)

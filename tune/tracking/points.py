"""Points of metrics in MLflow: each step of a metric is written once, with the time at which it was measured."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

BATCH_METRICS = 900
"""Metrics to write in one call, of which MLflow takes at most 1,000."""


class Point(NamedTuple):
    """A value of a metric.

    Attributes:
        step: images seen, or whatever else its metric counts.
        value: any finite number.
        unix_time: when it was measured, in seconds since 1970.
    """

    step: int
    value: float
    unix_time: float


Series = dict[str, list[Point]]
"""Name of a metric -> its points in order of their steps."""


class PointWriter:
    """The points of a study's runs, as far as MLflow has them.

    What MLflow had before is asked for once, for each metric to which something is to be added.

    Args:
        client: of MLflow.
        named: id of a run -> names of the metrics that it had before; other runs have none.
    """

    def __init__(self, client: MlflowClient, named: Mapping[str, Collection[str]]) -> None:
        self._client = client
        self._named = {run: set(names) for run, names in named.items()}
        self._points: dict[str, dict[str, list[Point]]] = {}

    def write(self, run: str, series: Series, *, updates: bool = False) -> None:
        """Add points to a run. A step that is there is left as it is, so a point that is given twice is there once.

        A time that does not lie between those of the points before and after is moved there: an attempt that goes on
        from a checkpoint measures again, and later, what the one before has told in part.

        Args:
            run: id of the run.
            series: new points, and as many old ones as one likes.
            updates: whether another value at a step that is there is written too; MLflow then shows the later one.
        """
        from mlflow.entities import Metric

        new: list[Metric] = []
        for name, points in series.items():
            known = self._known(run, name)
            for point in points:
                fitted = _fitted(point, known, updates=updates)
                if fitted is not None:
                    place = bisect_left(known, (fitted.step, fitted.unix_time), key=lambda p: (p.step, p.unix_time))
                    known.insert(place, fitted)
                    new.append(Metric(name, fitted.value, round(1000 * fitted.unix_time), fitted.step))
        try:
            for start in range(0, len(new), BATCH_METRICS):
                self._client.log_batch(run, metrics=new[start : start + BATCH_METRICS])
        except Exception:
            self.forget(run)  # whether they were written is asked for the next time
            raise

    def forget(self, run: str) -> None:
        """Drop what is known of a run that has ended; it is asked for again should more come."""
        self._named.setdefault(run, set()).update(self._points.pop(run, {}))

    def _known(self, run: str, name: str) -> list[Point]:
        """Return the points that a metric of a run has in MLflow, in order of their steps."""
        of_run = self._points.setdefault(run, {})
        if name not in of_run:
            found: list[Metric] = []
            if name in self._named.get(run, ()):
                found = self._client.get_metric_history(run, name)
            points = [Point(metric.step, metric.value, metric.timestamp / 1000) for metric in found]
            of_run[name] = sorted(points, key=lambda point: (point.step, point.unix_time))
        return of_run[name]


def _fitted(point: Point, known: list[Point], *, updates: bool) -> Point | None:
    """Return a point with a time that fits those known, or None where its step is known already."""
    place = bisect_left(known, point.step, key=attrgetter("step"))
    end = bisect_left(known, point.step + 1, lo=place, key=attrgetter("step"))
    if place < end and not (updates and known[end - 1].value != point.value):
        return None
    earliest = known[end - 1].unix_time + (0.001 if place < end else 0.0) if end else 0.0
    latest = known[end].unix_time if end < len(known) else float("inf")
    return point._replace(unix_time=max(min(point.unix_time, latest), earliest))

"""Real students as a landscape: the trials of benchmarks/recorded.yaml, and a regression that fills in between.

    python -m tune run benchmarks/recorded.yaml   # about an hour on two CPU cores
    python -m benchmarks.recorded                 # puts its trials into benchmarks/recorded.parquet
    python -m benchmarks.recorded proxies         # how a generator's proxies in it rank the accuracy of its students

The table has a row for each student of the search: its parameters by path, its agreement after each eighth of its
training, its generator with every proxy of that, and the CPU-seconds of both.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.landscapes import NUM_RANDOM_POINTS, Landscape, Searched, Unit, fractions_of, normal
from tune.opened_study import open_study
from tune.planner.comparison import kendall_tau
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState

STUDY = Path(__file__).with_suffix(".yaml")
TABLE = Path(__file__).with_suffix(".parquet")

MEASUREMENTS = 8
"""Number of measurements of each student, at equal distances."""

PROXIES = ("generator.", "judge_")
"""Beginnings of the metrics that judge a generator, and are columns of the table."""

NUM_TREES = 300
"""Number of regression trees."""


@dataclass(frozen=True)
class RecordedLandscape(Landscape):
    """A landscape whose values are what a regression over recorded students expects.

    Attributes:
        expected: points of `searched` -> agreement at each measurement, `n x 6` to `n x 8`.
    """

    expected: Any = field(default=None, repr=False)

    def target(self, fraction: float) -> float:
        """Return the value at that distance from the optimum, but no nearer to it than a student's noise.

        The optimum is the best of the points drawn.
        """
        drawn = np.random.default_rng(0).random((NUM_RANDOM_POINTS, len(self.searched)))
        values = self.expected(drawn)[:, -1]
        return float(values.max() - max(fraction * (values.max() - values.min()), self.noise))

    def measured(self, x: Unit, fraction: float) -> float:
        """Return the expected curve at that fraction, with noise."""
        return self._curve(x)[round(fraction * MEASUREMENTS) - 1] + self.noise * normal(x, fraction)

    def _curve(self, x: Unit) -> tuple[float, ...]:
        return _expected_once(self.expected, tuple(x[name] for name in self.searched))


@functools.cache
def _expected_once(expected: Any, point: tuple[float, ...]) -> tuple[float, ...]:
    """Return a student's expected curve, computed once although each of its measurements needs it."""
    return tuple(map(float, expected(np.array([point]))[0]))


@functools.cache
def recorded() -> RecordedLandscape:
    """Return the landscape of benchmarks/recorded.parquet: extremely randomised trees from all parameters to a curve.

    Its noise is the standard deviation of the last measurement around the prediction of trees that have not seen the
    student.
    """
    rows = pq.read_table(TABLE).to_pylist()
    finished = [row for row in rows if row["agreement"] is not None]
    points = np.array([list(fractions_of(searched(), row).values()) for row in finished])
    curves = np.array([row["agreement"] for row in finished])
    trees = ExtraTreesRegressor(NUM_TREES, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0)
    trees.fit(points, curves)

    def expected(asked: NDArray[np.float64]) -> NDArray[np.float64]:
        points = asked.astype(np.float32)  # as `trees.predict`, which takes ten times as long for one point
        found: NDArray[np.float64] = np.mean([tree.tree_.predict(points)[:, :, 0] for tree in trees], axis=0)
        return found

    residuals = curves[:, -1] - trees.oob_prediction_[:, -1]
    generators = len({row["generator"] for row in finished})
    explained = 100 * (1 - residuals.var() / curves[:, -1].var())
    return RecordedLandscape(
        "recorded",
        f"{len(finished)} real students over {generators} generators; trees explain {explained:.0f} % of what they "
        f"have not seen",
        lambda x: _expected_once(expected, tuple(x[name] for name in searched()))[-1],
        {},
        searched=searched(),
        held_out=True,
        noise=float(residuals.std()),
        longest=160.0,  # about the time that the recorded students would have taken
        expected=expected,
    )


@functools.cache
def searched() -> Searched:
    """Return the parameters of the study, upstream first."""
    tree = yaml.safe_load(STUDY.read_text())["search"]
    upstream = [path for path in tree if not path.startswith("distillation.")]
    names = {f"u{number}": path for number, path in enumerate(upstream, 1)}
    names |= {f"d{number}": path for number, path in enumerate((p for p in tree if p not in upstream), 1)}
    return {name: (path, tree[path]) for name, path in names.items()}


def rows_of(snapshot: StudySnapshot) -> list[dict[str, Any]]:
    """Return the table's rows, the students of the search that have ended; one without a result has no agreement."""
    tasks = {task.key: task for task in snapshot.tasks}
    proxies = sorted({name for task in snapshot.tasks for name in task.metrics if name.startswith(PROXIES)})
    rows = []
    for trial in snapshot.trials:
        task = tasks.get(trial.key or "")
        if task is None or not trial.state.is_final:
            continue
        build = next(tasks[key] for key in task.needs if tasks[key].kind is TaskKind.GENERATOR)
        rows.append(
            {
                "trial": trial.number,
                "generator": build.label,
                "state": str(trial.state),
                **trial.params,
                **{name: (build.metrics | task.metrics).get(name) for name in proxies},
                "agreement": _curve_of(Path(task.folder)) if task.state is TaskState.COMPLETE else None,
                "validation_accuracy": task.metrics.get("validation_accuracy"),
                "generator_cpu_seconds": _cpu_seconds(build),
                "student_cpu_seconds": _cpu_seconds(task),
            }
        )
    return rows


def _curve_of(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    curve = [row["distillation/agreement"] for row in rows if row.get("distillation/agreement") is not None]
    assert len(curve) == MEASUREMENTS, folder
    return curve


def _cpu_seconds(task: TaskSnapshot) -> float:
    return round(sum(attempt.cpu_seconds or 0.0 for attempt in task.attempts), 2)


def proxies_in_words(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield Kendall's tau of each proxy with the validation accuracy, mean and best, of each generator's students.

    Args:
        rows: of the table; generators without a complete student, or without the proxy, do not count.
    """
    students: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["state"] == "complete" and row["validation_accuracy"] is not None:
            students.setdefault(row["generator"], []).append(row)
    names = sorted({name for rows in students.values() for name in rows[0] if _is_proxy(name)})
    yield f"{'proxy':<46}{'generators':>10}{'mean':>8}{'best':>8}{'chance':>8}"
    for name in names:
        found = [
            (rows[0][name], [row["validation_accuracy"] for row in rows])
            for rows in students.values()
            if rows[0][name] is not None
        ]
        taus = [
            kendall_tau([[(proxy, of_students(accuracies)) for proxy, accuracies in found]])
            for of_students in (statistics.fmean, max)
        ]
        count = len(found)
        # The standard deviation of tau without any relation (Kendall 1938).
        chance = math.sqrt(2 * (2 * count + 5) / (9 * count * (count - 1))) if count > 1 else math.nan
        cells = "".join(f"{'–' if tau is None else f'{tau:+.2f}':>8}" for tau in taus)
        yield f"{name:<46}{count:>10}{cells}{f'±{2 * chance:.2f}':>8}"
    if not any(name.startswith(PROXIES) for name in names):
        yield f"no other proxies in {TABLE.name}, which was recorded before they were columns: record it again"


def _is_proxy(name: str) -> bool:
    return name.startswith(PROXIES) or name == "effective_classes"  # as it was called in older tables


def main(arguments: list[str]) -> int:
    """Write the table, or print how the proxies in it rank generators."""
    if arguments == ["proxies"]:
        print("\n".join(proxies_in_words(pq.read_table(TABLE).to_pylist())))
        return 0
    if arguments:
        print(f"python -m benchmarks.recorded: expected nothing or `proxies`, found {arguments}", file=sys.stderr)
        return 2
    rows = rows_of(open_study(str(STUDY)).snapshot())
    pq.write_table(pa.Table.from_pylist(rows), TABLE, compression="zstd")
    landscape = recorded()
    print(f"{TABLE.name}: {len(rows)} students, {landscape.structure}; noise {100 * landscape.noise:.1f} points")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

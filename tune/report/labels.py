"""Names of metrics and parameters, table cells, and the ends of tasks, as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hidfd.formatting import duration, percent, percent_with_error, points, setting
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import CostDifferenceSnapshot, GainSnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.study.verdict import interval_in_words

METRIC_NAMES = {name: measure.in_words for name, measure in MEASURES.items()} | {
    "test_accuracy": "test accuracy",
    "generator.memorisation": "memorisation",
}
"""Metric -> its name for people."""


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return dotted path -> its last components, as many as tell it from the other paths."""
    known = list(dict.fromkeys(paths))
    return {path: next((name for name in _endings(path) if _is_unambiguous(name, known)), path) for path in known}


def settings_in_markdown(params: Mapping[str, Any]) -> str:
    """Return the settings that differ from the study's own `trial:`, paths as code; empty where none do."""
    return ", ".join(f"`{path}` {setting(value)}" for path, value in params.items())


def metric_cell(metric: str, value: float | None, error: float | None) -> tuple[str, str | None]:
    """Return a metric's value and its error for a table: shares in per cent and points, others in their own unit."""
    if metric in MEASURES and MEASURES[metric].unit != "share":
        return written(metric, value), written(metric, error) if error else None
    return percent(value), points(error)


def gain_cell(gain: GainSnapshot) -> str:
    """Return the champion's gain over a row in points, with its interval over seeds: `+3.1 [1.2, 5.0]`."""
    words = f"{round(100 * gain.gain, 1) + 0.0:+.1f}"
    if gain.low is None or gain.high is None:
        return f"{words}, not yet decided"
    return f"{words} {interval_in_words(100 * gain.low, 100 * gain.high)}"


def difference_cell(difference: CostDifferenceSnapshot) -> str:
    """Return how far hybrid is ahead at a budget, in points with its interval over seeds."""
    if difference.mean is None:
        return "not compared"
    words = f"{round(100 * difference.mean, 1) + 0.0:+.1f}"
    if difference.low is None or difference.high is None:
        return f"{words}, not yet decided"
    return f"{words} {interval_in_words(100 * difference.low, 100 * difference.high)}"


def result_in_words(task: TaskSnapshot) -> str:
    """Return how a task ended, with its main numbers and how long it took."""
    parts = [task.state.value if task.state is not TaskState.COMPLETE else "done"]
    if task.kind is TaskKind.STUDENT and task.state is TaskState.COMPLETE:
        agreement, error = (task.metrics.get(name) for name in ("agreement", "agreement_standard_error"))
        parts[0] = f"agreement {percent_with_error(agreement, error)}"
        if "validation_accuracy" in task.metrics:
            parts.append(f"validation accuracy {percent(task.metrics['validation_accuracy'])}")
    elif task.kind is TaskKind.TEST_EVALUATION and "test_accuracy" in task.metrics:
        parts.append(f"test accuracy {percent(task.metrics['test_accuracy'])}")
    elif "generator.effective_classes" in task.metrics:
        parts.append(f"{task.metrics['generator.effective_classes']:.1f} effective classes")
    if task.reason:
        parts[0] = task.reason if task.reason.startswith(task.state.value) else f"{parts[0]}: {task.reason}"
    parts.append("from the store" if task.reused else f"in {duration(task.seconds)}")
    return ", ".join(parts)


def _endings(path: str) -> Iterator[str]:
    parts = path.split(".")
    yield from (".".join(parts[-taken:]) for taken in range(1, len(parts) + 1))


def _is_unambiguous(name: str, paths: list[str]) -> bool:
    return sum(path == name or path.endswith(f".{name}") for path in paths) == 1

"""The measures of a finished student, which a study maximises, minimises or bounds. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hidfd.formatting import NONE, grouped, percent

Direction = Literal["maximise", "minimise"]
Objective = Literal["agreement", "validation_accuracy"]
MeasureName = Literal[
    "agreement", "validation_accuracy", "kl_to_teacher", "deployed_parameters", "latency_milliseconds"
]

LATENCY = "latency_milliseconds"
"""The measure that is taken after the evaluation, where a study asks for it: it belongs to a machine and not to
an artifact."""


@dataclass(frozen=True)
class Measure:
    """A measure of every finished student.

    Attributes:
        in_words: its name for people.
        direction: the direction in which it gets better.
        unit: `share` is written in per cent, `count` with separators, `ms` as milliseconds, `number` as it is.
    """

    in_words: str
    direction: Direction
    unit: Literal["share", "count", "ms", "number"]


MEASURES: dict[str, Measure] = {
    "agreement": Measure("agreement", "maximise", "share"),
    "validation_accuracy": Measure("validation accuracy", "maximise", "share"),
    "kl_to_teacher": Measure("KL to the teacher", "minimise", "number"),
    "deployed_parameters": Measure("deployed parameters", "minimise", "count"),
    LATENCY: Measure("latency", "minimise", "ms"),
}


def written(name: str, value: float | None) -> str:
    """Format a value of a measure for people; a dash where there is none."""
    if value is None:
        return NONE
    match MEASURES[name].unit:
        case "share":
            return percent(value)
        case "count":
            return grouped(value)
        case "ms":
            return f"{value:.3g} ms"
        case "number":
            return f"{value:.3g}"


def merit(name: str, value: float) -> float:
    """Return the value with the sign by which more is better."""
    return value if MEASURES[name].direction == "maximise" else -value


def optuna_direction(name: str) -> Literal["maximize", "minimize"]:
    """Return the direction of a measure as Optuna spells it."""
    return "maximize" if MEASURES[name].direction == "maximise" else "minimize"

"""Synthetic two-stage functions on which samplers are compared, fixed before any sampler was tuned on them.

Each maps upstream and downstream parameters, as fractions 0..1 of their ranges, to the value of the student that they
give. Half of them were used while the stage-aware sampler was made (`held_out` is False), the other half only after.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Unit = Mapping[str, float]
"""Upstream u1, u2, ... and downstream d1, d2, ... as fractions of their ranges; a categorical one is 0 or 1."""

Searched = dict[str, tuple[str, dict[str, Any]]]
"""Name in a landscape -> path and parameter of `search:`, upstream first."""

PLAIN: Searched = {
    "u1": ("generation.smoothing.temperature", {"type": "float", "low": 0.5, "high": 4.0, "log": True}),
    "u2": ("generation.generator_learning_rate", {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}),
    "u3": ("generation.integration.trans_weight", {"type": "float", "low": 0.01, "high": 1.0, "log": True}),
    "d1": ("distillation.inflation", {"type": "float", "low": 1.0, "high": 100.0, "log": True}),
    "d2": ("distillation.learning_rate", {"type": "float", "low": 0.01, "high": 0.5, "log": True}),
    "d3": ("distillation.weight_decay", {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}),
}
"""Parameters of the synthetic functions: the paths only decide which stage one belongs to."""

TWO_AND_TWO: Searched = {name: PLAIN[name] for name in ("u1", "u2", "d1", "d2")}

MIXED: Searched = PLAIN | {
    "u3": ("generation.smoothing.mode", {"type": "categorical", "choices": ["inverse", "off"]}),
    "u1": (PLAIN["u1"][0], PLAIN["u1"][1] | {"when": {"generation.smoothing.mode": "inverse"}}),
    "d3": ("distillation.schedule", {"type": "categorical", "choices": ["steps", "cosine"]}),
    "d2": (PLAIN["d2"][0], PLAIN["d2"][1] | {"when": {"distillation.schedule": "steps"}}),
}

NUM_RANDOM_POINTS = 20_000
"""Number of points that are drawn to find a function's range."""


@dataclass(frozen=True)
class Landscape:
    """A two-stage function.

    Attributes:
        name: of the function.
        structure: of the function, in words.
        value: of a student, if it does not collapse or diverge.
        best: the optimum, or a point close to it.
        searched: its parameters.
        held_out: not used while the sampler was made.
        noise: standard deviation of what is measured.
        collapses, diverges: whether the generator, or the student, ends without a result at a point.
        longest: time, in students one after another, after which a study is given up and counts as having taken it.
    """

    name: str
    structure: str
    value: Callable[[Unit], float]
    best: dict[str, float] = field(repr=False)
    searched: Searched = field(default_factory=lambda: TWO_AND_TWO, repr=False)
    held_out: bool = False
    noise: float = 0.0
    collapses: Callable[[Unit], bool] = lambda x: False
    diverges: Callable[[Unit], bool] = lambda x: False
    longest: float = 400.0

    def target(self, fraction: float) -> float:
        """Return the value whose distance from the optimum is that fraction of the function's range."""
        generator = np.random.default_rng(0)
        drawn = generator.random((NUM_RANDOM_POINTS, len(self.searched)))
        categorical = [place for place, (_, p) in enumerate(self.searched.values()) if p["type"] == "categorical"]
        drawn[:, categorical] = np.round(drawn[:, categorical])
        values = [self.value(dict(zip(self.searched, map(float, row), strict=True))) for row in drawn]
        highest = max(*values, self.value(self.best))
        return highest - fraction * (highest - min(values))

    def measured(self, x: Unit, fraction: float) -> float:
        """Return a student's value on the hold-out after that fraction of its training; slow ones catch up late."""
        lag = 0.1 * (1 - fraction) * (0.75 + 0.25 * math.sin(5 * x["d1"] + 3 * x["u2"]))
        return self.value(x) - lag + self.noise * normal(x, fraction)


def normal(x: Unit, fraction: float) -> float:
    """Return a standard normal number that is a function of the settings: equal students get the same."""
    digest = hashlib.sha256(repr((sorted(x.items()), fraction)).encode()).digest()
    return float(np.random.default_rng(int.from_bytes(digest[:8])).standard_normal())


def _interaction(x: Unit) -> float:
    upstream = (x["u1"] - 0.3) ** 2 + (x["u2"] - 0.7) ** 2
    downstream = (x["d1"] - 0.2 - 0.6 * x["u1"]) ** 2 + (x["d2"] - 0.8 + 0.6 * x["u1"]) ** 2
    return 0.9 - 0.5 * upstream - 0.6 * downstream + 0.005 * math.cos(20 * (x["u1"] + x["d2"] - 0.92))


def _two_basins(x: Unit) -> float:
    first = 0.86 - 1.5 * ((x["u1"] - 0.25) ** 2 + (x["u2"] - 0.3) ** 2) - 0.5 * (x["d1"] - 0.1) ** 2
    second = 0.90 - 4.0 * ((x["u1"] - 0.75) ** 2 + (x["u2"] - 0.8) ** 2) - 0.5 * (x["d1"] - 0.9) ** 2
    return max(first, second) - 0.15 * (x["d2"] - 0.5) ** 2


def _downstream(x: Unit) -> float:
    upstream = abs(x["u1"] - 0.6) + abs(x["u2"] - 0.4)
    return 0.9 - 0.03 * upstream - 0.5 * (math.pow(abs(x["d1"] - 0.25), 1.3) + math.pow(abs(x["d2"] - 0.65), 1.3))


def _cliff(x: Unit) -> float:
    upstream = math.pow(abs(x["u1"] - 0.7), 1.5) + math.pow(abs(x["u2"] - 0.45), 1.5)
    return 0.9 - 0.5 * upstream - 0.4 * ((x["d1"] - 0.65) ** 2 + (x["d2"] - 0.5 + 0.3 * x["u2"]) ** 2)


def _branin(x: Unit) -> float:
    a, b = 15 * x["u1"] - 5, 15 * x["u2"]
    branin = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    branin += 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10
    return 0.9 - 0.3 * math.log1p(branin / 10) - 0.05 * ((x["d1"] - 0.6) ** 2 + (x["d2"] - 0.3) ** 2)


def _noisy(x: Unit) -> float:
    upstream = (x["u1"] - 0.65) ** 2 + (x["u2"] - 0.35) ** 2
    return 0.9 - 0.4 * upstream - 0.4 * ((x["d1"] - 0.8 + 0.5 * x["u2"]) ** 2 + (x["d2"] - 0.3) ** 2)


_HARTMANN_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
_HARTMANN_SLOPES = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_HARTMANN_CENTRES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def _hartmann(x: Unit) -> float:
    total = 0.0
    for weight, slopes, centres in zip(_HARTMANN_WEIGHTS, _HARTMANN_SLOPES, _HARTMANN_CENTRES, strict=True):
        distance = sum(
            slope * (value - centre) ** 2 for slope, value, centre in zip(slopes, x.values(), centres, strict=True)
        )
        total += weight * math.exp(-distance)
    return 0.27 * total


def _mixed(x: Unit) -> float:
    smoothing = 0.06 if x["u3"] else 0.4 * (x["u1"] - 0.35) ** 2
    schedule = 0.02 if x["d3"] else 0.3 * abs(x["d2"] - 0.6)
    return 0.9 - smoothing - 0.4 * (x["u2"] - 0.6) ** 2 - 0.4 * (x["d1"] - 0.3 - 0.3 * x["u2"]) ** 2 - schedule


LANDSCAPES = (
    Landscape(
        "interaction",
        "the best student settings move with the generator's; a ripple",
        _interaction,
        {"u1": 0.3, "u2": 0.7, "d1": 0.38, "d2": 0.62},
    ),
    Landscape(
        "two basins",
        "two kinds of generator, whose best students are 0.1 and 0.9; the better basin is the narrower",
        _two_basins,
        {"u1": 0.75, "u2": 0.8, "d1": 0.9, "d2": 0.5},
    ),
    Landscape(
        "downstream",
        "the student's settings decide, with kinks; the generator's hardly count",
        _downstream,
        {"u1": 0.6, "u2": 0.4, "d1": 0.25, "d2": 0.65},
    ),
    Landscape(
        "cliff",
        "generators collapse just beyond the best one, students diverge at one edge",
        _cliff,
        {"u1": 0.7, "u2": 0.45, "d1": 0.65, "d2": 0.365},
        collapses=lambda x: x["u1"] > 0.78 + 0.1 * (x["u2"] - 0.5) or x["u2"] < 0.08,
        diverges=lambda x: x["d1"] > 0.85 - 0.2 * x["d2"],
    ),
    Landscape(
        "upstream",
        "the generator's settings decide (log of Branin's function), the student's hardly count",
        _branin,
        {"u1": (math.pi + 5) / 15, "u2": 2.275 / 15, "d1": 0.6, "d2": 0.3},
        held_out=True,
    ),
    Landscape(
        "noisy",
        "an interaction, measured with noise of the size of the target",
        _noisy,
        {"u1": 0.65, "u2": 0.35, "d1": 0.625, "d2": 0.3},
        held_out=True,
        noise=0.01,
    ),
    Landscape(
        "Hartmann",
        "Hartmann's function in six dimensions, three of each stage",
        _hartmann,
        {"u1": 0.20169, "u2": 0.150011, "u3": 0.476874, "d1": 0.275332, "d2": 0.311652, "d3": 0.6573},
        searched=PLAIN,
        held_out=True,
    ),
    Landscape(
        "mixed",
        "a categorical and a conditional parameter in each stage",
        _mixed,
        {"u1": 0.35, "u2": 0.6, "u3": 0.0, "d1": 0.48, "d2": 0.6, "d3": 0.0},
        searched=MIXED,
        held_out=True,
    ),
)


def fractions_of(searched: Searched, params: Mapping[str, Any]) -> Unit:
    """Return a search trial's parameters as fractions of their ranges; those that are off count as 0.

    Args:
        searched: of a landscape.
        params: path -> value.
    """
    found = {}
    for name, (path, parameter) in searched.items():
        value = params.get(path)
        if value is None:
            found[name] = 0.0
        elif parameter["type"] == "categorical":
            found[name] = float(parameter["choices"].index(value))
        else:
            low, high = math.log(parameter["low"]), math.log(parameter["high"])
            found[name] = (math.log(value) - low) / (high - low)
    return found

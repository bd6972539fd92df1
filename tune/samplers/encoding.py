"""Encoding of parameters as points, and back, so that a model can compare them and new ones can be drawn. Torch-free.

A point has a coordinate per searched parameter: for a number the fraction of its range, 0..1 (of the logarithms if it
is searched so), for a categorical parameter the index of its choice. A parameter that is not active has `OFF`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tune.samplers.distributions import distributions_of
from tune.study.search_space import Space

OFF = 0.5
"""Coordinate of a parameter that is not active: the middle of a range, and no index of a choice."""

Points = NDArray[np.float64]
"""`number x parameters`-dim array."""


@dataclass(frozen=True)
class Stages:
    """Properties of the coordinates of points.

    Attributes:
        is_upstream: `parameters`-dim, whether the parameter changes the generator.
        is_categorical: `parameters`-dim, whether it is categorical.
    """

    is_upstream: NDArray[np.bool_]
    is_categorical: NDArray[np.bool_]


@dataclass(frozen=True)
class _Column:
    """The coordinate of one parameter.

    Attributes:
        path, distribution: of the parameter.
        num_choices: of a categorical parameter; None for a number.
        num_values: that a number can have; None if it is continuous or categorical.
    """

    path: str
    distribution: BaseDistribution
    num_choices: int | None
    num_values: int | None

    def encode(self, value: Any) -> float:
        """Return the coordinate of a value."""
        match self.distribution:
            case CategoricalDistribution():
                return float(self.distribution.to_internal_repr(value))
            case FloatDistribution() | IntDistribution():
                low, high = self._scaled(self.distribution.low), self._scaled(self.distribution.high)
                return (self._scaled(value) - low) / (high - low) if high > low else 0.0
        raise AssertionError(self.distribution)

    def decode(self, coordinate: float) -> Any:
        """Return the legal value that is nearest to a coordinate."""
        match self.distribution:
            case CategoricalDistribution():
                return self.distribution.choices[round(coordinate)]
            case FloatDistribution() | IntDistribution():
                low, high = self._scaled(self.distribution.low), self._scaled(self.distribution.high)
                value = low + coordinate * (high - low)
                value = math.exp(value) if self.distribution.log else value
                if self.distribution.step is not None:
                    steps = round((value - self.distribution.low) / self.distribution.step)
                    value = self.distribution.low + steps * self.distribution.step
                value = min(max(value, self.distribution.low), self.distribution.high)
                return round(value) if isinstance(self.distribution, IntDistribution) else float(value)
        raise AssertionError(self.distribution)

    def _scaled(self, value: float) -> float:
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return math.log(value) if self.distribution.log else float(value)


class Encoding:
    """The encoding of a search space.

    Attributes:
        paths: of the coordinates' parameters, in order; each after those that it depends on.
        stages: properties of the coordinates.
    """

    def __init__(self, space: Space) -> None:
        """Encode the parameters of a checked search space."""
        self._space = space
        self._columns = [_column(path, distribution) for path, distribution in distributions_of(space).items()]
        self.paths = tuple(column.path for column in self._columns)
        self.stages = Stages(
            is_upstream=np.array([path in space.upstream for path in self.paths], bool),
            is_categorical=np.array([column.num_choices is not None for column in self._columns], bool),
        )

    def encode(self, params_list: Sequence[Mapping[str, Any]]) -> Points:
        """Return the points of parameters."""
        rows = [
            [column.encode(params[column.path]) if column.path in params else OFF for column in self._columns]
            for params in params_list
        ]
        return np.array(rows, float).reshape(len(rows), len(self._columns))

    def decode(self, point: NDArray[np.float64]) -> dict[str, Any]:
        """Return the active parameters at a point."""
        params: dict[str, Any] = {}
        for column, coordinate in zip(self._columns, point, strict=True):
            if self._space.is_active(column.path, params):
                params[column.path] = column.decode(float(coordinate))
        return params

    def draw(self, generator: np.random.Generator, number: int) -> Points:
        """Draw points evenly; `snap` them before they are compared with others."""
        points = generator.random((number, len(self._columns)))
        for index, column in enumerate(self._columns):
            if column.num_choices is not None:
                points[:, index] = np.minimum(np.floor(points[:, index] * column.num_choices), column.num_choices - 1)
        return points

    def near(self, generator: np.random.Generator, points: Points, scales: NDArray[np.float64]) -> Points:
        """Draw a neighbour of each point: numbers move by a normal step, choices are replaced with probability `scale`.

        Args:
            generator: of random numbers.
            points: to start from.
            scales: `number`-dim array, standard deviation of each point's step.
        """
        drawn = self.draw(generator, len(points))
        steps = generator.standard_normal(points.shape) * scales[:, None]
        # Some coordinates stay: the best neighbour often differs in one of them only.
        moves = generator.random(points.shape) < 0.6
        numeric = np.where(moves, points + steps, points)
        numeric = np.where(numeric < 0, -numeric, numeric)
        numeric = np.clip(np.where(numeric > 1, 2 - numeric, numeric), 0.0, 1.0)
        replaced = generator.random(points.shape) < scales[:, None]
        # A categorical parameter that was off lies between two indices.
        replaced |= points != np.floor(points)
        return np.where(self.stages.is_categorical, np.where(replaced, drawn, points), numeric)

    def snap(self, points: Points) -> Points:
        """Snap points to what `decode` and `encode` make of them: legal values, and `OFF` for what is not active."""
        snapped = points.copy()
        known = {path: index for index, path in enumerate(self.paths)}
        for index, column in enumerate(self._columns):
            if column.num_values is not None:
                snapped[:, index] = [column.encode(column.decode(value)) for value in snapped[:, index]]
            for other, allowed in self._space.conditions.get(column.path, {}).items():
                needed = self._columns[known[other]]
                levels = snapped[:, known[other]]
                is_on = np.zeros(len(points), bool)
                for value in allowed:
                    is_on |= np.isclose(levels, needed.encode(value), atol=1e-9)
                snapped[~is_on, index] = OFF
        return snapped


def _column(path: str, distribution: BaseDistribution) -> _Column:
    match distribution:
        case CategoricalDistribution():
            return _Column(path, distribution, len(distribution.choices), None)
        case IntDistribution():
            return _Column(path, distribution, None, (distribution.high - distribution.low) // distribution.step + 1)
        case FloatDistribution() if distribution.step is not None:
            steps = round((distribution.high - distribution.low) / distribution.step)
            return _Column(path, distribution, None, steps + 1)
    return _Column(path, distribution, None, None)

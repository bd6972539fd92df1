"""A Gaussian process over the parameters of both stages together, small enough to be fitted for every search trial.

    value = c + f(upstream) + g(downstream) + h(upstream, downstream) + luck(generator) + noise

What students teach about `g` holds for every generator, so that a new one does not begin from nothing; `h` is how the
best student differs between generators; `luck` is what the parameters of a generator do not explain, its seed. The
variance of each term is learnt. Torch-free.

**Source**: Rasmussen and Williams 2006, equations 2.23-2.24 and 5.8-5.9; Matérn 5/2 kernels with a length per
parameter. Ours is the split by stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune.samplers.encoding import Stages

Array = NDArray[np.float64]

TERMS = ("upstream", "downstream", "both", "luck", "noise")
"""Names of the kernel's terms, in the order of their variances."""

TERM_PRIOR = ((0.4, 1.0), (0.4, 1.0), (0.3, 1.0), (1e-3, 1.5), (1e-4, 1.5))
"""Median and log-sd of each term's variance, for values of variance 1: luck and noise are near 0 until shown."""

LENGTH_PRIOR = (0.6, 0.9)
"""Median and log-sd of a parameter's length scale, as a fraction of its range."""

SMALLEST_NOISE = 1e-6
"""Variance that keeps the matrix well-conditioned if students were measured without noise."""

MAX_ITERATIONS = 40
"""Iterations of the fit, which changes little afterwards."""

MAX_FITTED = 150
"""Students from which length scales and variances are learnt; predictions use all students."""


@dataclass(frozen=True)
class _TrainingData:
    """Points and groups of students, their values at mean 0 and variance 1, and known variances of their noise."""

    points: Array
    groups: NDArray[np.int64]
    values: Array
    noise: Array

    def some(self, number: int) -> _TrainingData:
        """Return at most so many students: half of them the best, the others evenly spaced in order of time."""
        if len(self.values) <= number:
            return self
        order = np.argsort(-self.values, kind="stable")
        others = np.sort(order[number // 2 :])
        kept = others[np.linspace(0, len(others) - 1, number - number // 2).astype(int)]
        rows = np.sort(np.concatenate([order[: number // 2], kept]))
        return _TrainingData(self.points[rows], self.groups[rows], self.values[rows], self.noise[rows])


class StageGP:
    """A Gaussian process that was fitted to the students of a study.

    Attributes:
        shares: name of a term -> its variance; the sum is about 1.
    """

    def __init__(
        self, stages: Stages, points: Array, groups: NDArray[np.int64], values: Array, known_noise: Array | None = None
    ) -> None:
        """Fit length scales and variances to values of students, by their posterior mode.

        Args:
            stages: properties of the coordinates.
            points: `number x parameters`-dim.
            groups: `number`-dim, which generator each student has.
            values: `number`-dim.
            known_noise: `number`-dim, variances in addition to the learnt noise.
        """
        self._stages = stages
        self._centre = float(np.mean(values))
        self._scale = float(np.std(values)) or 1.0
        noise = np.zeros(len(values)) if known_noise is None else known_noise / self._scale**2
        self._data = _TrainingData(points, groups, (values - self._centre) / self._scale, noise + SMALLEST_NOISE)
        settings = _fit(stages, self._data.some(MAX_FITTED))
        self._lengths = np.exp(settings[: points.shape[1]])
        self.shares = dict(zip(TERMS, map(float, np.exp(settings[points.shape[1] :])), strict=True))
        self._factorise()

    def assume(self, points: Array, groups: NDArray[np.int64]) -> None:
        """Add students that are under way as if they had their expected values, so that others go elsewhere."""
        mean, _ = self.predict(points, groups)
        self._data = _TrainingData(
            np.concatenate([self._data.points, points]),
            np.concatenate([self._data.groups, groups]),
            np.concatenate([self._data.values, (mean - self._centre) / self._scale]),
            # As if measured without noise: trying the same point twice at once is worth nothing.
            np.concatenate([self._data.noise, np.full(len(points), SMALLEST_NOISE - self.shares["noise"])]),
        )
        self._factorise()

    def predict(self, points: Array, groups: NDArray[np.int64]) -> tuple[Array, Array]:
        """Predict mean and standard deviation of students' values, without the noise of measuring them.

        Args:
            points: `number x parameters`-dim.
            groups: `number`-dim; for a new generator a number that no student of the fit has.
        """
        from scipy import linalg

        squares = _squares(points, self._data.points, self._stages.is_categorical)
        kernel = self._kernel(squares, _equal(groups, self._data.groups))
        solved = linalg.solve_triangular(self._factor, kernel.T, lower=True, check_finite=False)
        own = sum(self.shares[term] for term in TERMS if term != "noise")
        variance = np.maximum(own - np.sum(solved**2, axis=0), 1e-12)
        return self._centre + self._scale * (kernel @ self._weights), self._scale * np.sqrt(variance)

    def _factorise(self) -> None:
        from scipy import linalg

        data = self._data
        squares = _squares(data.points, data.points, self._stages.is_categorical)
        kernel = self._kernel(squares, _equal(data.groups, data.groups)) + np.diag(self.shares["noise"] + data.noise)
        self._factor = linalg.cholesky(kernel, lower=True, check_finite=False)
        self._weights = linalg.cho_solve((self._factor, True), data.values, check_finite=False)

    def _kernel(self, squares: Array, same: Array) -> Array:
        upstream = _matern(_distance(squares, self._lengths, self._stages.is_upstream))[0]
        downstream = _matern(_distance(squares, self._lengths, ~self._stages.is_upstream))[0]
        both = self.shares["both"] * upstream * downstream
        single = self.shares["upstream"] * upstream + self.shares["downstream"] * downstream
        return single + both + self.shares["luck"] * same


def _fit(stages: Stages, data: _TrainingData) -> Array:
    """Return the log length scales and log variances of the posterior's mode."""
    from scipy import linalg, optimize

    parameters = data.points.shape[1]
    centre = np.log([*([LENGTH_PRIOR[0]] * parameters), *(median for median, _ in TERM_PRIOR)])
    sd = np.array([*([LENGTH_PRIOR[1]] * parameters), *(sd for _, sd in TERM_PRIOR)])
    squares = _squares(data.points, data.points, stages.is_categorical)
    same, identity = _equal(data.groups, data.groups), np.eye(len(data.values))

    def loss(settings: Array) -> tuple[float, Array]:
        """Compute the negative log posterior and its gradient."""
        lengths, variances = np.exp(settings[:parameters]), np.exp(settings[parameters:])
        upstream, upstream_slope = _matern(_distance(squares, lengths, stages.is_upstream))
        downstream, downstream_slope = _matern(_distance(squares, lengths, ~stages.is_upstream))
        shapes = (upstream, downstream, upstream * downstream, same, identity)
        terms = [variance * shape for variance, shape in zip(variances, shapes, strict=True)]
        factor = linalg.cholesky(sum(terms) + np.diag(data.noise), lower=True, check_finite=False)
        inverse = linalg.cho_solve((factor, True), identity, check_finite=False)
        weights = inverse @ data.values
        away = (settings - centre) / sd
        outer = inverse - np.outer(weights, weights)
        by_upstream = outer * (variances[0] + variances[2] * downstream) * upstream_slope
        by_downstream = outer * (variances[1] + variances[2] * upstream) * downstream_slope
        slopes = [
            np.sum((by_upstream if is_upstream else by_downstream) * square) / length**2
            for is_upstream, square, length in zip(stages.is_upstream, squares, lengths, strict=True)
        ]
        slopes += [np.sum(outer * term) for term in terms]
        found = 0.5 * data.values @ weights + np.sum(np.log(np.diag(factor))) + 0.5 * away @ away
        return float(found), 0.5 * np.array(slopes) + away / sd

    bounds = list(zip(centre - 4 * sd, centre + 4 * sd, strict=True))
    found = optimize.minimize(
        loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MAX_ITERATIONS}
    )
    settings: Array = found.x
    return settings


def _equal(first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    equal: Array = (first[:, None] == second[None, :]).astype(float)
    return equal


def _squares(first: Array, second: Array, is_categorical: NDArray[np.bool_]) -> Array:
    """Compute squared differences, `parameters x len(first) x len(second)`-dim; of categorical parameters 0 or 1."""
    difference = first.T[:, :, None] - second.T[:, None, :]
    return np.where(is_categorical[:, None, None], (difference != 0).astype(float), difference**2)


def _distance(squares: Array, lengths: Array, which: NDArray[np.bool_]) -> Array:
    """Compute squared distances in length scales, over some of the parameters."""
    distance: Array = np.tensordot(which / lengths**2, squares, axes=1)
    return distance


def _matern(distance: Array) -> tuple[Array, Array]:
    """Compute Matérn 5/2 of squared distances, and the factor of its slope in a log length scale.

    That slope is the factor times the parameter's own part of the squared distance.
    """
    root = np.sqrt(5 * distance)
    decay = np.exp(-root)
    value: Array = (1 + root + root**2 / 3) * decay
    slope: Array = 5 / 3 * (1 + root) * decay
    return value, slope


def improvement(mean: Array, sd: Array, best: float) -> Array:
    """Compute the expected improvement on `best`.

    **Source**: Jones, Schonlau and Welch 1998, equation 15.
    """
    from scipy.special import ndtr

    away = (mean - best) / sd
    density = np.exp(-0.5 * away**2) / math.sqrt(2 * math.pi)
    gained: Array = np.maximum(sd * (away * ndtr(away) + density), 0.0)
    return gained

"""The acquisition function: expected improvement of students on built generators and on new ones. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune.samplers.encoding import Points
from tune.samplers.gaussian_process import StageGP, improvement
from tune.samplers.observations import INFEASIBLE, NEW_GENERATOR, Leaders, Observations
from tune.study.states import TaskState

NUM_NEW, NUM_SHARED, NUM_CLOSER = 1_000, 1_500, 300
"""Numbers of candidates: with a new generator, on built generators, and near the best of either."""

MAX_GENERATORS = 12
"""Number of built generators, those with the best students, for which candidates are drawn."""

Probability = Callable[[Points, Leaders], NDArray[np.float64]]
"""Function that returns the probability, 0..1, of students at points on the generators of leaders."""


@dataclass(frozen=True)
class Candidates:
    """Points that a student could be trained at.

    Attributes:
        points: `number x parameters`-dim.
        leaders: `number`-dim, the groups whose generators the students would share, or `NEW_GENERATOR`.
        gains: `number`-dim, expected improvement on the best student, times the probability to come to an end.
    """

    points: Points
    leaders: Leaders
    gains: NDArray[np.float64]

    def best(self, number: int) -> Candidates:
        """Return the candidates of the highest gains, best first."""
        order = np.argsort(-self.gains, kind="stable")[:number]
        return Candidates(self.points[order], self.leaders[order], self.gains[order])


class ExpectedImprovement:
    """Expected improvement of any student on the best one, times the probability that it is finished and feasible."""

    def __init__(self, observations: Observations) -> None:
        """Fit the models to a study's observations."""
        self._observations = observations
        self._model = StageGP(
            observations.encoding.stages,
            observations.points,
            observations.groups,
            observations.values,
            observations.noise,
        )
        expected = self._model.predict(observations.points, observations.groups)[0]
        # As long as nothing is feasible almost anything improves, so that the probability to be feasible decides.
        self._best = float(np.max(expected[observations.feasible], initial=np.min(expected)))
        if len(observations.pending):
            self._model.assume(observations.pending, observations.pending_groups)
        fitted = _build_probability(observations), _student_probability(observations)
        self._probabilities = [probability for probability in fitted if probability is not None]
        order = np.lexsort((-observations.values, ~observations.feasible))[:10]
        self._best_points = observations.points[order]

    def on_new_generators(self, random: np.random.Generator, number: int) -> Candidates:
        """Return the best candidates that were found with a new generator."""
        observations = self._observations
        drawn = observations.encoding.draw(random, NUM_NEW // 2)
        near = self._near_best(random, NUM_NEW // 2)
        first = self._evaluate(
            observations.snap(np.concatenate([drawn, near])), np.full(len(drawn) + len(near), NEW_GENERATOR)
        )
        closer = self._near(random, first.best(10).points, NUM_CLOSER)
        second = self._evaluate(observations.snap(closer), np.full(len(closer), NEW_GENERATOR))
        return _joined(first, second).best(number)

    def on_built_generators(self, random: np.random.Generator, number: int) -> Candidates:
        """Return the best candidates that were found on built generators."""
        observations = self._observations
        leaders = observations.leaders[:MAX_GENERATORS]
        if not leaders:
            return self._evaluate(observations.points[:0], np.zeros(0, np.int64))
        each = NUM_SHARED // len(leaders)
        pool = np.concatenate(
            [observations.encoding.draw(random, each // 2), self._near_best(random, each - each // 2)]
        )
        points = np.concatenate([observations.on_generator_of(leader, pool) for leader in leaders])
        numbers = np.repeat([leader.number for leader in leaders], len(pool))
        first = self._evaluate(points, numbers)
        top = first.best(10)
        if not len(top.points):
            return first
        closer, kept = self._near(random, top.points, NUM_CLOSER), np.resize(top.leaders, NUM_CLOSER)
        upstream = observations.encoding.stages.is_upstream
        closer = observations.snap(np.where(upstream, np.resize(top.points, closer.shape), closer))
        return _joined(first, self._evaluate(closer, kept)).best(number)

    def at_random(self, random: np.random.Generator, number: int) -> Candidates:
        """Return candidates drawn evenly, with new generators; their gains are the probability to come to an end."""
        points = self._observations.draw(random, number)
        leaders = np.full(number, NEW_GENERATOR)
        points = points[self._observations.is_untried(points, leaders)]
        return Candidates(points, leaders[: len(points)], self._probability_to_end(points, leaders[: len(points)]))

    def _near_best(self, random: np.random.Generator, number: int) -> Points:
        scales = 10 ** random.uniform(-2, -0.5, number)
        return self._observations.encoding.near(
            random, self._best_points[random.integers(len(self._best_points), size=number)], scales
        )

    def _near(self, random: np.random.Generator, points: Points, number: int) -> Points:
        several = np.resize(points, (number, points.shape[1]))
        return self._observations.encoding.near(random, several, 10 ** random.uniform(-2.5, -1, number))

    def _evaluate(self, points: Points, leaders: Leaders) -> Candidates:
        untried = self._observations.is_untried(points, leaders)
        points, leaders = points[untried], leaders[untried]
        if not len(points):
            return Candidates(points, leaders, np.zeros(0))
        gains = improvement(*self._model.predict(points, leaders), self._best)
        return Candidates(points, leaders, gains * self._probability_to_end(points, leaders))

    def _probability_to_end(self, points: Points, leaders: Leaders) -> NDArray[np.float64]:
        likely = np.ones(len(points))
        for probability in self._probabilities:
            likely *= probability(points, leaders)
        return likely


def _joined(one: Candidates, other: Candidates) -> Candidates:
    return Candidates(
        np.concatenate([one.points, other.points]),
        np.concatenate([one.leaders, other.leaders]),
        np.concatenate([one.gains, other.gains]),
    )


def _build_probability(observations: Observations) -> Probability | None:
    """Return the probability that a new generator is built, by its parameters; None if all were built so far."""
    numbers = [n for n, state in observations.builds.items() if state in (*INFEASIBLE, TaskState.COMPLETE)]
    ok = np.array([observations.builds[n] is TaskState.COMPLETE for n in numbers], float)
    if ok.all():
        return None
    upstream = observations.encoding.stages.is_upstream
    points = np.where(
        upstream, observations.encoding.encode([observations.search_trials[n].params for n in numbers]), 0.0
    )
    model = StageGP(observations.encoding.stages, points, np.array(numbers, np.int64), ok)

    def probability(points: Points, leaders: Leaders) -> NDArray[np.float64]:
        return np.where(
            leaders == NEW_GENERATOR, _likely(*model.predict(np.where(upstream, points, 0.0), leaders)), 1.0
        )

    return probability


def _student_probability(observations: Observations) -> Probability | None:
    """Return the probability that a student on a built generator is finished and feasible; None if all were so far.

    **Source**: expected improvement times the probability of feasibility, Gardner et al. 2014.
    """
    on_good = [s for s in observations.search_trials if observations.builds.get(s.group) is TaskState.COMPLETE]
    ended = [s for s in on_good if s.state in (TaskState.COMPLETE, TaskState.PRUNED, *INFEASIBLE)]
    ok = np.array([s.state not in INFEASIBLE and not s.violation for s in ended], float)
    if ok.all():
        return None
    points = observations.encoding.encode([s.params for s in ended])
    model = StageGP(observations.encoding.stages, points, np.array([s.group for s in ended], np.int64), ok)
    return lambda points, leaders: _likely(*model.predict(points, leaders))


def _likely(mean: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of success, from mean and sd of a value that is 1 for success and 0 for failure."""
    from scipy.special import ndtr

    probability: NDArray[np.float64] = ndtr((mean - 0.5) / np.hypot(sd, 0.1))
    return probability

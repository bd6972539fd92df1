"""Where a student is expected to improve on the best, on the generators that stand and on new ones. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune.samplers.encoding import Points
from tune.samplers.gaussian_process import StageGP, improvement
from tune.samplers.observations import INFEASIBLE, NEW, Leaders, Observations
from tune.study.states import TaskState

NUM_NEW, NUM_SHARED, NUM_CLOSER = 1_000, 1_500, 300
"""Points that are looked at: with a generator of their own, on those that stand, and near the best of these."""

MOST_GENERATORS = 12
"""Those whose students did best are looked at."""

Chance = Callable[[Points, Leaders], NDArray[np.float64]]
"""Probability that students there come to their end."""


@dataclass(frozen=True)
class Candidates:
    """Points with the generators that they would rest on, -1 for new ones, and the improvement expected there."""

    points: Points
    leaders: Leaders
    gains: NDArray[np.float64]

    def best(self, number: int) -> Candidates:
        """Those of the highest gain."""
        order = np.argsort(-self.gains, kind="stable")[:number]
        return Candidates(self.points[order], self.leaders[order], self.gains[order])


class ExpectedImprovement:
    """What a model of what is known expects anywhere."""

    def __init__(self, observed: Observations) -> None:
        self._observed = observed
        self._model = StageGP(
            observed.encoding.stages, observed.points, observed.groups, observed.values, observed.noise
        )
        expected = self._model.predict(observed.points, observed.groups)[0]
        # Where nothing is feasible yet, almost anything improves, so that the chance to become feasible decides.
        self._best = float(np.max(expected[observed.feasible], initial=np.min(expected)))
        if len(observed.pending):
            self._model.expect(observed.pending, observed.pending_groups)
        self._chances = [chance for chance in (_of_builds(observed), _of_students(observed)) if chance is not None]
        order = np.lexsort((-observed.values, ~observed.feasible))[:10]
        self._good = observed.points[order]

    def new(self, random: np.random.Generator, number: int) -> Candidates:
        """The best found with a generator of its own."""
        observed = self._observed
        drawn = observed.encoding.draw(random, NUM_NEW // 2)
        near = self._near_good(random, NUM_NEW // 2)
        first = self._weigh(observed.settle(np.concatenate([drawn, near])), np.full(len(drawn) + len(near), NEW))
        closer = self._near(random, first.best(10).points, NUM_CLOSER)
        second = self._weigh(observed.settle(closer), np.full(len(closer), NEW))
        return _joined(first, second).best(number)

    def shared(self, random: np.random.Generator, number: int) -> Candidates:
        """The best found on generators that stand."""
        observed = self._observed
        leaders = observed.leaders[:MOST_GENERATORS]
        if not leaders:
            return self._weigh(observed.points[:0], np.zeros(0, np.int64))
        each = NUM_SHARED // len(leaders)
        pool = np.concatenate([observed.encoding.draw(random, each // 2), self._near_good(random, each - each // 2)])
        points = np.concatenate([observed.on(leader, pool) for leader in leaders])
        numbers = np.repeat([leader.number for leader in leaders], len(pool))
        first = self._weigh(points, numbers)
        top = first.best(10)
        if not len(top.points):
            return first
        closer, kept = self._near(random, top.points, NUM_CLOSER), np.resize(top.leaders, NUM_CLOSER)
        upstream = observed.encoding.stages.is_upstream
        closer = observed.settle(np.where(upstream, np.resize(top.points, closer.shape), closer))
        return _joined(first, self._weigh(closer, kept)).best(number)

    def anywhere(self, random: np.random.Generator, number: int) -> Candidates:
        """Drawn evenly with a generator of their own; here a gain is the probability to come to an end."""
        points = self._observed.draw(random, number)
        leaders = np.full(number, NEW)
        points = points[self._observed.is_untried(points, leaders)]
        return Candidates(points, leaders[: len(points)], self._likely_to_end(points, leaders[: len(points)]))

    def _near_good(self, random: np.random.Generator, number: int) -> Points:
        scales = 10 ** random.uniform(-2, -0.5, number)
        return self._observed.encoding.near(random, self._good[random.integers(len(self._good), size=number)], scales)

    def _near(self, random: np.random.Generator, points: Points, number: int) -> Points:
        several = np.resize(points, (number, points.shape[1]))
        return self._observed.encoding.near(random, several, 10 ** random.uniform(-2.5, -1, number))

    def _weigh(self, points: Points, leaders: Leaders) -> Candidates:
        untried = self._observed.is_untried(points, leaders)
        points, leaders = points[untried], leaders[untried]
        if not len(points):
            return Candidates(points, leaders, np.zeros(0))
        gains = improvement(*self._model.predict(points, leaders), self._best)
        return Candidates(points, leaders, gains * self._likely_to_end(points, leaders))

    def _likely_to_end(self, points: Points, leaders: Leaders) -> NDArray[np.float64]:
        likely = np.ones(len(points))
        for chance in self._chances:
            likely *= chance(points, leaders)
        return likely


def _joined(one: Candidates, other: Candidates) -> Candidates:
    return Candidates(
        np.concatenate([one.points, other.points]),
        np.concatenate([one.leaders, other.leaders]),
        np.concatenate([one.gains, other.gains]),
    )


def _of_builds(observed: Observations) -> Chance | None:
    """How likely a generator is to become one, by its own parameters; None where all have."""
    numbers = [n for n, state in observed.builds.items() if state in (*INFEASIBLE, TaskState.COMPLETE)]
    ok = np.array([observed.builds[n] is TaskState.COMPLETE for n in numbers], float)
    if ok.all():
        return None
    upstream = observed.encoding.stages.is_upstream
    points = np.where(upstream, observed.encoding.encode([observed.search_trials[n].params for n in numbers]), 0.0)
    model = StageGP(observed.encoding.stages, points, np.array(numbers, np.int64), ok)

    def chance(points: Points, leaders: Leaders) -> NDArray[np.float64]:
        return np.where(leaders == NEW, _likely(*model.predict(np.where(upstream, points, 0.0), leaders)), 1.0)

    return chance


def _of_students(observed: Observations) -> Chance | None:
    """How likely a student is to be finished and feasible, on a generator that stands; None where all were.

    **Source**: expected improvement times the probability of feasibility is that of Gardner et al. 2014.
    """
    on_good = [s for s in observed.search_trials if observed.builds.get(s.group) is TaskState.COMPLETE]
    ended = [s for s in on_good if s.state in (TaskState.COMPLETE, TaskState.PRUNED, TaskState.DIVERGED)]
    ok = np.array([s.state is not TaskState.DIVERGED and not s.violation for s in ended], float)
    if ok.all():
        return None
    points = observed.encoding.encode([s.params for s in ended])
    model = StageGP(observed.encoding.stages, points, np.array([s.group for s in ended], np.int64), ok)
    return lambda points, leaders: _likely(*model.predict(points, leaders))


def _likely(mean: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that something is fine, by a model of 1 for what was and 0 for what was not."""
    from scipy.special import ndtr

    chance: NDArray[np.float64] = ndtr((mean - 0.5) / np.hypot(sd, 0.1))
    return chance

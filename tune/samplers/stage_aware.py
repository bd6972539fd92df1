"""The stage-aware sampler, which chooses between another student on a built generator and a new generator. Torch-free.

It compares the expected improvement on the best per operation that is still to be done: a student on a built generator
costs itself, one on a new generator costs that generator, too. It is a pure function of the study's seed, the search
trial's number and the ledger, with costs in operations instead of seconds, so that a study that was killed and resumed
suggests what the uninterrupted one would have.

**Source**: expected improvement per remaining cost, with the results of earlier stages kept, Essofi et al. 2024
(EEIPU, arXiv:2411.03731). Our departures: one model over the stages instead of independent ones, exact costs,
collapse, pruned students, and a floor on new generators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hidfd.formatting import plural
from tune.samplers.acquisition import Candidates, ExpectedImprovement
from tune.samplers.observations import NEW_GENERATOR, Observations
from tune.study.config import StudyConfig
from tune.study.search_space import Space
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState

Remaining = Callable[[Mapping[str, Any], int | None], float | None]
"""Function that returns the operations that a student of these parameters still costs, on the generator of a group or
on a new one; None if the student cannot be tried: its values do not fit together, or it was tried already."""

NEW_GENERATOR_SHARE = 0.1
"""Fraction of the search's operations that goes into generators at least, so that it never stays on the first ones for
ever. The floor can waste no more than this fraction."""

NEGLIGIBLE_GAIN = 0.01
"""Expected improvement, as a fraction of the standard deviation of all values, below which a new generator is drawn at
random: the model has found all that it can see."""

NUM_PRICED = 8
"""Number of the best candidates, on built generators and on new ones each, whose cost is computed exactly."""


@dataclass(frozen=True)
class Choice:
    """The parameters and the generator of the next search trial.

    Attributes:
        params: dotted path -> value.
        leader: number of the search trial whose generator it shares; None for a new generator.
        why: reason for this choice, in words.
    """

    params: dict[str, Any]
    leader: int | None
    why: str


def choose(
    study: StudyConfig,
    space: Space,
    search_trials: Sequence[SearchTrial],
    builds: Mapping[int, TaskState],
    remaining: Remaining,
    given: Mapping[str, Any],
    *,
    has_fresh_seed: bool = False,
) -> Choice:
    """Choose the parameters of the next search trial, and the generator that it uses.

    Args:
        study: with the sampler's seed and its number of random students at the start.
        space: the search space.
        search_trials: those before it, with what is known of them by now.
        builds: number of the first search trial of each group -> state of the group's generator.
        remaining: cost of a student.
        given: values that are chosen already, of a point to try first.
        has_fresh_seed: whether equal parameters make another generator.
    """
    random = np.random.default_rng(np.random.SeedSequence((study.seed, len(search_trials))))
    observations = Observations(space, search_trials, builds, given, has_fresh_seed=has_fresh_seed)
    num_ended = sum(trial.state.is_final for trial in search_trials)
    if num_ended < study.startup_students or not observations.is_enough:
        return _at_random(study, observations, random, num_ended)
    expected = ExpectedImprovement(observations)
    new = _best_option(observations, expected.on_new_generators(random, NUM_PRICED), remaining)
    shared = _best_option(observations, expected.on_built_generators(random, NUM_PRICED), remaining)
    words = f"suggested by the stage-aware sampler from {plural(num_ended, 'student')} that had ended"
    if new is None and shared is None:
        return Choice(
            observations.params_of(observations.draw(random, 1)[0], None),
            None,
            f"{words}; nothing new is left, so at random",
        )
    gain = max(option.gain for option in (new, shared) if option is not None)
    if new is not None and gain < NEGLIGIBLE_GAIN * float(np.std(observations.values)):
        drawn = _best_option(observations, expected.at_random(random, NUM_PRICED), remaining) or new
        return Choice(
            drawn.params,
            None,
            f"drawn at random, with a generator of its own: nothing promises more than {100 * gain:.2g} points",
        )
    if shared is None:
        assert new is not None
        return Choice(new.params, None, f"{words}; a generator of its own: those that stand have nothing new to offer")
    position = observations.num_students_of(shared.leader) + 1
    on_one = f"on the generator of trial {shared.leader}, as number {position} of its students, {shared}"
    if new is None:
        return Choice(shared.params, shared.leader, f"{words}; {on_one}; no other generator is left")
    if observations.num_since_new * shared.cost * NEW_GENERATOR_SHARE >= (new.cost - shared.cost) * (
        1 - NEW_GENERATOR_SHARE
    ):
        spent = f"{plural(observations.num_since_new, 'student')} since the last new one"
        return Choice(new.params, None, f"{words}; a generator of its own, because it is time for one ({spent}): {new}")
    if new.rate > shared.rate:
        return Choice(new.params, None, f"{words}; a generator of its own: {new}, better than {on_one}")
    return Choice(shared.params, shared.leader, f"{words}; {on_one}, better than a generator of its own, {new}")


@dataclass(frozen=True)
class _Option:
    """A candidate with its cost.

    Attributes:
        params, leader: as in `Choice`.
        gain: expected improvement.
        cost: operations still to be done.
    """

    params: dict[str, Any]
    leader: int | None
    gain: float
    cost: float

    @property
    def rate(self) -> float:
        return self.gain / self.cost

    def __str__(self) -> str:
        return f"expected to improve on the best by {100 * self.gain:.3g} points for {self.cost:.3g} operations"


def _best_option(observations: Observations, candidates: Candidates, remaining: Remaining) -> _Option | None:
    """Return the candidate of the highest gain per operation; None if none can be tried."""
    options = []
    for point, number, gain in zip(candidates.points, candidates.leaders, candidates.gains, strict=True):
        leader = None if number == NEW_GENERATOR else int(number)
        params = observations.params_of(point, leader)
        cost = remaining(params, leader)
        if cost is not None:
            options.append(_Option(params, leader, float(gain), max(cost, 1.0)))
    return max(options, key=lambda option: option.rate, default=None)


def _at_random(study: StudyConfig, observations: Observations, random: np.random.Generator, num_ended: int) -> Choice:
    """Choose the parameters evenly at random, with `students_per_generator` students on each generator."""
    begins = f"begins when {max(study.startup_students, 2)} students have ended"
    words = f"drawn at random: the stage-aware sampler {begins}, {num_ended} had"
    for leader in observations.leaders:
        position = observations.num_students_of(leader.number) + 1
        points = observations.on_generator_of(leader, observations.draw(random, 20))
        untried = points[observations.is_untried(points, np.full(len(points), leader.number))]
        if position <= study.students_per_generator and len(untried):
            params = observations.params_of(untried[0], leader.number)
            return Choice(
                params, leader.number, f"{words}; shares the generator of trial {leader.number}, as number {position}"
            )
    points = observations.draw(random, 20)
    untried = points[observations.is_untried(points, np.full(len(points), NEW_GENERATOR))]
    return Choice(observations.params_of([*untried, *points][0], None), None, f"{words}; a generator of its own")

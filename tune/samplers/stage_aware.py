"""The stage-aware sampler: another student on a generator that stands, or a new generator? Torch-free.

Both are weighed by what they are expected to improve on the best, per operation that is still to be done: a student on
a generator that stands costs itself, one on a new generator that generator too. A pure function of the study's seed,
the suggestion's number and what the ledger holds, with costs in operations instead of seconds, so a study that was
killed and resumed suggests what the uninterrupted one would have.

**Source**: expected improvement per remaining cost with earlier stages remembered is that of Essofi et al. 2024
(EEIPU, arXiv:2411.03731). Ours: one model over the stages instead of independent ones, exact costs, collapse, pruned
students, and a floor on new generators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.samplers.acquisition import Candidates, ExpectedImprovement
from tune.samplers.observations import NEW, Observations
from tune.study.config import StudyConfig
from tune.study.search_space import Space
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState

Remaining = Callable[[Mapping[str, Any], int | None], float | None]
"""Operations that a student of these parameters still costs, on the generator of that group or on a new one; None where
they cannot be tried: values that do not fit together."""

NEW_GENERATOR_SHARE = 0.1
"""Floor: of all operations of the search at least so much goes into generators, so that it never stays on those it has
for ever. What the floor can waste is as much."""

NEGLIGIBLE_GAIN = 0.01
"""Of the standard deviation of what was shown: where nothing promises more, the model has found all that it can see,
and a generator is drawn at random, for what it cannot."""

NUM_PRICED = 8
"""Of each kind, so many of the best are priced exactly."""


@dataclass(frozen=True)
class Choice:
    """A suggestion.

    Attributes:
        params: dotted path -> value.
        leader: number of the suggestion whose generator it shares; None for a new generator.
        why: in words.
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
    """The next suggestion and the generator that it rests on.

    Args:
        study: sampler's seed and start-up.
        space: what is searched.
        suggestions: those before it, with what is observed of them by now.
        builds: number of a suggestion that opened a generator -> how that stands.
        remaining: prices a student.
        given: values that are settled already, of a point to try first.
        has_fresh_seed: equal parameters make another generator.
    """
    random = np.random.default_rng(np.random.SeedSequence((study.seed, len(search_trials))))
    observed = Observations(space, search_trials, builds, given, has_fresh_seed=has_fresh_seed)
    num_ended = sum(search_trial.state.is_final for search_trial in search_trials)
    if num_ended < study.startup_students or not observed.is_enough:
        return _at_random(study, observed, random, num_ended)
    prospects = ExpectedImprovement(observed)
    new = _cheapest(observed, prospects.new(random, NUM_PRICED), remaining)
    shared = _cheapest(observed, prospects.shared(random, NUM_PRICED), remaining)
    words = f"suggested by the stage-aware sampler from {num_ended} students that had ended"
    if new is None and shared is None:
        return Choice(
            observed.complete(observed.draw(random, 1)[0], None), None, f"{words}; nothing new is left, so at random"
        )
    gain = max(option.gain for option in (new, shared) if option is not None)
    if new is not None and gain < NEGLIGIBLE_GAIN * float(np.std(observed.values)):
        drawn = _cheapest(observed, prospects.anywhere(random, NUM_PRICED), remaining) or new
        return Choice(
            drawn.params,
            None,
            f"drawn at random, with a generator of its own: nothing promises more than {100 * gain:.2g} points",
        )
    if shared is None:
        assert new is not None
        return Choice(new.params, None, f"{words}; a generator of its own: those that stand have nothing new to offer")
    place = observed.size_of(shared.leader) + 1
    on_one = f"on the generator of trial {shared.leader}, as number {place} of its students, {shared}"
    if new is None:
        return Choice(shared.params, shared.leader, f"{words}; {on_one}; no other generator is left")
    if observed.num_since_new * shared.cost * NEW_GENERATOR_SHARE >= (new.cost - shared.cost) * (
        1 - NEW_GENERATOR_SHARE
    ):
        spent = f"{observed.num_since_new} students since the last new one"
        return Choice(new.params, None, f"{words}; a generator of its own, because it is time for one ({spent}): {new}")
    if new.rate > shared.rate:
        return Choice(new.params, None, f"{words}; a generator of its own: {new}, better than {on_one}")
    return Choice(shared.params, shared.leader, f"{words}; {on_one}, better than a generator of its own, {new}")


@dataclass(frozen=True)
class _Option:
    """A suggestion that could be made.

    Attributes:
        params, leader: of it.
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


def _cheapest(observed: Observations, candidates: Candidates, remaining: Remaining) -> _Option | None:
    """Of some points the one with the highest gain per operation."""
    options = []
    for point, number, gain in zip(candidates.points, candidates.leaders, candidates.gains, strict=True):
        leader = None if number == NEW else int(number)
        params = observed.complete(point, leader)
        cost = remaining(params, leader)
        if cost is not None:
            options.append(_Option(params, leader, float(gain), max(cost, 1.0)))
    return max(options, key=lambda option: option.rate, default=None)


def _at_random(study: StudyConfig, observed: Observations, random: np.random.Generator, num_ended: int) -> Choice:
    """Start-up: drawn evenly, so many students on each generator."""
    begins = max(study.startup_students, 2)
    words = f"drawn at random: the stage-aware sampler begins when {begins} students have ended, {num_ended} had"
    for leader in observed.leaders:
        place = observed.size_of(leader.number) + 1
        points = observed.on(leader, observed.draw(random, 20))
        untried = points[observed.is_untried(points, np.full(len(points), leader.number))]
        if place <= study.students_per_generator and len(untried):
            params = observed.complete(untried[0], leader.number)
            return Choice(
                params, leader.number, f"{words}; shares the generator of trial {leader.number}, as number {place}"
            )
    points = observed.draw(random, 20)
    untried = points[observed.is_untried(points, np.full(len(points), NEW))]
    return Choice(observed.complete([*untried, *points][0], None), None, f"{words}; a generator of its own")

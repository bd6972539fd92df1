"""What a study has seen so far, as points that a model can learn from. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune.samplers.encoding import Encoding, Points
from tune.study.search_space import Space
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState

NEW = -1
"""In place of the number of a suggestion whose generator is shared: a generator of its own."""

INFEASIBLE = (TaskState.COLLAPSED, TaskState.DIVERGED)
"""What the parameters are to blame for."""

MOST_STUDENTS = 300
"""That a model learns from, the best half and the newest half, so that a suggestion stays a fraction of a second."""

Leaders = NDArray[np.int64]
"""`number`-dim array: suggestions whose generators are shared, or `NEW`."""


class Observations:
    """What the ledger says, as points.

    Attributes:
        encoding: of the space.
        points, groups, values, noise: of students that showed something.
        feasible: whether these keep the constraints, as far as they were measured.
        pending, pending_groups: of those that have not.
        leaders: suggestions whose generator stands and has what is given.
        num_since_new: suggestions since the last new generator.
    """

    def __init__(
        self,
        space: Space,
        search_trials: Sequence[SearchTrial],
        builds: Mapping[int, TaskState],
        given: Mapping[str, Any],
        *,
        has_fresh_seed: bool,
    ) -> None:
        self.encoding = Encoding(space)
        self.search_trials, self.builds = search_trials, builds
        self.num_since_new = next(
            (n for n, search_trial in enumerate(reversed(search_trials)) if search_trial.group == search_trial.number),
            0,
        )
        self._space, self._given, self._has_fresh_seed = space, given, has_fresh_seed
        self._all = self.encoding.encode([search_trial.params for search_trial in search_trials])
        self._groups = np.array([search_trial.group for search_trial in search_trials], np.int64)
        shown = _shown(search_trials)
        rows = sorted(shown, key=lambda number: -shown[number][0])[: MOST_STUDENTS // 2]
        rows = sorted({*rows, *sorted(shown)[-MOST_STUDENTS // 2 :]})
        self.points, self.groups = self._all[rows], self._groups[rows]
        self.values = np.array([shown[row][0] for row in rows])
        self.noise = np.array([shown[row][1] for row in rows])
        self.feasible = np.array([not search_trials[row].violation for row in rows], bool)
        waiting = [s.number for s in search_trials if not s.state.is_final and s.number not in shown]
        self.pending, self.pending_groups = self._all[waiting], self._groups[waiting]
        best: dict[int, float] = {}
        for number, (value, _) in shown.items():
            group = search_trials[number].group
            best[group] = max(value, best.get(group, value))
        standing = [search_trials[n] for n, state in builds.items() if state is TaskState.COMPLETE]
        fitting = [
            leader
            for leader in standing
            if all(leader.params.get(path) == value for path, value in given.items() if path in space.upstream)
        ]
        # A generator without students yet comes first: it has been paid for.
        self.leaders = sorted(fitting, key=lambda leader: (-best.get(leader.number, float("inf")), leader.number))

    @property
    def is_enough(self) -> bool:
        """Whether a model can be fitted."""
        return len(set(self.values)) > 1

    def size_of(self, leader: int | None) -> int:
        """Students of a generator."""
        return int(np.sum(self._groups == leader))

    def draw(self, random: np.random.Generator, number: int) -> Points:
        """Points drawn evenly, with what is given."""
        return self.settle(self.encoding.draw(random, number))

    def settle(self, points: Points) -> Points:
        """Points as they would be tried: with what is given, at legal values."""
        given = self.encoding.encode([self._given])[0]
        is_given = np.array([path in self._given for path in self.encoding.paths], bool)
        return self.encoding.settle(np.where(is_given, given, points))

    def on(self, leader: SearchTrial, points: Points) -> Points:
        """The same students on a generator."""
        upstream = self.encoding.stages.is_upstream
        return self.settle(np.where(upstream, self._all[leader.number], points))

    def is_untried(self, points: Points, leaders: Leaders) -> NDArray[np.bool_]:
        """Whether points are no student that was suggested already; new generators must be new ones."""
        tried = set(zip(self._groups.tolist(), self._names(self._all), strict=True))
        generators = set() if self._has_fresh_seed else set(self._generator_names(self._all))
        named = zip(leaders.tolist(), self._names(points), self._generator_names(points), strict=True)
        untried = [
            generator not in generators if leader == NEW else (leader, student) not in tried
            for leader, student, generator in named
        ]
        return np.array(untried, bool)

    def complete(self, point: NDArray[np.float64], leader: int | None) -> dict[str, Any]:
        """A point as parameters; what is given, or held by a generator, to the last digit."""
        params = self.encoding.decode(point)
        held = dict(self._given)
        if leader is not None:
            held |= {path: v for path, v in self.search_trials[leader].params.items() if path in self._space.upstream}
        return {path: held.get(path, value) for path, value in params.items()}

    def _generator_names(self, points: Points) -> list[bytes]:
        return self._names(points[:, self.encoding.stages.is_upstream])

    def _names(self, points: Points) -> list[bytes]:
        """Equal for points that differ by rounding only."""
        return [row.tobytes() for row in np.round(points, 9) + 0.0]


def _shown(search_trials: Sequence[SearchTrial]) -> dict[int, tuple[float, float]]:
    """Number -> what a student showed, and the variance of what is not known of it.

    One that was not finished is taken at its last rung, plus what students that were finished gained from there on.
    """
    shown: dict[int, tuple[float, float]] = {}
    gains: dict[int, list[float]] = {}
    for search_trial in search_trials:
        if search_trial.value is not None:
            shown[search_trial.number] = search_trial.value, 0.0
            for images, decision in search_trial.rungs.items():
                gains.setdefault(images, []).append(search_trial.value - decision.value)
    for search_trial in search_trials:
        if search_trial.value is None and search_trial.rungs and search_trial.state not in INFEASIBLE:
            images = max(search_trial.rungs)
            gained = gains.get(images, [])
            if gained:
                mean = statistics.fmean(gained)
                spread = statistics.variance(gained) if len(gained) > 2 else mean**2
                shown[search_trial.number] = search_trial.rungs[images].value + mean, spread
    return shown

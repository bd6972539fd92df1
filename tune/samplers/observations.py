"""The observations of a study so far, as points and values that a model can learn from. Torch-free."""

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

NEW_GENERATOR = -1
"""Number in `Leaders` of students that get a new generator instead of sharing one."""

INFEASIBLE = (TaskState.COLLAPSED, TaskState.DIVERGED, TaskState.INFEASIBLE)
"""States of tasks whose parameters are to blame."""

MAX_STUDENTS = 300
"""Students that a model learns from, the best and the newest half each, so that a fit takes a fraction of a second."""

Leaders = NDArray[np.int64]
"""`number`-dim array: numbers of the search trials whose generators are shared, or `NEW_GENERATOR`."""


class Observations:
    """The search trials of a study as points and values.

    Attributes:
        encoding: of the search space.
        search_trials, builds: as they were given.
        points, groups, values, noise: of the students that have a value; noise is the variance of what is not known.
        feasible: whether these students keep the constraints, as far as they were measured.
        pending, pending_groups: of the students that have no value yet.
        leaders: search trials whose generator is built and has the given parameters; first those without a student,
            then those with the best ones.
        num_since_new: search trials since the last one with a new generator.
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
        """Read off what a model can learn; see `tune.samplers.stage_aware.choose` for the arguments."""
        self.encoding = Encoding(space)
        self.search_trials, self.builds = search_trials, builds
        self.num_since_new = next(
            (n for n, trial in enumerate(reversed(search_trials)) if trial.group == trial.number),
            0,
        )
        self._space, self._given, self._has_fresh_seed = space, given, has_fresh_seed
        self._all_points = self.encoding.encode([trial.params for trial in search_trials])
        self._groups = np.array([trial.group for trial in search_trials], np.int64)
        measured = _measured_values(search_trials)
        numbers = sorted(measured, key=lambda number: -measured[number][0])[: MAX_STUDENTS // 2]
        numbers = sorted({*numbers, *sorted(measured)[-MAX_STUDENTS // 2 :]})
        self.points, self.groups = self._all_points[numbers], self._groups[numbers]
        self.values = np.array([measured[number][0] for number in numbers])
        self.noise = np.array([measured[number][1] for number in numbers])
        self.feasible = np.array([not search_trials[number].violation for number in numbers], bool)
        waiting = [s.number for s in search_trials if not s.state.is_final and s.number not in measured]
        self.pending, self.pending_groups = self._all_points[waiting], self._groups[waiting]
        best: dict[int, float] = {}
        for number, (value, _) in measured.items():
            group = search_trials[number].group
            best[group] = max(value, best.get(group, value))
        built = [search_trials[n] for n, state in builds.items() if state is TaskState.COMPLETE]
        fitting = [
            leader
            for leader in built
            if all(leader.params.get(path) == value for path, value in given.items() if path in space.upstream)
        ]
        # A generator without students yet comes first: it has been paid for.
        self.leaders = sorted(fitting, key=lambda leader: (-best.get(leader.number, float("inf")), leader.number))

    @property
    def is_enough(self) -> bool:
        """Whether there are enough different values to fit a model."""
        return len(set(self.values)) > 1

    def num_students_of(self, leader: int | None) -> int:
        """Return the number of students that share the generator of a search trial."""
        return int(np.sum(self._groups == leader))

    def draw(self, random: np.random.Generator, number: int) -> Points:
        """Draw points evenly, with the given parameters."""
        return self.snap(self.encoding.draw(random, number))

    def snap(self, points: Points) -> Points:
        """Snap points to legal values, with the given parameters."""
        given = self.encoding.encode([self._given])[0]
        is_given = np.array([path in self._given for path in self.encoding.paths], bool)
        return self.encoding.snap(np.where(is_given, given, points))

    def on_generator_of(self, leader: SearchTrial, points: Points) -> Points:
        """Return points with the upstream parameters of a search trial, so that they share its generator."""
        upstream = self.encoding.stages.is_upstream
        return self.snap(np.where(upstream, self._all_points[leader.number], points))

    def is_untried(self, points: Points, leaders: Leaders) -> NDArray[np.bool_]:
        """Whether each point is a student that no search trial has tried; a new generator must be untried, too."""
        tried = set(zip(self._groups.tolist(), self._keys_of_points(self._all_points), strict=True))
        generators = set() if self._has_fresh_seed else set(self._keys_of_generators(self._all_points))
        named = zip(leaders.tolist(), self._keys_of_points(points), self._keys_of_generators(points), strict=True)
        untried = [
            generator not in generators if leader == NEW_GENERATOR else (leader, student) not in tried
            for leader, student, generator in named
        ]
        return np.array(untried, bool)

    def params_of(self, point: NDArray[np.float64], leader: int | None) -> dict[str, Any]:
        """Return the parameters at a point; given ones and those shared with a leader are exact to the last digit."""
        params = self.encoding.decode(point)
        fixed = dict(self._given)
        if leader is not None:
            fixed |= {path: v for path, v in self.search_trials[leader].params.items() if path in self._space.upstream}
        return {path: fixed.get(path, value) for path, value in params.items()}

    def _keys_of_generators(self, points: Points) -> list[bytes]:
        return self._keys_of_points(points[:, self.encoding.stages.is_upstream])

    def _keys_of_points(self, points: Points) -> list[bytes]:
        """Return keys of points that are equal for points which differ by rounding only."""
        return [row.tobytes() for row in np.round(points, 9) + 0.0]


def _measured_values(search_trials: Sequence[SearchTrial]) -> dict[int, tuple[float, float]]:
    """Return number -> value of a student, and the variance of what is not known of it.

    An unfinished student has its value at its last rung, plus what finished students gained from there on the average.
    """
    measured: dict[int, tuple[float, float]] = {}
    gains: dict[int, list[float]] = {}
    for trial in search_trials:
        if trial.value is not None:
            measured[trial.number] = trial.value, 0.0
            for images, decision in trial.rungs.items():
                gains.setdefault(images, []).append(trial.value - decision.value)
    for trial in search_trials:
        if trial.value is None and trial.rungs and trial.state not in INFEASIBLE:
            images = max(trial.rungs)
            gained = gains.get(images, [])
            if gained:
                mean = statistics.fmean(gained)
                spread = statistics.variance(gained) if len(gained) > 2 else mean**2
                measured[trial.number] = trial.rungs[images].value + mean, spread
    return measured

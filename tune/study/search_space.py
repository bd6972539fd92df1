"""The search space: paths into `trial:`, checked before anything runs and split by what they change. Torch-free.

A parameter is *upstream* if it changes the digest of the synthetic images (or of the collection, where a trial has
none), else *downstream*: students that differ only downstream share one generator.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from hidfd.config.paths import field_at, with_values
from hidfd.config.schema import TrialConfig
from hidfd.config.validation import parts_of
from hidfd.errors import ConfigError
from hidfd.formatting import meant_or_known
from tune.study.config import (
    FRESH_SEED,
    CategoricalParameter,
    Choice,
    FloatParameter,
    IntParameter,
    RealParameter,
    SearchConfig,
    StudyConfig,
)
from tune.study.task import task_specs, upstream_key

FIXED = {
    "preset": "overlays are applied before the search",
    "method": "each method has settings of its own to search; compare methods in `study.variants`",
    "precision": "students of two precisions are not one comparison; use `study.variants`",
    "data": "each choice would be judged on other images; write a second study file",
    "teacher": "agreement with different teachers cannot be compared; write a second study file",
    "judge": "generators are judged in the features of one network; write a second study file",
    "collection.holdout_images": "the hold-out is what students are judged on, one set for all trials of a study",
    "seeds": "the trials of a search share their seeds, so that equal settings share their generator",
}
"""Paths that a search may not vary, nor anything below them -> the reason."""

MAX_GRID_VALUES = 1_000_000
"""Largest number of values that a grid goes through one by one."""

MOST_CONTEXTS = 50
"""Number of values of a parameter with which all others are checked: every pair of long lists would take hours."""


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        upstream, downstream: dotted path -> parameter, in the file's order, each after those that it depends on.
        values: dotted path -> all values in order, for a grid; None where the range is continuous.
        conditions: dotted path of a conditional parameter -> path of another -> values under which it is searched.
    """

    upstream: dict[str, RealParameter]
    downstream: dict[str, RealParameter]
    values: dict[str, Sequence[Choice] | None]
    conditions: dict[str, dict[str, tuple[Choice, ...]]] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, RealParameter]:
        """All searched parameters, upstream first, each after those that it depends on."""
        return self.upstream | self.downstream

    def is_active(self, path: str, params: Mapping[str, Any]) -> bool:
        """Whether a parameter is searched, given the values of those before it."""
        conditions = self.conditions.get(path, {})
        return all(other in params and params[other] in allowed for other, allowed in conditions.items())

    def grid(self) -> Iterator[dict[str, Choice]]:
        """Yield every combination; the last downstream parameter changes fastest, so that neighbours share a generator.

        Raises:
            ConfigError: a parameter is continuous.
        """
        paths = list(self.parameters)
        for combination in itertools.product(*map(self._finite, paths)):
            params: dict[str, Choice] = {}
            for path, value in zip(paths, combination, strict=True):
                if self.is_active(path, params):
                    params[path] = value
            # The values of a parameter that is not searched here make no difference: only the first counts.
            off = [(path, value) for path, value in zip(paths, combination, strict=True) if path not in params]
            if all(value == self._finite(path)[0] for path, value in off):
                yield params

    def grid_size(self) -> int:
        """Return the number of combinations.

        Raises:
            ConfigError: a parameter is continuous, or has too many values to go through.
        """
        counts = {path: len(self._finite(path)) for path in self.parameters}
        for path, count in counts.items():
            if count > MAX_GRID_VALUES:
                raise ConfigError(
                    f"search.{path}: {count:,} values are too many for a grid, at most {MAX_GRID_VALUES:,}; give a "
                    f"larger `step`, or another study.sampler"
                )
        if not self.conditions:
            return math.prod(counts.values())
        if math.prod(counts.values()) > MAX_GRID_VALUES:
            raise ConfigError(
                f"study.sampler: a grid with conditions (`when`) has at most {MAX_GRID_VALUES:,} combinations before "
                f"they are applied, found {math.prod(counts.values()):,}; give larger steps, or another sampler"
            )
        return sum(1 for _ in self.grid())

    def students_per_generator_of_grid(self) -> int:
        """Return the number of combinations that share a generator; an upper bound where some are conditional."""
        return math.prod(len(self._finite(path)) for path in self.downstream)

    def _finite(self, path: str) -> Sequence[Choice]:
        values = self.values[path]
        if values is None:
            raise ConfigError(f"search.{path}: a grid needs `step` or `type: categorical`, found a continuous range")
        return values


def build_space(search: SearchConfig, study: StudyConfig, base: TrialConfig) -> Space:
    """Check `search:` against the trial's own fields and sort it into upstream and downstream.

    Args:
        search: the section `search:`.
        study: the section `study:`; a grid needs finite parameters, ASHA equal budgets.
        base: the section `trial:`, with the sha256 of its materials.

    Raises:
        ConfigError: a path that does not exist, leaves its field's bounds, has the wrong type, changes no result, or
            would make trials incomparable; every such problem at once.
    """
    problems: list[str] = []
    upstream: dict[str, RealParameter] = {}
    downstream: dict[str, RealParameter] = {}
    values: dict[str, Sequence[Choice] | None] = {}
    conditions = {path: parameter.conditions() for path, parameter in search.items() if parameter.when}
    for path, parameter in _in_order(search, conditions, problems):
        try:
            is_upstream = _check(path, parameter, search, study, base)
        except ConfigError as error:
            problems.append(str(error))
            continue
        (upstream if is_upstream else downstream)[path] = parameter
        values[path] = parameter.grid()
    for path in upstream:
        problems += [
            f"search.{path}.when: {other} changes the student only, and {path} the generator, which students of "
            f"several {other} share; let it depend on parameters of the generator"
            for other in conditions.get(path, {})
            if other in downstream
        ]
    if not problems and search.has_fresh_seed and not base.uses_generator:
        problems.append(f"search.{FRESH_SEED}: this trial has no generator that could get a fresh seed")
    if problems:
        raise ConfigError("\n".join(problems))
    space = Space(upstream, downstream, values, conditions)
    _check_points(space, search, study, base)
    if search and study.sampler == "grid":
        space.grid_size()
    return space


def _in_order(
    search: SearchConfig, conditions: Mapping[str, Mapping[str, tuple[Choice, ...]]], problems: list[str]
) -> list[tuple[str, RealParameter]]:
    """Return the parameters, each after those that it depends on; add to `problems` what prevents such an order."""
    parameters = dict(search.items())
    for path, needed in conditions.items():
        for other, allowed in needed.items():
            found = parameters.get(other)
            if found is None:
                others = [known for known in parameters if known != path]
                problems.append(f"search.{path}.when: {other} is not searched; {meant_or_known(other, others)}")
            elif isinstance(found, FloatParameter):
                problems.append(f"search.{path}.when: {other} is continuous; conditions need int or categorical")
            else:
                problems += [
                    f"search.{path}.when.{other}: {value!r} is none of its values"
                    for value in allowed
                    if value not in (found.grid() or ())
                ]
    if problems:
        return list(parameters.items())
    ordered: dict[str, RealParameter] = {}
    while len(ordered) < len(parameters):
        free = [
            path for path in parameters if path not in ordered and ordered.keys() >= conditions.get(path, {}).keys()
        ]
        if not free:
            circle = ", ".join(path for path in parameters if path not in ordered)
            problems.append(f"search: the conditions (`when`) of {circle} depend on each other in a circle")
            return list(parameters.items())
        ordered |= {path: parameters[path] for path in free}
    return list(ordered.items())


def _check_points(space: Space, search: SearchConfig, study: StudyConfig, base: TrialConfig) -> None:
    """Raise ConfigError for a given point outside the space."""
    problems = []
    for number, point in enumerate(study.points):
        where = f"study.points[{number}]"
        for path, value in point.items():
            parameter = search.get(path)
            if parameter is None:
                problems.append(f"{where}.{path}: not searched; {meant_or_known(path, space.parameters)}")
            elif not _lies_within(value, parameter):
                problems.append(f"{where}.{path}: {value!r} is outside of what is searched")
            elif not space.is_active(path, point):
                problems.append(f"{where}.{path}: not searched there; its `when` needs {space.conditions[path]}")
        if not problems:
            try:
                changed(base, point)
            except ConfigError as error:
                problems.append(f"{where}: {error}")
    if study.points and study.sampler == "grid":
        problems.append("study.points: a grid tries every point in its own order; take them out")
    if problems:
        raise ConfigError("\n".join(problems))


def _lies_within(value: Choice, parameter: RealParameter) -> bool:
    """Whether a searched parameter can have a value."""
    if isinstance(parameter, CategoricalParameter):
        return any(type(value) is type(choice) and value == choice for choice in parameter.choices)
    if isinstance(value, bool | str) or (isinstance(parameter, IntParameter) and isinstance(value, float)):
        return False
    if not parameter.low <= value <= parameter.high:
        return False
    steps = (value - parameter.low) / parameter.step if parameter.step else 0.0
    return math.isclose(steps, round(steps), abs_tol=1e-6)


def changed(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Return the trial with other values at dotted paths.

    Raises:
        ConfigError: a path that does not exist, a value out of its range, or values that do not fit together.
    """
    try:
        return with_values(config, values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            for named, message in parts_of(problem["msg"]):
                where = ".".join(["trial", *(str(part) for part in problem["loc"]), *named])
                found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
                lines.append(f"{where}: {message}{found}")
        raise ConfigError("; ".join(lines)) from error


def _check(
    path: str,
    parameter: RealParameter,
    search: SearchConfig,
    study: StudyConfig,
    base: TrialConfig,
) -> bool:
    """Whether the path is upstream; raises ConfigError where it cannot be searched."""
    try:
        field_at(path)
    except ConfigError as error:
        raise ConfigError(f"search.{path}: {error}") from error
    for fixed, reason in FIXED.items():
        if path == fixed or path.startswith(f"{fixed}."):
            raise ConfigError(f"search.{path}: cannot be searched: {reason}")
    if study.pruner.kind == "asha" and path in ("distillation.target_images", "distillation.batch_images"):
        raise ConfigError(
            f"search.{path}: ASHA compares students at exactly equal images of one schedule, which this would break; "
            f"set study.pruner.kind: none, or take it out of the search"
        )
    for value in parameter.edges():
        try:
            config = changed(base, {path: value})
        except ConfigError as error:
            raise ConfigError(f"search.{path}: {value!r} is not allowed there: {error}") from error
        taken = _value_at(config, path)
        if taken != value or (isinstance(value, float) and isinstance(taken, int)):
            raise ConfigError(
                f"search.{path}: {value!r} would be read as {taken!r}; the field takes {type(taken).__name__}, "
                f"search it as such"
            )
    effects: list[str] = []
    for config in _contexts(path, search, base):
        values = parameter.edges() if not effects else _evenly(parameter.edges(), MOST_CONTEXTS)
        effects.append(_effect(config, path, values))
        if effects[-1] == "upstream":
            return True
    if "none" in effects and len(set(effects)) == 1 and len(set(parameter.edges())) > 1:
        raise ConfigError(
            f"search.{path}: does not change any result of this trial (it is outcome-neutral, or what it belongs to is "
            f"off); take it out of the search"
        )
    return False


def _contexts(path: str, search: SearchConfig, base: TrialConfig) -> Iterator[TrialConfig]:
    """Yield the trial itself and with each other parameter at its edges: what one switches off, another switches on."""
    yield base
    own = search.get(path)
    for other, allowed in (own.conditions() if own else {}).items():
        for value in allowed:
            with contextlib.suppress(ConfigError):
                yield changed(base, {other: value})
    for other, parameter in search.items():
        if other != path:
            for value in _evenly(parameter.edges(), MOST_CONTEXTS):
                with contextlib.suppress(ConfigError):
                    yield changed(base, {other: value})


def _evenly(values: Sequence[Choice], most: int) -> Sequence[Choice]:
    """Return all values, or as many as are asked for at equal distances."""
    return values if len(values) <= most else [values[number * len(values) // most] for number in range(most)]


def _effect(config: TrialConfig, path: str, edges: Sequence[Choice]) -> Literal["upstream", "downstream", "none"]:
    """Return the part of the trial that changes between the edge values of a path."""
    upstream, whole = set(), set()
    for value in edges:
        with contextlib.suppress(ConfigError):
            trial = changed(config, {path: value})
            upstream.add(upstream_key(trial))
            whole.add(task_specs(trial)[-1].key)
    return "upstream" if len(upstream) > 1 else "downstream" if len(whole) > 1 else "none"


def _value_at(config: TrialConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value

"""The `study:` and `search:` sections of a study file. Torch-free.

    study:
      num_students: 8
      students_per_generator: 3
      pruner: {kind: asha, first_rung_fraction: 0.5}
    search:
      distillation.inflation: {type: float, low: 1, high: 20, log: true}
      generation.smoothing.temperature: {type: categorical, choices: [1, 2, 4]}

or, for a table of ablations, no search but

    study:
      seeds: [1, 2, 3]
      variants:
        hybrid: {}
        real-only: {synthesis.num_images: 0}
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, RootModel, field_validator, model_validator

from hidfd.config.schema import LearningRate, Section, Seed
from tune.study.metrics import LATENCY, MEASURES, Direction, MeasureName, Objective

Choice = bool | int | float | str
"""What a searched parameter can be."""

FRESH_SEED = "seeds.generation"

Hours = Annotated[float, Field(gt=0, le=1e7)]


class PrunerConfig(Section):
    """Stopping students early, by their agreement at exactly equal student images."""

    kind: Literal["asha", "none"] = "asha"

    first_rung_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Where the first comparison stands, as a share of the student's budget. Earlier ones may rank the hybrid wrongly:
    synthetic images help late."""

    reduction_factor: float = Field(default=2.0, gt=1.0, le=16.0)
    """One in so many goes on at each rung, and the next rung is so many times further on."""


class ControlsConfig(Section):
    """What the best trial is held against, on the same fresh seeds and at the same number of student steps."""

    real_only: bool = True
    """The collected images alone. Without it the worth of the generator is unproven."""

    synthetic_only: bool = True

    plain_kd: bool = True
    """The same hybrid images with a head of the student's own and the KL term only."""

    plain_kd_learning_rate: LearningRate = 0.05
    """Of plain KD: its best one differs from that of feature alignment."""


class Bound(Section):
    """What a student must keep to be taken; the bounds themselves are kept."""

    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("bounds nothing; give `max:`, `min:` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) must not be above max ({self.max:g})")
        return self

    def violation(self, value: float) -> float:
        """By how much a value misses it, as a share of the bound (of 1 where that is 0); 0 where it keeps it."""
        over = 0.0 if self.max is None else (value - self.max) / (abs(self.max) or 1.0)
        under = 0.0 if self.min is None else (self.min - value) / (abs(self.min) or 1.0)
        return max(over, under, 0.0)


class BudgetConfig(Section):
    """What a study may cost: hours that its tasks held processors and GPUs, whether they used them or not.

    Every attempt counts, also one that was lost. When the budget is used up, what runs saves a checkpoint and stops;
    the same command goes on from there once the budget is raised. Enough for the comparison at the end is kept back.
    """

    cpu_hours: Hours | None = None
    gpu_hours: Hours | None = None
    wall_hours: Hours | None = None
    """During which anything ran."""

    money: float | None = Field(default=None, gt=0)
    """At the prices below."""

    price_per_cpu_hour: float = Field(default=0.0, ge=0)
    price_per_gpu_hour: float = Field(default=0.0, ge=0)
    currency: str = Field(default="EUR", min_length=1, max_length=8)

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return any(limit is not None for limit in (self.cpu_hours, self.gpu_hours, self.wall_hours, self.money))

    @model_validator(mode="after")
    def _money_has_a_price(self) -> Self:
        if self.money is not None and not self.price_per_cpu_hour and not self.price_per_gpu_hour:
            raise ValueError("money needs price_per_cpu_hour or price_per_gpu_hour, else nothing would ever cost any")
        return self


class StudyConfig(Section):
    """What is looked for, how, and what the result is held against."""

    objective: Objective = "agreement"
    """Maximised. `agreement` with the teacher on the hold-out needs no labels; `validation_accuracy` needs
    `trial.data.validation`, and is never taken just because that exists."""

    further_objectives: dict[MeasureName, Direction] = Field(default_factory=dict)
    """Traded off against the objective, such as `deployed_parameters: minimise`: the result is a Pareto front, of which
    the finalists are the students of the highest `objective`."""

    constraints: dict[MeasureName, Bound] = Field(default_factory=dict)
    """What a student must keep, such as `deployed_parameters: {max: 1.0e6}`: one that does not is no finalist and no
    champion. `latency_milliseconds` is the median of forward passes of the deployed network on one image, on one thread
    of the CPU of the machine that trained it, under whatever else ran there."""

    sampler: Literal["tpe", "stage-aware", "random", "grid"] = "tpe"

    startup_students: int = Field(default=10, ge=1, le=10_000)
    """TPE and the stage-aware sampler draw at random until so many students have ended."""

    seed: Seed = 0
    """Of the sampler: suggestion number n depends on this, n, and the results so far."""

    num_students: int = Field(default=20, ge=1, le=100_000)
    """How many the search suggests. A grid ends earlier when it is used up."""

    students_per_generator: int = Field(default=3, ge=1, le=10_000)
    """Upstream parameters (those that change the synthetic images) are suggested anew for every n-th student and held
    for those between, which share one generator. A grid keeps to its own order instead; the stage-aware sampler decides
    each time whether a new generator is worth its cost, and keeps to this only while it draws at random."""

    points: tuple[dict[str, Choice], ...] = ()
    """Tried first, in this order: searched path -> value. What a point leaves open is suggested as always."""

    pruner: PrunerConfig = PrunerConfig()

    concurrency: int = Field(default=1, ge=1, le=10_000)
    """Tasks side by side, each with the `resources:` of the study file."""

    hung_after_minutes: float | None = Field(default=60.0, gt=0.0)
    """A task that tells nothing for so long is asked to stop, and soon after its process is killed. Loops tell
    how far they are at every `log_every_images`; synthesis, evaluation and the hold-out's measures tell nothing while
    they last, so it has to be longer than those. Null: never."""

    budget: BudgetConfig = BudgetConfig()

    num_finalists: int = Field(default=1, ge=1, le=100)
    """So many of the best trials of the search are run again on each of `seeds`; the best of these is the champion."""

    controls: ControlsConfig = ControlsConfig()

    test_labels: Literal["once", "never"] = "once"
    """Where `trial.data.test` is given: when everything has been chosen and compared, its labels are opened for the
    best trial and its controls on every one of `seeds`, and the ledger keeps that and when. What comes later, as by
    `--seeds 3`, is opened then, as a further opening on record. `never` while you are still trying things out."""

    seeds: tuple[Seed, ...] = (1001,)
    """Fresh seeds of generation, synthesis and distillation: for the best trial and its controls, and for variants."""

    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name -> overrides (dotted path into `trial:` -> value). Each runs in full on each of `seeds`, over the study's
    own material: other images or another checkpoint are another study file."""

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("give at least one seed, and none of them twice")
        return seeds

    @field_validator("variants")
    @classmethod
    def _plain_names(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in variants:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}", name):
                raise ValueError(f"variant {name!r}: use letters, digits and . _ + - (it names a folder)")
        return variants

    @field_validator("further_objectives")
    @classmethod
    def _better_is_better(cls, further: dict[str, Direction]) -> dict[str, Direction]:
        for name, direction in further.items():
            if direction != MEASURES[name].direction:
                raise ValueError(f"{name}: {direction} would look for the worst; expected {MEASURES[name].direction}")
        return dict(sorted(further.items()))  # the order means nothing, and a ledger keeps to one

    @model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        if self.objective in self.further_objectives:
            raise ValueError(
                f"study.further_objectives: {self.objective} is the objective already; name what it is traded off "
                f"against, such as deployed_parameters: minimise"
            )
        if self.further_objectives and self.sampler == "stage-aware":
            raise ValueError(
                "study.sampler: stage-aware follows one objective; use tpe, random or grid with further_objectives, or "
                "make them constraints"
            )
        return self

    @property
    def judged(self) -> tuple[str, ...]:
        """Every measure that decides about a student: the objective first."""
        return tuple(dict.fromkeys([self.objective, *self.further_objectives, *self.constraints]))

    @property
    def measures_latency(self) -> bool:
        """Whether students are timed."""
        return LATENCY in self.judged

    def unmeasured(self, metrics: Mapping[str, float]) -> str | None:
        """A measure that decides about a student and has no finite value; None where all have."""
        return next((name for name in self.judged if not math.isfinite(metrics.get(name, math.nan))), None)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much a student misses the constraints, 0 where it keeps them all."""
        return sum(bound.violation(metrics[name]) for name, bound in self.constraints.items())

    def with_num_seeds(self, number: int) -> StudyConfig:
        """The same study on the first `number` seeds, counting on from the last one given."""
        seeds = list(self.seeds[:number])
        while len(seeds) < number:
            seeds.append(max(seeds) + 1)
        return self.model_copy(update={"seeds": tuple(seeds)})


class _Parameter(Section):
    """What every kind of parameter may have."""

    when: dict[str, Choice | tuple[Choice, ...]] = Field(default_factory=dict)
    """Searched only where other searched parameters have these values (one, or one of a list); elsewhere the value of
    `trial:` stands."""

    def conditions(self) -> dict[str, tuple[Choice, ...]]:
        """Path -> values under which it is searched."""
        return {path: found if isinstance(found, tuple) else (found,) for path, found in self.when.items()}


class FloatParameter(_Parameter):
    """A real number between two bounds, both included."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Drawn evenly in its logarithm."""

    step: float | None = Field(default=None, gt=0.0)
    """Only low, low + step, ...; not together with `log`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step is not None)
        return self

    def edges(self) -> tuple[Choice, ...]:
        """Values that must all be legal for the whole range to be."""
        return self.low, self.high

    def grid(self) -> tuple[Choice, ...] | None:
        """All its values in order; None for a continuous range."""
        if self.step is None:
            return None
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))  # 0.1 + 2 * 0.1 > 0.3
        return tuple(float(low + n * step) for n in range(int((high - low) // step) + 1))


class IntParameter(_Parameter):
    """A whole number between two bounds, both included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    """Drawn evenly in its logarithm."""

    step: int = Field(default=1, ge=1)
    """Only low, low + step, ...; not together with `log`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step != 1)
        return self

    def edges(self) -> tuple[Choice, ...]:
        """Values that must all be legal for the whole range to be."""
        return self.low, self.high

    def grid(self) -> tuple[Choice, ...] | None:
        """All its values in order."""
        return tuple(range(self.low, self.high + 1, self.step))


class CategoricalParameter(_Parameter):
    """One of a list, without order."""

    type: Literal["categorical"]
    choices: tuple[Choice, ...] = Field(min_length=1)

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        if len({(type(choice), choice) for choice in choices}) < len(choices):
            raise ValueError("a choice stands there twice")
        return choices

    def edges(self) -> tuple[Choice, ...]:
        """Values that must all be legal."""
        return self.choices

    def grid(self) -> tuple[Choice, ...] | None:
        """All its values in order."""
        return self.choices


class FreshSeed(Section):
    """At `seeds.generation`: every new generator gets a seed of its own, so that sharing one cannot hide its luck."""

    type: Literal["fresh_seed"]


RealParameter = FloatParameter | IntParameter | CategoricalParameter
Parameter = Annotated[RealParameter | FreshSeed, Field(discriminator="type")]


class SearchConfig(RootModel[dict[str, Parameter]]):
    """What is searched: dotted path into `trial:` -> parameter."""

    root: dict[str, Parameter] = Field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.root)

    @model_validator(mode="after")
    def _fresh_seed_has_its_place(self) -> Self:
        for path, parameter in self.root.items():
            if isinstance(parameter, FreshSeed) and path != FRESH_SEED:
                raise ValueError(f"{path}: type fresh_seed has its place at {FRESH_SEED} only")
        return self

    @property
    def has_fresh_seed(self) -> bool:
        """Whether every new generator gets a seed of its own."""
        return isinstance(self.root.get(FRESH_SEED), FreshSeed)

    def items(self) -> Iterator[tuple[str, RealParameter]]:
        """Paths with the parameters that are suggested, in the file's order."""
        for path, parameter in self.root.items():
            if not isinstance(parameter, FreshSeed):
                yield path, parameter

    def get(self, path: str) -> RealParameter | None:
        """The parameter at a path, if one is suggested there."""
        return dict(self.items()).get(path)


def _check_range(low: float, high: float, *, log: bool, has_step: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low ({low}) must not be above high ({high}), and both finite")
    if log and low <= 0:
        raise ValueError(f"log needs low above 0, found {low}")
    if log and has_step:
        raise ValueError("log and step exclude each other")

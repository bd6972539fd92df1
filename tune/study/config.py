"""The sections `study:` and `search:` of a study file. Torch-free.

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

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, RootModel, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hidfd.config.section import ABSENT_IF_DEFAULT, LearningRate, Section, Seed
from tune.study.metrics import LATENCY, MEASURES, Direction, MeasureName, Objective


def _one_value(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise PydanticCustomError(
            "no_single_value",
            "Input should be a word, a number or true/false (for anything else, compare study.variants, or search a "
            "setting inside it)",
        )
    return value


Choice = Annotated[bool | int | float | str, BeforeValidator(_one_value)]
"""A value of a searched parameter."""

REAL_ONLY: dict[str, Any] = {"data.synthetic": None, "synthesis.num_images": 0}
"""Overrides that leave a hybrid trial its collected images alone."""

FRESH_SEED = "seeds.generation"
"""The only path at which `type: fresh_seed` is allowed."""

MAX_STEPS = 1_000_000
"""Largest number of steps between the bounds of a real parameter."""

Hours = Annotated[float, Field(gt=0, le=1e7)]


class PrunerConfig(Section):
    """The pruner, which stops students early by their agreement at exactly equal student images."""

    kind: Literal["asha", "none"] = "asha"

    first_rung_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the student's images at which the first rung compares. An earlier one may rank the hybrid wrongly:
    synthetic images help late."""

    reduction_factor: float = Field(default=2.0, gt=1.0, le=16.0)
    """One student in so many goes on at each rung, and the next rung is at so many times as many images."""

    margin: float = Field(default=0.0, ge=0.0, le=10.0, json_schema_extra=ABSENT_IF_DEFAULT)
    """Standard errors of a difference by which a student must be behind the weakest that goes on to be stopped; with 0
    any difference counts. With 1,000 hold-out images and an agreement of 80 % one is 1.8 points."""


class ControlsConfig(Section):
    """Controls beside the best trial, on the same fresh seeds and at the same number of student steps."""

    real_only: bool = True
    """Train on the collected images alone. Without this control the worth of the generator is unproven."""

    real_only_values: dict[str, Any] = Field(default_factory=dict)
    """Dotted path below `distillation.` -> value that the real-only control has instead of the best trial's, such as
    the strongest augmentation: the best settings of a student without synthetic images are other ones."""

    synthetic_only: bool = True
    """Train on the synthetic images alone."""

    plain_kd: bool = True
    """Train on the same hybrid images with a head of the student's own and the KL term only."""

    plain_kd_learning_rate: LearningRate = 0.05
    """Learning rate of plain KD, whose best one differs from that of feature alignment."""


class Bound(Section):
    """Bounds of a measure that a student must keep; a value at a bound keeps it."""

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
        """Return by how much a value misses the bound, as a share of it (of 1 where it is 0); 0 where it is kept."""
        over = 0.0 if self.max is None else (value - self.max) / (abs(self.max) or 1.0)
        under = 0.0 if self.min is None else (self.min - value) / (abs(self.min) or 1.0)
        return max(over, under, 0.0)


class BudgetConfig(Section):
    """Limits on what a study costs: hours that its tasks held processors and GPUs, whether they used them or not.

    Every attempt counts, also one that was lost. When the budget is used up, what runs saves a checkpoint and stops;
    the same command goes on from there once the budget is raised. Enough for the comparison at the end is kept back.
    """

    cpu_hours: Hours | None = None
    gpu_hours: Hours | None = None
    wall_hours: Hours | None = None
    """Hours during which any task ran."""

    money: float | None = Field(default=None, gt=0)
    """Cost of the CPU and GPU hours, at the prices below."""

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
    """The section `study:`: the objective, the search for it, and the comparison at the end."""

    objective: Objective = "agreement"
    """Measure that is maximised. `agreement` with the teacher on the hold-out needs no labels; `validation_accuracy`
    needs `trial.data.validation`, and is never taken just because that exists."""

    further_objectives: dict[MeasureName, Direction] = Field(default_factory=dict)
    """Measures that are traded off against the objective, such as `deployed_parameters: minimise`: the result is a
    Pareto front, whose students of the highest `objective` are the finalists."""

    constraints: dict[MeasureName, Bound] = Field(default_factory=dict)
    """Bounds that a student must keep to become a finalist or the champion, such as
    `deployed_parameters: {max: 1.0e6}`. `latency_milliseconds` is the median of forward passes of the deployed network
    on one image, on one thread of the CPU of the machine that trained it, under whatever else ran there."""

    sampler: Literal["tpe", "stage-aware", "random", "grid"] = Field(
        default_factory=lambda given: "tpe" if given.get("further_objectives") else "stage-aware"
    )
    """Sampler that suggests the search trials. Where it is not given: that with which the study was begun; else
    `stage-aware`, or `tpe` with `further_objectives`, since the stage-aware sampler follows one objective."""

    startup_students: int = Field(default=10, ge=1, le=10_000)
    """Number of students that have to end before TPE and the stage-aware sampler use results; until then they draw at
    random."""

    seed: Seed = 0
    """Seed of the sampler: search trial number n depends on this, n, and the results so far."""

    num_students: int = Field(default=20, ge=1, le=100_000)
    """Number of search trials. A grid ends earlier when it is used up."""

    students_per_generator: int = Field(default=3, ge=1, le=10_000)
    """Number of students that share a generator: upstream parameters (those that change the synthetic images) are
    suggested anew for every n-th student and held for those between. A grid keeps to its own order instead; the
    stage-aware sampler decides each time whether a new generator is worth its cost, and keeps to this number only while
    it draws at random."""

    points: tuple[dict[str, Choice], ...] = ()
    """Points (searched path -> value) that are tried first, in this order. A path that a point leaves out is suggested
    as always."""

    pruner: PrunerConfig = PrunerConfig()

    concurrency: int = Field(default=1, ge=1, le=10_000)
    """Number of tasks side by side, each with the `resources:` of the study file."""

    hung_after_minutes: float | None = Field(default=60.0, gt=0.0)
    """Minutes without a report after which a task is asked to stop, and soon after its process is killed. Training
    loops report at every `log_every_images`, other stages with every batch; the measures on the hold-out during a
    training report nothing, so these minutes have to be longer than they take. Null: never."""

    budget: BudgetConfig = BudgetConfig()

    num_finalists: int = Field(default=1, ge=1, le=100)
    """Number of the search's best trials that are run again on each of `seeds`; the best of these is the champion."""

    controls: ControlsConfig = ControlsConfig()

    test_labels: Literal["once", "never"] = "once"
    """Whether the labels of `trial.data.test` are used, where it is given. `once`: when everything has been chosen and
    compared, the best trial and its controls are evaluated on them for every one of `seeds`, and the ledger records
    that and when. Seeds that are added later, as by `--seeds 3`, are then evaluated too, on record as a further use.
    `never` while you are still trying things out."""

    seeds: tuple[Seed, ...] = (1001,)
    """Fresh seeds of generation, synthesis and distillation, for the best trial, its controls and the variants."""

    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name -> overrides (dotted path into `trial:` -> value). Each variant runs in full on each of `seeds`, over the
    study's own material: other images or another checkpoint are another study file."""

    worth: tuple[Annotated[int, Field(ge=1, le=1_000_000_000)], ...] = ()
    """Student budgets in steps, in ascending order, at which the study asks when a generator pays: on each of `seeds`
    one student of the trial's own settings (hybrid) and one on the collected images alone (real-only, with
    `controls.real_only_values`) for each budget, and a longer real-only one, compared at equal total cost."""

    @field_validator("worth")
    @classmethod
    def _ascending_budgets(cls, worth: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise(worth)):
            raise ValueError("give the budgets in ascending order, none of them twice")
        return worth

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
        """The measures that decide about a student, the objective first."""
        return tuple(dict.fromkeys([self.objective, *self.further_objectives, *self.constraints]))

    @property
    def measures_latency(self) -> bool:
        """Whether the latency of students is measured."""
        return LATENCY in self.judged

    def unmeasured(self, metrics: Mapping[str, float]) -> str | None:
        """Return a measure that decides about a student and has no finite value; None where all have one."""
        return next((name for name in self.judged if not math.isfinite(metrics.get(name, math.nan))), None)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return by how much a student misses the constraints together; 0 where it keeps them all."""
        return sum(bound.violation(metrics[name]) for name, bound in self.constraints.items())

    def with_num_seeds(self, number: int) -> StudyConfig:
        """Return the study on the first `number` seeds; those beyond the given ones count on from the largest."""
        seeds = list(self.seeds[:number])
        while len(seeds) < number:
            seeds.append(max(seeds) + 1)
        return self.model_copy(update={"seeds": tuple(seeds)})


class _Parameter(Section):
    """The settings of every kind of parameter."""

    when: dict[str, Choice | tuple[Choice, ...]] = Field(default_factory=dict)
    """Conditions: the parameter is searched only where other searched parameters have these values (one, or one of a
    list); elsewhere the value of `trial:` applies."""

    def conditions(self) -> dict[str, tuple[Choice, ...]]:
        """Return the path of each other parameter -> values under which this one is searched."""
        return {path: found if isinstance(found, tuple) else (found,) for path, found in self.when.items()}


class FloatParameter(_Parameter):
    """A real number between two bounds, both included."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Whether it is drawn evenly in its logarithm."""

    step: float | None = Field(default=None, gt=0.0)
    """Distance of its values: low, low + step, ...; not together with `log`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step is not None)
        if self.step is not None and self.high - self.low > self.step * MAX_STEPS:
            raise ValueError(f"step ({self.step:g}) makes more than {MAX_STEPS:,} values; give a larger one, or none")
        return self

    def edges(self) -> tuple[Choice, ...]:
        """Return the values that must be legal for the whole range to be."""
        return self.low, self.high

    def grid(self) -> Sequence[Choice] | None:
        """Return all its values in order; None for a continuous range."""
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
    """Whether it is drawn evenly in its logarithm."""

    step: int = Field(default=1, ge=1)
    """Distance of its values: low, low + step, ...; not together with `log`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step != 1)
        return self

    def edges(self) -> tuple[Choice, ...]:
        """Return the values that must be legal for the whole range to be."""
        return self.low, self.high

    def grid(self) -> Sequence[Choice] | None:
        """Return all its values in order, which may be billions."""
        return range(self.low, self.high + 1, self.step)


class CategoricalParameter(_Parameter):
    """A value from a list, without order."""

    type: Literal["categorical"]
    choices: tuple[Choice, ...] = Field(min_length=1, max_length=1000)

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        if len({(type(choice), choice) for choice in choices}) < len(choices):
            raise ValueError("a choice is given twice; keep one")
        return choices

    def edges(self) -> tuple[Choice, ...]:
        """Return the values that must all be legal."""
        return self.choices

    def grid(self) -> Sequence[Choice] | None:
        """Return all its values in order."""
        return self.choices


class FreshSeed(Section):
    """A seed of its own for every new generator, at `seeds.generation`, so that sharing a seed cannot hide its luck."""

    type: Literal["fresh_seed"]


RealParameter = FloatParameter | IntParameter | CategoricalParameter
Parameter = Annotated[RealParameter | FreshSeed, Field(discriminator="type")]


class SearchConfig(RootModel[dict[str, Parameter]]):
    """The section `search:`: dotted path into `trial:` -> parameter."""

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
        """Yield the paths and parameters that are suggested, in the file's order."""
        for path, parameter in self.root.items():
            if not isinstance(parameter, FreshSeed):
                yield path, parameter

    def get(self, path: str) -> RealParameter | None:
        """Return the parameter at a path; None where none is suggested."""
        return dict(self.items()).get(path)


def _check_range(low: float, high: float, *, log: bool, has_step: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low ({low}) must not be above high ({high}), and both finite")
    if log and low <= 0:
        raise ValueError(f"log needs low above 0, found {low}")
    if log and has_step:
        raise ValueError("log and step exclude each other")

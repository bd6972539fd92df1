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
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, RootModel, field_validator, model_validator

from hidfd.config import LearningRate, Section, Seed

Objective = Literal["agreement", "validation_accuracy"]
Choice = bool | int | float | str
"""What a searched parameter can be."""


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


class StudyConfig(Section):
    """What is looked for, how, and what the result is held against."""

    objective: Objective = "agreement"
    """Maximised. `agreement` with the teacher on the hold-out needs no labels; `validation_accuracy` needs
    `trial.data.validation`, and is never taken just because that exists."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"

    startup_students: int = Field(default=10, ge=1, le=10_000)
    """TPE draws at random until so many students have ended."""

    seed: Seed = 0
    """Of the sampler: suggestion number n depends on this, n, and the results so far."""

    num_students: int = Field(default=20, ge=1, le=100_000)
    """How many the search suggests. A grid ends earlier when it is used up."""

    students_per_generator: int = Field(default=3, ge=1, le=10_000)
    """Upstream parameters (those that change the synthetic images) are suggested anew for every n-th student and held
    for those between, which share one generator. A grid keeps to its own order instead."""

    pruner: PrunerConfig = PrunerConfig()

    concurrency: int = Field(default=1, ge=1, le=10_000)
    """Pieces of work side by side, each with the `resources:` of the study file."""

    controls: ControlsConfig = ControlsConfig()

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

    def with_num_seeds(self, number: int) -> StudyConfig:
        """The same study on the first `number` seeds, counting on from the last one given."""
        seeds = list(self.seeds[:number])
        while len(seeds) < number:
            seeds.append(max(seeds) + 1)
        return self.model_copy(update={"seeds": tuple(seeds)})


class FloatParameter(Section):
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


class IntParameter(Section):
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


class CategoricalParameter(Section):
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


Parameter = Annotated[FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")]


class SearchConfig(RootModel[dict[str, Parameter]]):
    """What is searched: dotted path into `trial:` -> parameter."""

    root: dict[str, Parameter] = Field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.root)

    def items(self) -> Iterator[tuple[str, FloatParameter | IntParameter | CategoricalParameter]]:
        """Paths with their parameters, in the file's order."""
        yield from self.root.items()


def _check_range(low: float, high: float, *, log: bool, has_step: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low ({low}) must not be above high ({high}), and both finite")
    if log and low <= 0:
        raise ValueError(f"log needs low above 0, found {low}")
    if log and has_step:
        raise ValueError("log and step exclude each other")

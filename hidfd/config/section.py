"""The base of all sections of a study file, which refuses unknown settings; marks of fields; and kinds of numbers.

Fields marked with `OUTCOME_NEUTRAL` do not change any result and are therefore left out of the digests
(`hidfd.pipeline.graph`). Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from hidfd.config.yaml_tree import MAX_DIGITS

OUTCOME_NEUTRAL: JsonDict = {"outcome_neutral": True}
"""Mark of a field that changes no result, such as a name or an interval of measurements."""

ABSENT_IF_DEFAULT: JsonDict = {"absent_if_default": True}
"""Mark of a field that is in no digest where it has its default, because digests are older than it; null is its
default."""

ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
LearningRate = Annotated[float, Field(gt=0.0, le=10.0)]
Images = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def has_mark(section: type[BaseModel], name: str, mark: JsonDict) -> bool:
    """Return whether a field of a section has a mark, `OUTCOME_NEUTRAL` or `ABSENT_IF_DEFAULT`."""
    info = section.model_fields.get(name)
    extra = None if info is None else info.json_schema_extra
    return isinstance(extra, dict) and mark.items() <= extra.items()


class Section(BaseModel):
    """Base of every section: unknown keys are refused, and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_off(cls, values: Any) -> Any:
        """Take null for the default of a field with `ABSENT_IF_DEFAULT`."""
        if not isinstance(values, Mapping):
            return values
        return {
            name: value
            for name, value in values.items()
            if value is not None or not has_mark(cls, name, ABSENT_IF_DEFAULT)
        }

    @field_validator("*")
    @classmethod
    def _can_be_computed_with(cls, value: Any) -> Any:
        """Refuse numbers that are too large for what computes with them; those in quotes are text to YAML."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) >= 10**MAX_DIGITS:
                raise ValueError(f"expected a whole number of at most {MAX_DIGITS} digits")
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError("expected a finite number")
        return value

"""Settings of a trial by dotted path, such as `distillation.inflation`, for overrides and searches. Torch-free."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hidfd.config.architectures import OWN
from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from hidfd.formatting import near_match


def with_values(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Return the trial with other values at dotted paths, validated again.

    Args:
        values: path into `trial:` -> value, such as `{"distillation.inflation": 5.0}`.

    Raises:
        ConfigError: a path does not exist.
        pydantic.ValidationError: a value is out of its range.
    """
    settings = config.model_dump(mode="python")
    for path, value in values.items():
        if path == "preset":
            raise ConfigError(
                "trial.preset: a preset applies only while a study file is read; change its settings one by one instead"
            )
        field_at(path)
        *parents, name = path.split(".")
        section = settings
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
        is_other = name == "architecture" and _file_of(value) != _file_of(section.get(name))
        if is_other and not any(given.startswith(".".join([*parents, "code"])) for given in values):
            section["code"] = None  # of the network that it was
        section[name] = copy.deepcopy(value)  # a later path may lie inside of it
    return TrialConfig.model_validate(settings)


def _file_of(architecture: object) -> str | None:
    """Return the file of a network of the user's own; None of another network."""
    own = OWN.fullmatch(str(architecture))
    return None if own is None else own["file"]


def field_at(path: str) -> FieldInfo:
    """Return the field at a dotted path into `trial:`.

    Raises:
        ConfigError: there is no such field; the message names the nearest one.
    """
    known = _known_fields()
    if path not in known:
        section, _, name = path.rpartition(".")
        inside = _names_in(section)
        near = near_match(path, known) if not inside else near_match(name, inside)
        if near is not None:
            meant = f"{section}.{near}" if section and inside else near
            raise ConfigError(f"trial.{path}: no such setting; did you mean trial.{meant}?")
        while not inside:
            section = section.rpartition(".")[0]
            inside = _names_in(section)
        where = f"trial.{section}" if section else "trial"
        raise ConfigError(f"trial.{path}: no such setting; known in {where}: {', '.join(inside)}")
    return known[path]


def is_section(path: str) -> bool:
    """Return whether a dotted path names a section of settings, and not a setting, which may be a mapping too."""
    return bool(_names_in(path))


def _names_in(section: str) -> list[str]:
    """Return the names of the settings and sections in a section; none if there is no such section."""
    start = f"{section}." if section else ""
    inside = (path.removeprefix(start) for path in _known_fields() if path.startswith(start))
    return list(dict.fromkeys(path.split(".")[0] for path in inside))


@functools.cache
def _known_fields() -> dict[str, FieldInfo]:
    return dict(_fields(TrialConfig))


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        for option in (field.annotation, *get_args(field.annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                yield from _fields(option, f"{prefix}{name}.")

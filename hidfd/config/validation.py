"""Validation errors of pydantic in the terms of a study file: where, what was found, what was expected. Torch-free."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

from hidfd.config.yaml_tree import YamlTree, value_at
from hidfd.formatting import near_match

ModelT = TypeVar("ModelT", bound=BaseModel)


def checked(model: type[ModelT], values: Any, section: str, yaml_tree: YamlTree) -> tuple[ModelT | None, list[str]]:
    """Validate a section with its model.

    Args:
        values: plain data of the section.
        section: its key in the study file.

    Returns:
        The model, or None if there are problems; and a message for each problem, which begins with its location.
    """
    try:
        result = model.model_validate(values)
    except ValidationError as error:
        messages: dict[str, str] = {}
        for problem in error.errors(include_url=False):
            if problem["type"] == "too_short" and problem["input"]:
                continue  # it has items, and each of them has a message of its own
            for where, message in _messages(problem, model, values, section, yaml_tree):
                messages.setdefault(where, message)  # of the alternatives of a union, only the first is reported
        return None, [f"{where}: {message}" for where, message in messages.items()]
    wrong = [
        f"{_location((section, *keys), yaml_tree)}: expected a number, found {str(given).lower()}"
        for keys, given in leaves(values)
        if isinstance(given, bool) and isinstance(value_at(result.model_dump(), keys), int | float)
        if not isinstance(value_at(result.model_dump(), keys), bool)
    ]
    return (None if wrong else result), wrong


def leaves(values: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value that is not a section, with its keys."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from leaves(value, (*keys, str(key)))
    else:
        yield keys, values


def nearest(key: str, known: Sequence[str]) -> str:
    """Return a hint at the key that may have been meant; if none is similar, the list of all known keys."""
    near = near_match(key, known)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"known here: {', '.join(known)}" if known else "no key is allowed here"


def _messages(
    problem: ErrorDetails, model: type[BaseModel], values: Any, section: str, yaml_tree: YamlTree
) -> Iterator[tuple[str, str]]:
    keys = _keys(problem["loc"], values, absent=problem["type"] == "missing")
    if problem["type"] != "value_error":
        yield _location((section, *keys), yaml_tree), _expectation(problem, model) + _meant_path(keys, values)
        return
    for named, message in parts_of(problem["msg"]):
        yield _location((section, *keys, *named), yaml_tree), message


def parts_of(message: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (keys, message) for each setting that a section's validator reports; no keys where it names none."""
    for part in re.split(r"; (?=[a-z_]+(?:\.[a-z_]+)+: )", message.removeprefix("Value error, ")):
        match = re.match(r"((?:[a-z_]+\.)+[a-z_]+): ", part)
        yield (tuple(match[1].split(".")), part[match.end() :]) if match else ((), part)


def _meant_path(keys: Sequence[str], values: Any) -> str:
    """Return a hint if a key is a dotted path (in `search:`) and the override of a setting of it misspells the path."""
    path, dot, setting = keys[-1].rpartition(".") if keys else ("", "", "")
    siblings = value_at(values, keys[:-1]) if dot else None
    if not isinstance(siblings, Mapping) or isinstance(siblings.get(keys[-1]), Mapping):
        return ""
    near = near_match(path, [key for key in siblings if key != keys[-1]])
    return "" if near is None else f"; did you mean `{near}.{setting}`?"


def _location(keys: Sequence[str], yaml_tree: YamlTree) -> str:
    return f"{yaml_tree.where(keys)}: {'.'.join(keys)}"


def _keys(loc: Sequence[int | str], values: Any, *, absent: bool) -> tuple[str, ...]:
    """Return pydantic's location as keys of the file, without the names of union members."""
    keys: list[str] = []
    for number, part in enumerate(loc):
        last = absent and number == len(loc) - 1
        inside = value_at(values, [part])
        present = (isinstance(values, Mapping) and str(part) in values) or isinstance(part, int)
        if last or present:
            keys.append(str(part))
            values = inside
    return tuple(keys)


def _expectation(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, found = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "extra_forbidden":
        *parts, key = problem["loc"]
        return f"unknown key; {nearest(str(key), _known(model, parts))}"
    if kind == "missing":
        return "missing; it has no default"
    if kind == "union_tag_not_found":
        return f"missing {context['discriminator'].strip(chr(39))!r}, which says what kind it is"
    message = problem["msg"]
    if isinstance(found, bool) and not {"ge", "gt", "le", "lt"}.isdisjoint(context):
        message = "expected a number"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "expected a section with keys of its own"
    elif kind in ("tuple_type", "list_type"):
        message = "expected a list"
    elif kind == "string_pattern_mismatch" and problem["loc"][-1] == "sha256":
        message = "expected 64 digits 0-9a-f"
    elif kind == "literal_error" and isinstance(found, str):
        return f"expected {context['expected']}, found {shown(found)}{_meant_choice(found, context['expected'])}"
    elif kind == "union_tag_invalid":
        expected = context["expected_tags"]
        return f"expected `type:` {expected}, found {shown(context['tag'])}{_meant_choice(context['tag'], expected)}"
    message = re.sub(r"^Input should be ", "expected ", message)
    return f"{message}, found {shown(found)}"


def _meant_choice(found: Any, expected: str) -> str:
    """Return a hint at the quoted choice that was probably meant; all of them are in the message anyway."""
    near = near_match(str(found), re.findall(r"'([^']*)'", expected))
    return "" if near is None else f"; did you mean {near!r}?"


def shown(found: Any) -> str:
    """Return a value of the wrong kind as a message names it, on one line."""
    if found is None:
        return "nothing"
    if isinstance(found, Mapping):
        return f"a section with {', '.join(map(str, found)) or 'nothing in it'}"
    text = str(found).lower() if isinstance(found, bool) else repr(found)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _known(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the keys that a section at a location may have."""
    options: list[Any] = list(_options(model))
    for part in loc:
        options = [inner for option in options for inner in _inside(option, str(part))]
    return [name for option in options if _is_model(option) for name in option.model_fields]


def _options(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    elif _is_model(annotation) and issubclass(annotation, RootModel):
        yield from _options(annotation.model_fields["root"].annotation)
    else:
        yield annotation


def _inside(option: Any, part: str) -> Iterator[Any]:
    if get_origin(option) in (dict, list, tuple):
        inner = [argument for argument in get_args(option) if argument is not Ellipsis]
        yield from _options(inner[-1])
    elif _is_model(option):
        if part in option.model_fields:
            yield from _options(option.model_fields[part].annotation)
        elif any(
            get_origin(info.annotation) is Literal and part in get_args(info.annotation)
            for info in option.model_fields.values()
        ):
            yield option  # the location names a member of a union by its tag


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)

"""YAML as plain data with the line of every value, and `key=value` overrides of its values. Torch-free.

Scalars are read as in YAML 1.2, unlike PyYAML's own reading where that surprises: `off` and `no` are words, `1e-3` is a
number, and so is `50_000`; a date is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hidfd.errors import ConfigError
from hidfd.formatting import near_match

Keys = tuple[str, ...]
"""Path of a value: the keys from the top level down to it. A key may hold dots, as those of `search:` do."""

COMMAND_LINE = "command line"
"""Origin of values that overrides set, in messages and `--dry-run`."""


MAX_BYTES = 1_000_000
"""Largest size of a study file; one that is written by hand has some thousand bytes."""

MAX_DEPTH = 40
"""Largest number of sections and lists inside each other; a study file has about six."""

MAX_VALUES = 50_000
"""Largest number of values, with those of an alias wherever it is used: aliases of aliases make billions of them."""

MAX_DIGITS = 18
"""Largest number of digits of a whole number: 64 bits hold all of these."""

_TAG = "tag:yaml.org,2002:"

_SCALARS = ("str", "int", "float", "bool", "null")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own type
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as PyYAML does, but none that is nested too deeply for what calls itself for every level."""
        if self._depth > MAX_DEPTH:
            raise _too_deep(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self._depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        return node


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that no study file has."""


def _too_deep(mark: yaml.Mark) -> _Refused:
    return _Refused(problem=f"more than {MAX_DEPTH} sections and lists inside each other", problem_mark=mark)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        (
            r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+([eE][-+]?[0-9]+)?)"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass
class YamlTree:
    """The values of a YAML file and the origin of each.

    Attributes:
        path: of the file.
        values: plain data.
        origins: keys -> line in the file, counted from 1, or `COMMAND_LINE`.
        problems: messages about mistakes found so far, a line each.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, int | str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def where(self, keys: Sequence[Any]) -> str:
        """Return the origin of a value or of the nearest section around it: `study.yaml:12`, or `command line`."""
        keys = tuple(str(key) for key in keys)
        while keys:
            origin = self.origins.get(keys)
            if origin is not None:
                return f"{self.path}:{origin}" if isinstance(origin, int) else origin
            keys = keys[:-1]
        return str(self.path)

    def get(self, keys: Sequence[Any]) -> Any:
        """Return the value at a path of keys; None if there is none."""
        return value_at(self.values, keys)

    def override(self, text: str) -> None:
        """Apply one `key=value` override, whose value is read as YAML."""
        key, equals, value = text.partition("=")
        if not equals or not key or not all(key.split(".")):
            self.problems.append(
                f"{COMMAND_LINE}: {text!r} is no override; expected key=value, such as trial.distillation.inflation=5"
            )
            return
        keys = _keys_of(key, self.values)
        if len(keys) > MAX_DEPTH:
            self.problems.append(f"{COMMAND_LINE}: {key[:60]}...: no setting lies {len(keys)} sections deep")
            return
        section = self.values
        for depth, part in enumerate(keys[:-1], start=1):
            if section.get(part) is None:
                section[part] = {}
                self.origins[keys[:depth]] = COMMAND_LINE
            if not isinstance(section[part], dict):
                self.problems.append(
                    f"{COMMAND_LINE}: {key}: {'.'.join(keys[:depth])} is a value ({section[part]!r}) with no keys in it"
                )
                return
            section = section[part]
        for old in [old for old in self.origins if old[: len(keys)] == keys]:
            del self.origins[old]
        try:
            section[keys[-1]] = _Reader(self, line_as=COMMAND_LINE).read(yaml.compose(value, Loader=_Loader), keys)
        except yaml.YAMLError as error:
            self.problems.append(f"{COMMAND_LINE}: {key}: {value!r}: {_reason(error)}")
        self.origins[keys] = COMMAND_LINE


def read_tree(path: Path) -> YamlTree:
    """Read a YAML file.

    Raises:
        ConfigError: the file does not exist, is not valid YAML, or is not a mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"{path}: has more than {MAX_BYTES:,} bytes, so it is no study file; expected a YAML file of sections "
                f"(`name:`, `trial:`, ...)"
            )
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such study file{_others_beside(path)}; the working directory is {Path.cwd()}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error.reason}"
        raise ConfigError(f"{path}: cannot be read as a study file ({reason}); expected a YAML file") from None
    yaml_tree = YamlTree(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = {} if node is None else _Reader(yaml_tree).read(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections (`name:`, `trial:`, ...), found {type(values).__name__}")
    yaml_tree.values = values
    return yaml_tree


def _others_beside(path: Path) -> str:
    """Return a hint at the YAML files in the folder where a study file was looked for."""
    try:
        beside = sorted(other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    near = near_match(path.stem, [name.rpartition(".")[0] for name in beside])
    if near is not None:
        meant = next(name for name in beside if name.rpartition(".")[0] == near)
        return f"; did you mean {path.with_name(meant)}?"
    return f"; there: {', '.join(beside[:8])}{', ...' * (len(beside) > 8)}" if beside else ""


class _Reader:
    """Converter of YAML nodes to plain data; records lines, and repeated keys as problems, in a `YamlTree`.

    Args:
        line_as: origin to record instead of a line.
    """

    def __init__(self, yaml_tree: YamlTree, line_as: str | None = None) -> None:
        self._yaml_tree = yaml_tree
        self._line_as = line_as
        self._scalars = _Loader("")
        self._ancestors: list[yaml.Node] = []
        self._num_values = 0

    def read(self, node: yaml.Node | None, keys: Keys) -> Any:
        """Return the plain data of a node at a path of keys."""
        if node is None:
            return None
        if node in self._ancestors:
            raise yaml.MarkedYAMLError(
                problem="an alias inside the node that it refers to", problem_mark=node.start_mark
            )
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _Refused(
                problem=f"more than {MAX_VALUES:,} values, those of each alias counted", problem_mark=node.start_mark
            )
        if len(self._ancestors) > MAX_DEPTH:
            raise _too_deep(node.start_mark)
        self._ancestors.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                self._check_tag(node, "map")
                return self._mapping(node, keys)
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, "seq")
                return [self.read(child, (*keys, str(number))) for number, child in enumerate(node.value)]
            return self._scalar(node, keys)
        finally:
            self._ancestors.pop()

    def _check_tag(self, node: yaml.Node, *known: str) -> None:
        """Refuse a tag of another kind: a study file has sections, lists, words and numbers only."""
        if node.tag not in {f"{_TAG}{kind}" for kind in known}:
            tag = node.tag.replace(_TAG, "!!")
            raise _Refused(problem=f"the tag {tag} is not known here", problem_mark=node.start_mark)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for base in reversed(merged):
                    values = self.read(base, keys)
                    if not isinstance(values, dict):
                        raise yaml.MarkedYAMLError(problem="`<<` needs a section", problem_mark=base.start_mark)
                    result = values | result
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            key = str(key_node.value)
            here = (*keys, key)
            if key in lines:
                start = COMMAND_LINE if self._line_as else f"{self._yaml_tree.path}:{line}"
                first = "" if self._line_as else f", first in line {lines[key]}"
                self._yaml_tree.problems.append(f"{start}: {'.'.join(here)}: is given twice{first}; keep one")
            lines[key] = line
            self._yaml_tree.origins[here] = self._line_as or line
            result[key] = self.read(value_node, here)
        return result

    def _scalar(self, node: yaml.Node, keys: Keys) -> Any:
        self._check_tag(node, *_SCALARS)
        kind = node.tag.removeprefix(_TAG)
        found: str = self._scalars.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        read_as = found.removeprefix(_TAG)
        if kind not in ("str", read_as, "float" if read_as == "int" else None):
            raise _Refused(problem=f"{node.value[:40]!r} is no !!{kind}", problem_mark=node.start_mark)
        is_long = kind == "int" and sum(map(str.isdigit, node.value)) > MAX_DIGITS
        value = math.inf if is_long else self._scalars.construct_object(node)
        if isinstance(value, float) and not math.isfinite(value):
            where = self._line_as or f"{self._yaml_tree.path}:{node.start_mark.line + 1}"
            expected = (
                f"a whole number of at most {MAX_DIGITS} digits, or text in quotes" if is_long else "a finite number"
            )
            shown = node.value if len(node.value) <= 80 else f"{node.value[:77]}..."
            self._yaml_tree.problems.append(f"{where}: {'.'.join(keys)}: expected {expected}, found {shown}")
            return None
        return value


def value_at(values: Any, keys: Sequence[Any]) -> Any:
    """Return the value at a path of keys in nested sections and lists; None if there is none."""
    for key in keys:
        if isinstance(values, Mapping):
            values = values.get(str(key))
        elif isinstance(values, list) and str(key).isdecimal() and int(key) < len(values):
            values = values[int(key)]
        else:
            return None
    return values


def _keys_of(key: str, values: Mapping[str, Any]) -> Keys:
    """Split a dotted key; within `search:` and a variant the dots belong to one key, a path into `trial:`."""
    parts = key.split(".")
    if parts[0] == "search" and len(parts) > 1:
        rest = key.removeprefix("search.")
        searched = values.get("search")
        for known in sorted(searched if isinstance(searched, dict) else (), key=len, reverse=True):
            if rest == known:
                return "search", known
            if rest.startswith(f"{known}."):
                return "search", known, *rest.removeprefix(f"{known}.").split(".")
        return "search", rest
    if parts[:2] == ["study", "variants"] and len(parts) > 3:
        return "study", "variants", parts[2], ".".join(parts[3:])
    return tuple(parts)


def _reason(error: yaml.YAMLError) -> str:
    problem, context = getattr(error, "problem", None), getattr(error, "context", None)
    words = ", ".join(part for part in (context, problem) if part)
    why = words or str(error).splitlines()[0]
    return why if isinstance(error, _Refused) else f"not valid YAML: {why}"

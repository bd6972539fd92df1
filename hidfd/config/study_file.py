"""The study file: one strict YAML file for a laptop and a cluster; each package reads its own sections. Torch-free.

    name: ...          storage: {store, ledger, tracking, results}     resources: {num_workers, ...}
    trial: (hidfd)     study:, search: (tune)                          cluster: (k8s)

Unknown keys are refused with the nearest known one, and all errors are reported at once, with their lines. Paths of
materials are relative to the folder of the file; those of `storage:`, like all output, to the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, field_validator
from pydantic.json_schema import models_json_schema

from hidfd.addresses import SQLITE, is_on_s3, why_no_path
from hidfd.config.architectures import OWN
from hidfd.config.presets import PRESETS
from hidfd.config.schema import TrialConfig
from hidfd.config.section import Section
from hidfd.config.storage import ENVIRONMENT, StorageConfig, has_plain_password, redacted, storage_problems
from hidfd.config.validation import checked, leaves, nearest, shown
from hidfd.config.yaml_tree import COMMAND_LINE, YamlTree, read_tree, value_at
from hidfd.errors import ConfigError

SECTIONS = ("name", "storage", "resources", "trial", "study", "search", "cluster")
"""Keys of the top level."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Regular expression of a study's name, which also names folders."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class ResourcesConfig(Section):
    """Resources of one task."""

    num_workers: int = Field(default=1, ge=1)
    """Processes of a task, each with an equal share of every batch. More than one need Ray and take most of a minute to
    start, which pays off if a stage takes hours."""

    cpus_per_worker: int = Field(default=1, ge=1)
    """Processors of each process, and its number of threads."""

    gpus_per_worker: float = Field(default=0.0, ge=0.0)
    """GPUs of each process: a fraction of one, or a whole number."""

    autoscaling: bool = False
    """Whether the cluster adds nodes by itself; then no task is refused because no present node can run it."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _is_part_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"more than one GPU must be a whole number, as Ray assigns them; found {gpus:g}")
        return gpus


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file; `trial` and `section` validate their sections when they are called.

    Attributes:
        name: of the study.
        path: of the file.
        storage, resources: these sections, validated and resolved.
        yaml_tree: all values and their origins, with overrides applied.
        storage_origins: setting of `storage:` -> its origin.
        environment: variables for `${NAME}`, see `load`.
    """

    name: str
    path: Path
    storage: StorageConfig
    resources: ResourcesConfig
    yaml_tree: YamlTree = field(repr=False)
    storage_origins: Mapping[str, str] = field(repr=False)
    environment: Mapping[str, str] | None = field(repr=False)

    def trial(self) -> TrialConfig:
        """Return the `trial:` section over its preset, with the paths of materials resolved.

        Raises:
            ConfigError: all problems in one message.
        """
        config, problems = _trial(self.yaml_tree, self.environment)
        return _result(config, problems)

    def section(self, name: str, model: type[ModelT]) -> ModelT:
        """Validate a section with the model of its package (a `RootModel` if its keys are free); absent = empty.

        Raises:
            ConfigError: all problems in one message.
        """
        given = self.yaml_tree.get([name])
        return _result(*checked(model, {} if given is None else given, name, self.yaml_tree))

    def provenance(self) -> list[tuple[str, Any, str]]:
        """Return every resolved setting as (path, value, origin), for `--dry-run`, without secrets of URIs.

        Raises:
            ConfigError: as `trial`.
        """
        config = self.trial()
        preset = PRESETS.get(config.preset or "", {})
        rows: list[tuple[str, Any, str]] = [("name", self.name, self._origin("name"))]
        for name, value in self.storage.model_dump().items():
            rows.append((f"storage.{name}", redacted(value), self.storage_origins[name]))
        for name, value in self.resources.model_dump().items():
            rows.append((f"resources.{name}", value, self._origin("resources", name)))
        for keys, value in leaves(config.model_dump(mode="json")):
            default = "default" if value_at(preset, keys) is None else f"preset {config.preset}"
            rows.append((".".join(("trial", *keys)), value, self._origin("trial", *keys, default=default)))
        return rows

    def _origin(self, *keys: str, default: str = "default") -> str:
        section, last = self.yaml_tree.get(keys[:-1]) if keys[:-1] else self.yaml_tree.values, keys[-1]
        return self.yaml_tree.where(keys) if isinstance(section, dict) and last in section else default


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    store: str | None = None,
    environment: Mapping[str, str] | Literal["own"] | None = "own",
) -> StudyFile:
    """Read a study file.

    Args:
        path: of the YAML file.
        overrides: `key=value` with dotted keys from the top level, such as `trial.distillation.inflation=5`.
        store: store of the command line, which replaces those of HIDFD_STORE and the file.
        environment: variables for `ENVIRONMENT` and `${NAME}`; "own" = those of this process; None = the file is for
            another machine, so neither is resolved.

    Raises:
        ConfigError: the file is missing or malformed, or keys, names or overrides are unknown, repeated or malformed.
            The message then has the problems of `trial:` as well.
    """
    path = Path(path)
    if environment == "own":
        environment = os.environ
    yaml_tree = read_tree(path)
    for override in overrides:
        yaml_tree.override(override)
    problems = yaml_tree.problems
    problems += [
        f"{yaml_tree.where([key])}: {key}: unknown key; "
        + (f"did you mean `trial.{key}`?" if key in TrialConfig.model_fields else nearest(key, SECTIONS))
        for key in yaml_tree.values
        if key not in SECTIONS
    ]
    name = yaml_tree.get(["name"])
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        problems.append(f"{yaml_tree.where(['name'])}: name: {why_no_name(name)} (it names folders)")
        name = ""
    storage, origins = _storage(yaml_tree, store, environment)
    given = yaml_tree.get(["resources"])
    resources, found_wrong = checked(ResourcesConfig, {} if given is None else given, "resources", yaml_tree)
    problems += found_wrong
    if problems or storage is None or resources is None:
        if "trial" in yaml_tree.values:
            problems += _trial(yaml_tree, environment)[1]
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return StudyFile(name, path, storage, resources, yaml_tree, origins, environment)


def why_no_name(name: object) -> str:
    """Return, in words, why a value does not match `NAME_PATTERN`."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return f"has {len(name)} characters; expected at most 100"
    found = "missing" if name is None else f"found {shown(name)}"
    return f"{found}; expected letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 100"


def json_schema(**sections: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a study file, for editors.

    Args:
        sections: models of the sections of other packages; a section without a model may hold anything.

    Published as studies/study.schema.json: `python -m studies.schema > studies/study.schema.json`.
    """
    modelled: dict[str, type[BaseModel]] = {
        "storage": StorageConfig,
        "resources": ResourcesConfig,
        "trial": TrialConfig,
        **sections,
    }
    references, definitions = models_json_schema([(model, "validation") for model in modelled.values()])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "HiDFD study file",
        "type": "object",
        "required": ["name", "trial"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
            **{name: {"type": "object"} for name in SECTIONS[1:]},
            **{name: references[model, "validation"] for name, model in modelled.items()},
        },
        "$defs": definitions["$defs"],
    }


def _storage(
    yaml_tree: YamlTree, store: str | None, environment: Mapping[str, str] | None
) -> tuple[StorageConfig | None, dict[str, str]]:
    given = yaml_tree.get(["storage"])
    config, problems = checked(StorageConfig, {} if given is None else given, "storage", yaml_tree)
    yaml_tree.problems += problems
    if config is None:
        return None, {}
    values, origins = config.model_dump(), {}
    for name in values:
        given_here = name in (given or {})
        origins[name] = yaml_tree.where(("storage", name)) if given_here else "default"
        variable = ENVIRONMENT.get(name, "")
        if given_here and has_plain_password(values[name]):
            yaml_tree.problems.append(
                f"{origins[name]}: storage.{name}: holds a password in plain text, which commands and reports would "
                f"repeat; write ${{NAME}} in its place, and set that environment variable"
            )
        elif given_here:
            if origins[name] != COMMAND_LINE and "://" not in values[name].removeprefix(SQLITE):
                values[name] = _as_the_system_names(values[name], Path())
            values[name] = _expanded(values[name], f"{origins[name]}: storage.{name}", yaml_tree.problems, environment)
        if environment and environment.get(variable) and origins[name] != COMMAND_LINE:
            values[name], origins[name] = environment[variable], variable
    if store is not None:
        values["store"], origins["store"] = store, COMMAND_LINE
    yaml_tree.problems += storage_problems(values, origins)
    return StorageConfig.model_construct(**values), origins


def _trial(yaml_tree: YamlTree, environment: Mapping[str, str] | None) -> tuple[TrialConfig | None, list[str]]:
    given = yaml_tree.get(["trial"])
    if not isinstance(given, dict):
        return None, [f"{yaml_tree.where(['trial'])}: trial: missing; every study file needs a section `trial:`"]
    preset = given.get("preset")
    overlay = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    problems: list[str] = []
    values = _with_paths(_merged(overlay, given), ("trial",), yaml_tree, problems, environment)
    config, found = checked(TrialConfig, values, "trial", yaml_tree)
    return (None if problems else config), problems + found


def _merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a preset, replaced by the given ones at every level."""
    result = dict(preset)
    for key, value in given.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _with_paths(
    values: Any, keys: tuple[str, ...], yaml_tree: YamlTree, problems: list[str], environment: Mapping[str, str] | None
) -> Any:
    """Return the values with every `path:` (only materials have one) resolved against the study file's folder.

    The file in `architecture: FILE.py:FUNCTION` becomes a material, `code`.
    What is on S3 stays as it is.
    """
    if not isinstance(values, dict):
        return values
    result = {key: _with_paths(value, (*keys, key), yaml_tree, problems, environment) for key, value in values.items()}
    own = OWN.fullmatch(str(result.get("architecture")))
    if own is not None:
        given = _resolved({"path": own["file"]}, (*keys, "architecture"), yaml_tree, problems, environment)
        stated = result.get("code")
        result["code"] = given | (stated if isinstance(stated, dict) else {})
        result["architecture"] = f"{Path(own['file']).name}:{own['factory']}"
    return _resolved(result, (*keys, "path"), yaml_tree, problems, environment)


def _resolved(
    values: dict[str, Any],
    here: tuple[str, ...],
    yaml_tree: YamlTree,
    problems: list[str],
    environment: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the values with their `path`, which is given at the setting `here`, resolved."""
    path, result = values.get("path"), dict(values)
    if isinstance(path, str):
        where, folder = yaml_tree.where(here), yaml_tree.path.parent
        is_named = where == COMMAND_LINE or why_no_path(path) is not None
        named = path if is_named else _as_the_system_names(path, folder)
        expanded = _expanded(named, f"{where}: {'.'.join(here)}", problems, environment)
        why = why_no_path(expanded)
        if why is not None:
            problems.append(f"{where}: {'.'.join(here)}: {redacted(path)!r}: {why}")
            return result
        result["path"] = expanded if is_on_s3(expanded) else str((folder / Path(expanded).expanduser()).absolute())
    return result


def _as_the_system_names(path: str, folder: Path) -> str:
    """Return a path from a file, which is UTF-8, as a locale with another encoding names the same bytes.

    Where only the path as it is written leads to something, this locale has named it already.
    """
    named = os.fsdecode(path.encode("utf-8", "surrogateescape"))
    return path if not os.path.lexists(folder / named) and os.path.lexists(folder / path) else named


def _expanded(text: str, where: str, problems: list[str], environment: Mapping[str, str] | None) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if environment is None:
            return match[0]
        if name not in environment:
            problems.append(f"{where}: the environment variable {name} is not set; set it, or write the value itself")
            return match[0]
        before, after = text[: match.start()], text[match.end() :]
        is_credential = re.search(r"://[^/@]*$", before) and re.match(r"[^/@]*@", after)
        return quote(environment[name], safe="") if is_credential else environment[name]

    return re.sub(r"\$\{([A-Za-z_]\w*)\}", value, text)


def _result(value: ModelT | None, problems: Sequence[str]) -> ModelT:
    if value is None:
        raise ConfigError("\n".join(problems))
    return value

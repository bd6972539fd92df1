"""The study file: one strict YAML for a laptop and a cluster; each package reads its own sections. Torch-free.

    name: ...          storage: {store, ledger, tracking, results}     resources: {num_workers, ...}
    trial: hidfd's     study:, search: tune's                          cluster: k8s's

Unknown keys are refused with the nearest known one, and all errors are told at once, with their lines. Paths of
material are relative to the file's folder; those of `storage:` to the working directory, as all of a command's output.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, field_validator
from pydantic.json_schema import models_json_schema

from hidfd.config.presets import PRESETS
from hidfd.config.schema import Section, TrialConfig
from hidfd.config.validation import checked, leaves, nearest
from hidfd.config.yaml_tree import COMMAND_LINE, YamlTree, read_tree, value_at
from hidfd.errors import ConfigError

SECTIONS = ("name", "storage", "resources", "trial", "study", "search", "cluster")
ENVIRONMENT = {"store": "HIDFD_STORE", "ledger": "HIDFD_LEDGER", "tracking": "MLFLOW_TRACKING_URI"}
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

ModelT = TypeVar("ModelT", bound=BaseModel)


class StorageConfig(Section):
    """Where things are kept. Precedence: command line, environment, file, `./.hidfd`. May hold `${NAME}`."""

    store: str = Field(default=".hidfd/store", min_length=1)
    """Artifacts: a folder, or `s3://bucket/prefix`. Environment: HIDFD_STORE."""

    ledger: str = Field(default=".hidfd/ledger.db", min_length=1)
    """A study's memory: an SQLite file or `postgresql://USER:${NAME}@HOST:PORT/DATABASE`. Environment: HIDFD_LEDGER."""

    tracking: str = Field(default="sqlite:///.hidfd/mlflow.db", min_length=1)
    """MLflow tracking URI. Environment: MLFLOW_TRACKING_URI."""

    results: str = Field(default=".hidfd/results", min_length=1)
    """Folder for trial folders and reports."""


class ResourcesConfig(Section):
    """What one task gets."""

    num_workers: int = Field(default=1, ge=1)
    """Processes of a task, each with an equal share of every batch. More than one need Ray, and most of a
    minute to start: worth it where a stage takes hours."""

    cpus_per_worker: int = Field(default=1, ge=1)
    """Processors of each, which are its threads."""

    gpus_per_worker: float = Field(default=0.0, ge=0.0)
    """GPUs of each: a part of one, or whole ones."""

    autoscaling: bool = False
    """The cluster grows by itself: what no node of it has now may still come, so nothing is refused as impossible."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _is_part_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"more than one GPU means whole ones, as Ray gives them out; found {gpus:g}")
        return gpus


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file; `trial:` and other packages' sections are checked when they are asked for.

    Attributes:
        name: of the study.
        path: of the file.
        storage, resources: resolved.
    """

    name: str
    path: Path
    storage: StorageConfig
    resources: ResourcesConfig
    tree: YamlTree = field(repr=False)
    storage_origins: Mapping[str, str] = field(repr=False)
    environment: Mapping[str, str] | None = field(repr=False)

    def trial(self) -> TrialConfig:
        """The `trial:` section over its preset, with material paths resolved.

        Raises:
            ConfigError: every problem at once.
        """
        config, problems = _trial(self.tree, self.environment)
        return _result(config, problems)

    def section(self, name: str, model: type[ModelT]) -> ModelT:
        """Another section through its own package's model (a `RootModel` where keys are free); absent = empty.

        Raises:
            ConfigError: every problem at once.
        """
        given = self.tree.get([name])
        return _result(*checked(model, {} if given is None else given, name, self.tree))

    def provenance(self) -> list[tuple[str, Any, str]]:
        """Every resolved setting as (path, value, where it came from), for `--dry-run`; secrets of URIs left out.

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
        section, last = self.tree.get(keys[:-1]) if keys[:-1] else self.tree.values, keys[-1]
        return self.tree.where(keys) if isinstance(section, dict) and last in section else default


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    store: str | None = None,
    environment: Mapping[str, str] | None = os.environ,
) -> StudyFile:
    """Read a study file.

    Args:
        path: of the YAML file.
        overrides: `key=value` with dotted keys from the top level, such as `trial.distillation.inflation=5`.
        store: of the command line; wins over HIDFD_STORE and the file.
        environment: of HIDFD_STORE and its like, and of `${NAME}`; None leaves both to another machine.

    Raises:
        ConfigError: a missing or malformed file; unknown, doubled or malformed keys, names or overrides. Then what is
            wrong with `trial:` is told as well.
    """
    path = Path(path)
    tree = read_tree(path)
    for override in overrides:
        tree.override(override)
    problems = tree.problems
    problems += [
        f"{tree.where([key])}: {key}: unknown key; "
        + (f"did you mean `trial.{key}`?" if key in TrialConfig.model_fields else nearest(key, SECTIONS))
        for key in tree.values
        if key not in SECTIONS
    ]
    name = tree.get(["name"])
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        found = "missing" if name is None else f"found {name!r}"
        problems.append(
            f"{tree.where(['name'])}: name: {found}; expected letters, digits, `.`, `_` and `-`, beginning with a "
            f"letter or digit (it names folders)"
        )
        name = ""
    storage, origins = _storage(tree, store, environment)
    given = tree.get(["resources"])
    resources, found_wrong = checked(ResourcesConfig, {} if given is None else given, "resources", tree)
    problems += found_wrong
    if problems or storage is None or resources is None:
        if "trial" in tree.values:
            problems += _trial(tree, environment)[1]
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return StudyFile(name, path, storage, resources, tree, origins, environment)


def json_schema(**sections: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of the file, for editors.

    Args:
        sections: models of those sections that other packages own; what is not given may hold anything.

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


def redacted(uri: str) -> str:
    """A URI without its password and without the query, which may hold keys."""
    uri = re.sub(r"(?<=://)([^/@:]*):(?!\d+/).*@", r"\1:***@", uri)
    return re.sub(r"(://[^?]*)\?.*", r"\1?***", uri)


def storage_from_environment(store: str | None = None) -> StorageConfig:
    """Where things are kept for a command that has no study file."""
    values = {name: os.environ[variable] for name, variable in ENVIRONMENT.items() if os.environ.get(variable)}
    return StorageConfig(**values | ({} if store is None else {"store": store}))


def _storage(
    tree: YamlTree, store: str | None, environment: Mapping[str, str] | None
) -> tuple[StorageConfig | None, dict[str, str]]:
    given = tree.get(["storage"])
    config, problems = checked(StorageConfig, {} if given is None else given, "storage", tree)
    tree.problems += problems
    if config is None:
        return None, {}
    values, origins = config.model_dump(), {}
    for name in values:
        given_here = name in (given or {})
        origins[name] = tree.where(("storage", name)) if given_here else "default"
        variable = ENVIRONMENT.get(name, "")
        if given_here and has_plain_password(values[name]):
            tree.problems.append(
                f"{origins[name]}: storage.{name}: a password stands there in plain, where commands and reports would "
                f"repeat it; write ${{NAME}} in its place, and set that environment variable"
            )
        elif given_here:
            values[name] = _expanded(values[name], f"{origins[name]}: storage.{name}", tree.problems, environment)
        if environment and environment.get(variable) and origins[name] != COMMAND_LINE:
            values[name], origins[name] = environment[variable], variable
    if store is not None:
        values["store"], origins["store"] = store, COMMAND_LINE
    return StorageConfig(**values), origins


def _trial(tree: YamlTree, environment: Mapping[str, str] | None) -> tuple[TrialConfig | None, list[str]]:
    given = tree.get(["trial"])
    if not isinstance(given, dict):
        return None, [f"{tree.where(['trial'])}: trial: missing; every study file has a section `trial:`"]
    preset = given.get("preset")
    overlay = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    problems: list[str] = []
    values = _with_paths(_merged(overlay, given), ("trial",), tree, problems, environment)
    config, found = checked(TrialConfig, values, "trial", tree)
    return (None if problems else config), problems + found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _with_paths(
    values: Any, keys: tuple[str, ...], tree: YamlTree, problems: list[str], environment: Mapping[str, str] | None
) -> Any:
    """Every `path:` (only materials have one) expanded and resolved against the study file's folder."""
    if not isinstance(values, dict):
        return values
    result = {key: _with_paths(value, (*keys, key), tree, problems, environment) for key, value in values.items()}
    path = result.get("path")
    if isinstance(path, str):
        here = (*keys, "path")
        expanded = Path(_expanded(path, f"{tree.where(here)}: {'.'.join(here)}", problems, environment)).expanduser()
        result["path"] = str((tree.path.parent / expanded).absolute())
    return result


def has_plain_password(uri: str) -> bool:
    """Whether an address holds one, before the host or in the query."""
    found = [match[1] for match in re.finditer(r"://[^/@:]*:(?!\d+/)(.*)@", uri)]
    found += re.findall(r"(?i)[?&][^=&]*(?:passw|pwd|secret|token|key)[^=&]*=([^&]*)", uri)
    return any(re.sub(r"\$\{\w+\}", "", word) for word in found)


def _expanded(text: str, where: str, problems: list[str], environment: Mapping[str, str] | None) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if environment is None:
            return match[0]
        if name not in environment:
            problems.append(f"{where}: the environment variable {name} is not set; set it, or write the value out")
            return match[0]
        before, after = text[: match.start()], text[match.end() :]
        is_credential = re.search(r"://[^/@]*$", before) and re.match(r"[^/@]*@", after)
        return quote(environment[name], safe="") if is_credential else environment[name]

    return re.sub(r"\$\{([A-Za-z_]\w*)\}", value, text)


def _result(value: ModelT | None, problems: Sequence[str]) -> ModelT:
    if value is None:
        raise ConfigError("\n".join(problems))
    return value

"""What `submit` asks a cluster for: a study file with its `cluster:` section, as another machine will read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hidfd.config import study_file as studyfile
from hidfd.config.study_file import ENVIRONMENT, ResourcesConfig, StudyFile
from hidfd.config.yaml_tree import COMMAND_LINE
from hidfd.errors import ConfigError
from k8s.config import ClusterConfig

CLUSTER = "cluster"

OF_SECRET = "as it stands in the Secret "
"""Begins a place that only the pods will know."""

LARGEST_FILE = 1_000_000
"""A ConfigMap holds 1 MiB."""


@dataclass(frozen=True)
class Request:
    """One study for one cluster.

    Attributes:
        study: its name.
        path: of the file, as it was typed.
        text: of the file, as pods will read it.
        overrides: of the command line as they were typed, but for those of `cluster:`.
        cluster: its section.
        resources: of a task.
        storage: places by name, as the pods will see them: `${NAME}` stands where their own environment fills it in.
        concurrency: tasks side by side.
        unimported: materials without sha256, by their path in the file.
    """

    study: str
    path: str
    text: str
    overrides: tuple[str, ...]
    cluster: ClusterConfig
    resources: ResourcesConfig
    storage: dict[str, str]
    concurrency: int
    unimported: tuple[str, ...]

    @property
    def sorted_overrides(self) -> tuple[str, ...]:
        """The overrides that have an effect, sorted by key: equal for requests that ask for the same.

        An override replaces every earlier one of its key and of the keys below it; one of a key below an earlier one's
        only changes it, and a key sorts before those below it.
        """
        kept: dict[str, str] = {}
        for override in self.overrides:
            key = override.partition("=")[0]
            kept = {other: text for other, text in kept.items() if not f"{other}.".startswith(f"{key}.")}
            kept[key] = override
        return tuple(kept[key] for key in sorted(kept))

    @property
    def variables(self) -> set[str]:
        """Names of environment variables that its places are made of."""
        return {name for place in self.storage.values() for name in re.findall(r"\$\{(\w+)\}", place)}


def read_request(path: str, overrides: Sequence[str] = ()) -> Request:
    """Read a study file for a cluster. Nothing of this machine's environment goes into it.

    Args:
        path: of the file.
        overrides: `key=value`, as for `tune run`.

    Raises:
        ConfigError: every problem with the sections that are read here; those of the search are the driver's.
    """
    file = studyfile.load(path, overrides, environment=None)
    if file.yaml_tree.get([CLUSTER]) is None:
        raise ConfigError(
            f"{path}: no section `{CLUSTER}:`, which says where on Kubernetes the study runs; at least\n"
            f"    {CLUSTER}:\n      namespace: NAMESPACE\n      image: REGISTRY/hidfd@sha256:DIGEST"
        )
    text = Path(path).read_text(encoding="utf-8-sig")
    if len(text.encode()) > LARGEST_FILE:
        raise ConfigError(f"{path}: {len(text.encode()):,} bytes; a study file for a cluster may have {LARGEST_FILE:,}")
    cluster = file.section(CLUSTER, ClusterConfig)
    concurrency = file.yaml_tree.get(["study", "concurrency"])
    return Request(
        study=file.name,
        path=path,
        text=text,
        overrides=tuple(text for text in overrides if not text.startswith(f"{CLUSTER}.")),
        cluster=cluster,
        resources=file.resources,
        storage=_places(file, cluster),
        concurrency=concurrency if isinstance(concurrency, int) else 1,
        unimported=_unimported(file),
    )


def _places(file: StudyFile, cluster: ClusterConfig) -> dict[str, str]:
    """As a driver resolves them: the command line, its environment, the file."""
    places: dict[str, str] = file.storage.model_dump()
    for name, variable in ENVIRONMENT.items():
        if file.storage_origins[name] == COMMAND_LINE:
            continue
        if variable in cluster.secrets:
            places[name] = f"{OF_SECRET}{cluster.secrets[variable].secret}"
        else:
            places[name] = cluster.environment.get(variable, places[name])
    return places


def _unimported(file: StudyFile) -> tuple[str, ...]:
    from hidfd.data.sources import materials

    return tuple(
        f"trial.{where}: {material.path}"
        for where, material in materials(file.trial()).items()
        if material.sha256 is None
    )

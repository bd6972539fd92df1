"""A study file with its `cluster:` section, as pods will read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hidfd.addresses import is_on_s3
from hidfd.config import study_file as studyfile
from hidfd.config.storage import ENVIRONMENT
from hidfd.config.study_file import ResourcesConfig, StudyFile
from hidfd.config.yaml_tree import COMMAND_LINE
from hidfd.errors import ConfigError
from k8s.config import ClusterConfig

SECTION = "cluster"

FROM_SECRET = "the value in the Secret "
"""Beginning of a storage address that only the pods will know."""

MAX_FILE_BYTES = 1_000_000
"""Largest study file; the ConfigMap that carries it holds 1 MiB."""


@dataclass(frozen=True)
class Request:
    """A request to run one study on one cluster.

    Attributes:
        study: name of the study.
        path: path of the study file, as it was typed.
        text: content of the study file.
        overrides: overrides of the command line as they were typed, without those of `cluster:`.
        cluster: the section `cluster:`.
        resources: the section `resources:`, which a task gets.
        storage: store, ledger, tracking and results -> address as the pods will see it; `${NAME}` is left to their own
            environment.
        concurrency: number of tasks side by side.
        unimported: materials without sha256 that are on this machine, as `trial.PATH: file`.
        on_s3: materials without sha256 that are on S3, in the same words.
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
    on_s3: tuple[str, ...] = ()

    @property
    def sorted_overrides(self) -> tuple[str, ...]:
        """The overrides that have an effect, sorted by key: equal for requests that ask for the same.

        An override replaces every earlier one of its key and of the keys below it; one of a key below an earlier one's
        only changes it, and a key sorts before those below it. The order in which overrides add search
        parameters counts for the search, but not here: it makes no other job.
        """
        kept: dict[str, str] = {}
        for override in self.overrides:
            key = override.partition("=")[0]
            kept = {other: text for other, text in kept.items() if not f"{other}.".startswith(f"{key}.")}
            kept[key] = override
        return tuple(kept[key] for key in sorted(kept))

    @property
    def variables(self) -> set[str]:
        """Names of environment variables that the storage addresses refer to."""
        return {name for address in self.storage.values() for name in re.findall(r"\$\{(\w+)\}", address)}


def read_request(path: str, overrides: Sequence[str] = ()) -> Request:
    """Read a study file for a cluster, without the environment of this machine.

    Args:
        path: path of the study file.
        overrides: `key=value`, as for `tune run`.

    Raises:
        ConfigError: every problem with the sections that are read here, which `study:` and `search:` are not.
    """
    file = studyfile.load(path, overrides, environment=None)
    if file.yaml_tree.get([SECTION]) is None:
        raise ConfigError(
            f"{path}: no section `{SECTION}:`, which says where on Kubernetes the study runs; at least\n"
            f"    {SECTION}:\n      namespace: NAMESPACE\n      image: REGISTRY/hidfd@sha256:DIGEST"
        )
    text = Path(path).read_text(encoding="utf-8-sig")
    if len(text.encode()) > MAX_FILE_BYTES:
        raise ConfigError(
            f"{path}: {len(text.encode()):,} bytes; a study file for a cluster may have {MAX_FILE_BYTES:,}"
        )
    cluster = file.section(SECTION, ClusterConfig)
    unimported = _unimported(file)
    concurrency = file.yaml_tree.get(["study", "concurrency"])
    return Request(
        study=file.name,
        path=path,
        text=text,
        overrides=tuple(text for text in overrides if not text.startswith(f"{SECTION}.")),
        cluster=cluster,
        resources=file.resources,
        storage=_storage(file, cluster),
        concurrency=concurrency if isinstance(concurrency, int) else 1,
        unimported=tuple(f"trial.{where}: {path}" for where, path in unimported.items() if not is_on_s3(path)),
        on_s3=tuple(f"trial.{where}: {path}" for where, path in unimported.items() if is_on_s3(path)),
    )


def _storage(file: StudyFile, cluster: ClusterConfig) -> dict[str, str]:
    """Resolve the storage addresses as a driver does: from the command line, its environment or the file."""
    addresses: dict[str, str] = file.storage.model_dump()
    for name, variable in ENVIRONMENT.items():
        if file.storage_origins[name] == COMMAND_LINE:
            continue
        if variable in cluster.secrets:
            addresses[name] = f"{FROM_SECRET}{cluster.secrets[variable].secret}"
        else:
            addresses[name] = cluster.environment.get(variable, addresses[name])
    return addresses


def _unimported(file: StudyFile) -> dict[str, str]:
    """Return setting -> path of the materials without sha256."""
    from hidfd.data.sources import materials

    found = materials(file.trial())
    return {where: str(material.path) for where, material in found.items() if material.sha256 is None}

"""The section `storage:` of a study file: where all output lies, in absolute terms too. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from hidfd.addresses import SQLITE, absolute_address, why_no_path
from hidfd.config.section import Section
from hidfd.config.yaml_tree import COMMAND_LINE
from hidfd.errors import ConfigError

ENVIRONMENT = {"store": "HIDFD_STORE", "ledger": "HIDFD_LEDGER", "tracking": "MLFLOW_TRACKING_URI"}
"""Setting of `storage:` -> environment variable that replaces it."""


class StorageConfig(Section):
    """Locations of all output. Precedence: command line, environment, file, `./.hidfd`. A value may hold `${NAME}`."""

    store: str = Field(default=".hidfd/store", min_length=1)
    """Store of artifacts and checkpoints: a folder, or `s3://bucket/prefix`. Environment: HIDFD_STORE."""

    ledger: str = Field(default=".hidfd/ledger.db", min_length=1)
    """Ledger of a study: SQLite file or `postgresql://USER:${NAME}@HOST:PORT/DATABASE`. Environment: HIDFD_LEDGER."""

    tracking: str = Field(default="sqlite:///.hidfd/mlflow.db", min_length=1)
    """MLflow tracking URI. Environment: MLFLOW_TRACKING_URI."""

    results: str = Field(default=".hidfd/results", min_length=1)
    """Folder of the trials' folders and of the reports."""

    def places(self) -> dict[str, str]:
        """Return where each lies, absolute and without secrets, and the local folder of what is derived from the store.

        The keys are `store`, `ledger`, `tracking`, `results`, `cache`.
        """
        places = {name: redacted(absolute_address(value)) for name, value in self.model_dump().items()}
        is_remote = "://" in self.store and not self.store.startswith("file://")
        cache = os.environ.get("HIDFD_CACHE", ".hidfd/cache")
        return places | {"cache": absolute_address(cache) if is_remote else str(Path(places["store"]) / "cache")}

    def unwritable(self, names: Iterable[str]) -> list[str]:
        """Return a message for each of these places that could not be made, or not be written to, on this machine.

        Args:
            names: of settings; addresses of servers are not asked.
        """
        problems = []
        for name in names:
            given = getattr(self, name)
            path = Path(absolute_address(given).removeprefix(SQLITE).removeprefix("file://"))
            if not path.is_absolute():
                continue
            is_file = name in ("ledger", "tracking")
            why = f"{path} is a folder; expected a file" if is_file and path.is_dir() else None
            why = why or why_not_writable(path.parent if is_file else path)
            if why is not None:
                problems.append(f"storage.{name}: {given}: {why}; choose another place")
        return problems


def why_not_writable(folder: Path) -> str | None:
    """Return, in words, why nothing can be written into a folder that may not be there yet; None if it can be."""
    try:
        found = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not found.is_dir():
            return f"{found} is in the way of a folder of that name"
        return None if os.access(found, os.W_OK | os.X_OK) else f"{found} cannot be written to"
    except OSError as error:
        return f"{error.filename or folder} cannot be looked at ({error.strerror})"


def redacted(uri: str) -> str:
    """Return a URI without its password and without the query, which may hold keys; an SQLite file has neither."""
    if uri.startswith(SQLITE):
        return uri
    uri = re.sub(r"(?<=://)([^/@:]*):(?!\d+/).*@", r"\1:***@", uri)
    return re.sub(r"(://[^?]*)\?.*", r"\1?***", uri)


def has_plain_password(uri: str) -> bool:
    """Whether a URI holds a password in plain text, before the host or in the query."""
    found = [match[1] for match in re.finditer(r"://[^/@:]*:(?!\d+/)(.*)@", uri)]
    found += re.findall(r"(?i)[?&][^=&]*(?:passw|pwd|secret|token|key)[^=&]*=([^&]*)", uri)
    return any(re.sub(r"\$\{\w+\}", "", word) for word in found)


def storage_problems(values: Mapping[str, str], origins: Mapping[str, str]) -> list[str]:
    """Return a message for each place that cannot exist, as an environment variable or an option may name one."""
    problems = []
    for name, value in values.items():
        path = value.removeprefix(SQLITE).removeprefix("file://")
        why = why_no_path(path) if "://" not in path else None
        if not value:
            why = "is empty; give a path, or leave it out"
        if why is not None:
            problems.append(f"{origins[name]}: storage.{name}: {value!r}: {why}")
    return problems


def storage_from_environment(store: str | None = None) -> StorageConfig:
    """Return the `storage:` section for a command without a study file.

    Raises:
        ConfigError: a variable or the option names what can be no place.
    """
    values = StorageConfig().model_dump()
    origins = dict.fromkeys(values, "default")
    for name, variable in ENVIRONMENT.items():
        if os.environ.get(variable):
            values[name], origins[name] = os.environ[variable], variable
    if store is not None:
        values["store"], origins["store"] = store, COMMAND_LINE
    if problems := storage_problems(values, origins):
        raise ConfigError("\n".join(problems))
    return StorageConfig(**values)

"""Fill in the sha256 of every material of a trial."""

from __future__ import annotations

from typing import Any

from hidfd.config.paths import with_values
from hidfd.config.schema import Material, TrialConfig
from hidfd.data.sources import content_sha256, files_of, located, materials
from hidfd.errors import InputError
from hidfd.pipeline.graph import plan
from hidfd.pipeline.stage_specs import MATERIAL_SETTINGS
from hidfd.store.store import Store


def identify(config: TrialConfig, store: Store | None = None) -> TrialConfig:
    """Return the trial with the sha256 of every material filled in.

    A material with a sha256 is not read if its import is in the store. If it is not, and the path exists, the content
    must have that sha256; a path that does not exist is reported by the stage that needs it.

    Args:
        store: where imports are looked up; None = every material with an existing path is read.

    Raises:
        InputError: a path without sha256 does not exist, or content and sha256 differ; one message names all of them.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    unread: dict[str, Material] = {}
    for where, material in materials(config).items():
        if material.sha256 is not None:
            unread[where] = material
            continue
        assert material.path is not None
        try:
            values[f"{where}.sha256"] = content_sha256(material.path, f"trial.{where}.path")
        except InputError as error:
            problems.append(str(error))
    if not problems:
        config = with_values(config, values) if values else config
        for where in _imported(config, store):
            unread.pop(where, None)
    for where, material in unread.items():
        try:
            if material.path is not None and _exists(material.path):
                located(material, material.sha256, f"trial.{where}")
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return config


def _imported(config: TrialConfig, store: Store | None) -> list[str]:
    """Return the settings of the materials whose import is in the store."""
    if store is None:
        return []
    stages = plan(config)
    return [
        where
        for role, where in MATERIAL_SETTINGS.items()
        if role in stages and store.find(stages[role].name, stages[role].digest) is not None
    ]


def _exists(path: str) -> bool:
    try:
        files_of(path)
    except InputError:
        return False
    return True

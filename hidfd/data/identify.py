"""Fill in the sha256 of every material of a trial."""

from __future__ import annotations

import os
from typing import Any

from hidfd.config.paths import with_values
from hidfd.config.schema import Material, TrialConfig
from hidfd.data.sources import content_sha256, files_of, located, materials
from hidfd.errors import InputError
from hidfd.pipeline.graph import plan
from hidfd.pipeline.stage_specs import MATERIAL_SETTINGS
from hidfd.store.store import Store

UNKNOWN = "0" * 64
"""The sha256 that stands for one that is not known yet."""


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


def unreadable_materials(config: TrialConfig, store: Store | None) -> list[str]:
    """Return a message for each material whose files are not there or may not be read; nothing is read.

    Args:
        store: a material with a sha256 whose import is there needs no files; None = it cannot be asked.

    Raises:
        StoreError: the store cannot be read.
    """
    found, problems = materials(config), []
    unknown = {f"{where}.sha256": UNKNOWN for where, material in found.items() if material.sha256 is None}
    imported = _imported(with_values(config, unknown), store)
    for where, material in found.items():
        if where in imported and material.sha256 is not None:
            continue
        if material.path is None:
            if store is None:
                continue
            problems.append(
                f"trial.{where}: sha256 {material.sha256} is not in the store {store.uri}; give the path of its files "
                f"as well, or the store that has it"
            )
            continue
        try:
            files = files_of(material.path, f"trial.{where}.path")
        except InputError as error:
            problems.append(str(error))
            continue
        closed = [] if files.kind == "images" else [path for path in files.paths if not os.access(path, os.R_OK)]
        problems += [f"trial.{where}.path: {path}: no permission to read it" for path in closed]
    return problems


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

"""Fill in the sha256 of every material of a trial."""

from __future__ import annotations

from typing import Any

from hidfd.config.paths import with_values
from hidfd.config.schema import Material, TrialConfig
from hidfd.data.sources import content_sha256, files_of, located, materials
from hidfd.errors import InputError
from hidfd.pipeline import graph as stages
from hidfd.store.store import Store

_ROLES = {
    "candidates": "data.candidates",
    "validation": "data.validation",
    "test": "data.test",
    "synthesis": "data.synthetic",
    "teacher_images": "teacher.train.images",
    "teacher": "teacher.checkpoint",
}
"""Role in `hidfd.pipeline.graph` -> where the study file names the material."""


def identify(config: TrialConfig, store: Store | None = None) -> TrialConfig:
    """The trial with the sha256 of every material filled in.

    A material that carries one is not read if the store has what is made of it; otherwise, if its path exists, the
    content must be what the sha256 says. One whose path does not exist is left to the stage that needs it.

    Raises:
        InputError: a path without sha256 does not exist, or content and sha256 differ; all of them in one message.
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
        for where in _built(config, store):
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


def _built(config: TrialConfig, store: Store | None) -> list[str]:
    """Materials that the store has in the form in which stages read them."""
    if store is None:
        return []
    plan = stages.plan(config)
    return [
        where
        for role, where in _ROLES.items()
        if role in plan and store.find(plan[role].name, plan[role].digest) is not None
    ]


def _exists(path: str) -> bool:
    try:
        files_of(path)
    except InputError:
        return False
    return True

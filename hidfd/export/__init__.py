"""A finished student taken away: a network that needs nothing of this project, in a folder that says what it is."""

from importlib import import_module
from typing import Any

_LAZY = ("DeployedStudent", "deployed_student")


def __getattr__(name: str) -> Any:
    """Return the deployed student on demand: an import of another module of this folder loads no torch."""
    if name not in _LAZY:
        raise AttributeError(f"module 'hidfd.export' has no attribute {name!r}")
    return getattr(import_module("hidfd.export.network"), name)

"""Hybrid data-free knowledge distillation: one trial, as a command and as the function `hidfd.run_trial`."""

from importlib import import_module
from typing import Any

_LAZY = {"run_trial": "hidfd.trial", "studyfile": "hidfd.config.study_file"}


def __getattr__(name: str) -> Any:
    """Return `run_trial`, or the module `studyfile`, on demand: `import hidfd` loads no torch."""
    if name not in _LAZY:
        raise AttributeError(f"module 'hidfd' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    return module if name == "studyfile" else getattr(module, name)

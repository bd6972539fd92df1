"""Hybrid data-free knowledge distillation. `hidfd.run_trial` is the trial as a Python function."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`run_trial` on demand, so that `import hidfd` loads no torch."""
    if name == "run_trial":
        from hidfd.trial import run_trial

        return run_trial
    raise AttributeError(f"module 'hidfd' has no attribute {name!r}")

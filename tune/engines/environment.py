"""Environment variables that only work when they are set before torch or Ray load."""

from __future__ import annotations

import os
import secrets

LEAVE_WITHIN_SECONDS = 120
"""Ray gives a stopped function 2 s by default, and then loses the next trial of its actor."""


def before_torch(threads: int) -> dict[str, str]:
    """One task's threads; several that wait actively slow down whoever shares the cores.

    Returns:
        What was set.
    """
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ.update(settings)
    return settings


def before_ray(threads: int, concurrency: int) -> dict[str, str]:
    """Ray as a study wants it: quiet, with its own way to stop, and open to nobody else.

    Args:
        threads: of one task.
        concurrency: tasks side by side.

    Returns:
        What was set, for workers on other nodes.
    """
    settings = before_torch(threads) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else relative paths move
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the study's to handle
        "RAY_AIR_NEW_OUTPUT": "0",  # else it greets in spite of verbose=0
        "TUNE_MAX_PENDING_TRIALS_PG": str(concurrency),
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(LEAVE_WITHIN_SECONDS),
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the ledger remembers, not Tune
    }
    if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on every interface: a token of this run's own keeps others out, and leaves no file at home.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    os.environ.update(settings)
    return settings

"""Environment variables that only work if they are set before torch or Ray is loaded."""

from __future__ import annotations

import os
import secrets

from hidfd.formatting import plural

FUNCTION_STOP_SECONDS = 120
"""Seconds that a stopped function may take to return; after Ray's default of 2 the next trial of its actor is lost."""


def before_torch(threads: int) -> dict[str, str]:
    """Give one task its threads, which wait passively: active waiting slows down every other task on the same cores.

    Returns:
        The variables that were set.
    """
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ.update(settings)
    return settings


def crowding_in_words(concurrency: int, cpus_each: int, available: float, where: str) -> str | None:
    """Return a warning where the tasks side by side hold more CPUs than there are; None where they fit.

    Args:
        concurrency: tasks side by side.
        cpus_each: CPUs of a task.
        available: CPUs that there are.
        where: what has them, such as `this machine`.
    """
    if concurrency == 1 or concurrency * cpus_each <= available:
        return None
    fitting = max(1, int(available // cpus_each))
    return (
        f"study.concurrency: {concurrency} tasks of {plural(cpus_each, 'CPU')} ask for {concurrency * cpus_each}, and "
        f"{where} has {available:g}: more than {fitting} side by side slow each other down, or wait"
    )


def before_ray(threads: int, concurrency: int) -> dict[str, str]:
    """Make Ray quiet, leave signals and stopping to the study, and close a Ray of the study's own to everybody else.

    Args:
        threads: of one task.
        concurrency: tasks side by side.

    Returns:
        The variables that were set, which workers on other nodes need too.
    """
    settings = before_torch(threads) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else relative paths move
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study handles Ctrl-C itself
        "RAY_AIR_NEW_OUTPUT": "0",  # else it prints a greeting in spite of verbose=0
        "TUNE_MAX_PENDING_TRIALS_PG": str(concurrency),
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(FUNCTION_STOP_SECONDS),
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the ledger is the study's memory, not Tune
    }
    if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on every interface: a token for this run keeps others out, and leaves no file in the home folder.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    os.environ.update(settings)
    return settings

"""The Ray that a study starts on its own machine: where it dies, the study ends instead of waiting for it."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import worker as ray_worker

from hidfd.cli import exit_at_once
from tune.errors import EngineError

VITAL = {"raylet": "starts the workers", "gcs_server": "knows where everything is"}
"""Process of Ray without which all others wait -> what it does."""

LOOK_EVERY_SECONDS = 1.0
"""Seconds after which these processes are looked at again."""

LEAVE_SECONDS = 10.0
"""Seconds that the main thread may take to leave a Ray that has died: some calls of Ray wait for ever, deaf to signals.
"""

_SIGNAL = signal.SIGUSR2
"""Signal by which the watching thread wakes the main thread."""


class _RayDied(BaseException):
    """Raised in the main thread where Ray has died; Ray Tune would keep an `Exception` to itself."""


@contextmanager
def ending_with_ray() -> Iterator[None]:
    """End the block as soon as a vital process of this machine's own Ray dies; shut Ray down after it in any case.

    Must be entered in the main thread, after `ray.init`. Where the main thread does not leave the block, the whole
    process ends: the ledger is at any time as a driver that was killed leaves it.

    Raises:
        EngineError: such a process died.
    """
    is_over = threading.Event()

    def raise_in_main(*_: object) -> None:
        if not is_over.is_set():
            raise _RayDied

    def watch() -> None:
        died_at = None
        while not is_over.wait(LOOK_EVERY_SECONDS):
            if not (died := _died()):
                continue
            died_at = died_at or time.monotonic()
            if time.monotonic() - died_at > LEAVE_SECONDS:
                _kill_what_is_left()
                exit_at_once(_error_of(died))
            # Again and again, since Python drops what is raised while an object is deleted.
            signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    # Ray would print the log of a raylet that died between the lines of `run --json`.
    before, ray_worker.print_to_stdstream = ray_worker.print_to_stdstream, _print_nothing
    handler = signal.signal(_SIGNAL, raise_in_main)
    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except (_RayDied, Exception) as error:
        is_over.set()  # or the signal would come again while the message is made
        if died := _died():  # then any other error only followed from that
            raise _error_of(died) from None
        raise error
    finally:
        is_over.set()
        thread.join()
        signal.signal(_SIGNAL, handler)
        _shut_down()
        ray_worker.print_to_stdstream = before


def _died() -> list[str]:
    """Return the names of the vital processes of this Ray that have ended."""
    node: Any = getattr(ray_worker, "_global_node", None)
    return [] if node is None else [kind for kind, _ in node.dead_processes() if kind in VITAL]


def _error_of(died: list[str]) -> EngineError:
    words = " and ".join(f"{kind}, which {VITAL[kind]}," for kind in died) + (" has" if len(died) == 1 else " have")
    return EngineError(
        f"the Ray that this study had started is gone: {words} died. Where memory runs out the kernel kills "
        f"processes, and `dmesg` says so; else /tmp/ray/session_latest/logs tells more. All that is in the ledger is "
        f"kept, and the same command goes on from the last checkpoints"
    )


def _shut_down() -> None:
    """Shut Ray down; where it has died, `ray.shutdown` itself may wait for ever, so it gets a limit."""
    if not _died():
        ray.shutdown()
        return
    _kill_what_is_left()
    thread = threading.Thread(target=ray.shutdown, name="ray-shutdown", daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)
    if thread.is_alive():
        atexit.register(os._exit, EngineError.exit_code)  # the first at the end of the process: Ray's own would wait


def _kill_what_is_left() -> None:
    """Kill the processes of a Ray that has died; its workers end by themselves."""
    node: Any = getattr(ray_worker, "_global_node", None)
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def _print_nothing(*_: object, **__: object) -> None:
    """Print nothing."""

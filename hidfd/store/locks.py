"""Waiting for a lock with a word and a limit, and who holds it. Torch-free."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SAY_SECONDS = 3.0
"""Seconds of waiting after which a line says who holds a lock."""

LIMIT_SECONDS = 15.0
"""Seconds after which a lock is waited for no longer."""

POLL_SECONDS = 0.05

_log = logging.getLogger(__name__)


def wait_for(
    take: Callable[[], bool], what: str, holder: Callable[[], str], limit_seconds: float | None = None
) -> bool:
    """Try to take a lock until the limit.

    Args:
        take: tries once, and returns whether the lock is held now.
        what: is waited for, in words.
        holder: returns who holds the lock, in words.
        limit_seconds: of the wait; None for `LIMIT_SECONDS`.

    Returns:
        Whether the lock is held now.
    """
    limit = LIMIT_SECONDS if limit_seconds is None else limit_seconds
    began, has_said = time.monotonic(), False
    while not take():
        waited = time.monotonic() - began
        if waited >= limit:
            return False
        if waited >= SAY_SECONDS and not has_said:
            has_said = True
            _log.warning("waiting for %s, which is held by %s; at most %.0f s", what, holder(), limit)
        time.sleep(POLL_SECONDS)
    return True


def try_flock(descriptor: int, kind: int) -> bool:
    """Try once to lock an open file by `flock`, and return whether it is locked now; other errors are raised."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def said_if_slow(what: str, holder: Callable[[], str]) -> Iterator[None]:
    """Say who holds a lock if the block, which has a limit of its own, waits for it longer than `SAY_SECONDS`."""
    timer = threading.Timer(SAY_SECONDS, lambda: _log.warning("waiting for %s, which is held by %s", what, holder()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def holders_of(*paths: Path) -> str:
    """Return in words which other processes of this machine hold a lock on one of these files, as the kernel knows."""
    inodes: set[int] = set()
    for path in paths:
        with suppress(OSError):
            inodes.add(path.stat().st_ino)
    pids: set[int] = set()
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if "->" not in fields and int(fields[5].rpartition(":")[2]) in inodes:
                pids.add(int(fields[4]))
    found = [words for pid in sorted(pids - {os.getpid()}) if (words := _process_in_words(pid))]
    return ", ".join(found) or "another process, perhaps on another machine"


def _process_in_words(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return f"process {pid}" if pid > 0 else None
    stopped = f", which is stopped (kill -CONT {pid} lets it go on)" if state in "Tt" else ""
    return f"process {pid} ({' '.join(command.split())[:80]}){stopped}"

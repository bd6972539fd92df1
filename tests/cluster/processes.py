"""A process together with all that it has started."""

import contextlib
import os
import signal
from pathlib import Path

from tests.integration.ray_nodes import descendants

Family = set[tuple[int, str]]
"""Process ids with their start times, because numbers are used again."""


def family(leader: int) -> Family:
    """Return a process, its descendants and its group."""
    found = {leader, *descendants(leader)}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == leader:
                found.add(int(entry.name))
    return {(process, start) for process in found if (start := _start(process))}


def _start(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def kill(members: Family) -> None:
    """Kill those that still are the same processes."""
    for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: none sees another one die
        for process, start in members:
            if _start(process) == start:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

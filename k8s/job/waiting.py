"""Wait until Kubernetes has finished what it was asked to do, which it does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

POLL_SECONDS = 1.0
"""Seconds between two questions to the API server."""


@dataclass(frozen=True)
class Waiting:
    """The wait of a command for Kubernetes.

    Attributes:
        seconds: the longest wait.
        say: called with every line for people.
        sleep, clock: `time.sleep` and `time.monotonic`, but in tests.
    """

    seconds: float
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def deadline(self) -> float:
        """Return when a wait that begins now ends, by the clock."""
        return self.clock() + self.seconds

    def until_gone(self, find_left: Callable[[], list[str]], deadline: float) -> list[str]:
        """Wait until nothing is left.

        Args:
            find_left: asks what is left, in words.
            deadline: the end of the wait, by the clock.

        Returns:
            What is left at the deadline, in words; empty where all is gone.
        """
        while (left := find_left()) and self.clock() < deadline:
            self.sleep(POLL_SECONDS)
        return left

"""An engine without Ray: tasks run one after another in the driver's own process, for tests and `--engine local`."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tune.planner.planner import Planner
from tune.study.messages import Channel, Done, ProgressReport, TaskEnd, Wait
from tune.study.task import Task

Execute = Callable[[Task, Channel], TaskEnd]
"""A function that runs one task to its end; an error of the task is an end, and is not raised."""


class PlannerChannel:
    """The channel of a task that runs in the planner's own process."""

    def __init__(self, planner: Planner, key: str, on_change: Callable[[], None]) -> None:
        self._planner, self._key, self._on_change = planner, key, on_change

    def report(self, report: ProgressReport) -> None:
        """Pass a report to the planner."""
        self._planner.on_report(self._key, report)
        self._planner.tick()
        self._on_change()

    def verdict(self) -> str | None:
        """Ask the planner for its verdict."""
        self._on_change()
        return self._planner.verdict(self._key)


def run_local(planner: Planner, execute: Execute, on_change: Callable[[], None] = lambda: None) -> None:
    """Run a study one task after another.

    Args:
        planner: decides what runs.
        execute: runs a task in this process.
        on_change: called whenever there may be something new to show.
    """
    while True:
        step = planner.next_task(1)
        match step:
            case Task():
                planner.on_start(step, socket.gethostname())
                on_change()
                planner.on_end(step, execute(step, PlannerChannel(planner, step.key, on_change)))
                on_change()
            case Done():
                return
            case Wait():
                raise AssertionError("one task at a time: there is nothing to wait for")

"""The planner under a virtual clock: hundreds of workers and thousands of trials in seconds. Torch-free and Ray-free.

The same planner as in a real study decides, over a real ledger (in memory, if its storage is); only the work is
pretended. So what is tried here (a budget, a sampler, a kill at any moment) is tried on the code that will run.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

from tune.planner.planner import Planner
from tune.study.messages import Channel, Done, ProgressReport, TaskEnd
from tune.study.task import Task

Steps = Callable[[Task, Channel], Iterator[TaskEnd | None]]
"""Pretends to do a task, a step for each `next`: None while it goes on, then how it ended."""


class Simulation:
    """Virtual workers.

    Attributes:
        now: virtual seconds.
        on_event: called after each thing that has happened.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        num_slots: int,
        step_seconds: float | Callable[[Task], float],
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        """A cluster that can do so many tasks side by side.

        Args:
            steps: what a task does.
            num_slots: of the cluster.
            step_seconds: that one step takes, or a function of the work.
            on_event: called after each thing that has happened.
        """
        self.now = 0.0
        self._steps, self._num_slots, self.on_event = steps, num_slots, on_event
        self._seconds = step_seconds if callable(step_seconds) else lambda task: step_seconds
        self._order = itertools.count()

    def clock(self) -> float:
        """For the planner."""
        return self.now

    def run(self, planner: Planner) -> str:
        """Drive a planner to its end.

        Returns:
            Why it ended.
        """
        events: list[tuple[float, int, Task, Iterator[TaskEnd | None]]] = []
        while True:
            while isinstance(step := planner.next_task(self._num_slots - len(events)), Task):
                node = f"node-{len(events)}"
                planner.on_start(step, node)
                self._schedule(events, step, self._steps(step, _SimulatedTask(planner, step.key)))
            if isinstance(step, Done):
                assert not events, "done while something runs"
                return step.why
            assert events, "waiting for nothing"
            self.now, _, task, steps = heapq.heappop(events)
            planner.tick()
            end = next(steps)
            if end is None:
                self._schedule(events, task, steps)
            else:
                planner.on_end(task, end)
            self.on_event()

    def _schedule(
        self,
        events: list[tuple[float, int, Task, Iterator[TaskEnd | None]]],
        task: Task,
        steps: Iterator[TaskEnd | None],
    ) -> None:
        heapq.heappush(events, (self.now + self._seconds(task), next(self._order), task, steps))


class _SimulatedTask:
    """From a virtual worker straight to the planner."""

    def __init__(self, planner: Planner, key: str) -> None:
        self._planner, self._key = planner, key

    def report(self, report: ProgressReport) -> None:
        self._planner.on_report(self._key, report)

    def verdict(self) -> str | None:
        return self._planner.verdict(self._key)

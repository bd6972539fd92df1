"""An engine on a virtual clock: hundreds of workers and thousands of trials in seconds, without torch and Ray.

The planner and the ledger are those of a real study; only the tasks are pretended. So a budget, a sampler or a kill at
any moment is tested here on the code that will run.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

from tune.planner.planner import Planner
from tune.study.messages import Channel, Done, ProgressReport, TaskEnd
from tune.study.task import Task

Steps = Callable[[Task, Channel], Iterator[TaskEnd | None]]
"""A function that pretends to run a task, one step for each `next`: None while it goes on, then its end."""


class Simulation:
    """A cluster of virtual workers.

    Attributes:
        now: virtual seconds since the start.
        on_event: called after each step of a task.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        num_slots: int,
        step_seconds: float | Callable[[Task], float],
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        """Build a cluster on which nothing runs yet.

        Args:
            steps: makes the steps of a task.
            num_slots: tasks that the cluster runs side by side.
            step_seconds: virtual seconds of one step, or a function that gives them for a task.
            on_event: called after each step of a task.
        """
        self.now = 0.0
        self._steps, self._num_slots, self.on_event = steps, num_slots, on_event
        self._seconds = step_seconds if callable(step_seconds) else lambda task: step_seconds
        self._order = itertools.count()

    def clock(self) -> float:
        """Return the virtual time, as the planner's clock."""
        return self.now

    def run(self, planner: Planner) -> str:
        """Run a planner's tasks until it is done.

        Returns:
            The planner's reason why it is done.
        """
        events: list[tuple[float, int, Task, Iterator[TaskEnd | None]]] = []
        while True:
            while isinstance(step := planner.next_task(self._num_slots - len(events)), Task):
                node = f"node-{len(events)}"
                planner.on_start(step, node)
                self._schedule(events, step, self._steps(step, _SimulatedChannel(planner, step.key)))
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


class _SimulatedChannel:
    """The channel of a virtual worker's task."""

    def __init__(self, planner: Planner, key: str) -> None:
        self._planner, self._key = planner, key

    def report(self, report: ProgressReport) -> None:
        self._planner.on_report(self._key, report)

    def verdict(self) -> str | None:
        return self._planner.verdict(self._key)

"""The tasks that a study has taken up: each stands in the ledger before anybody acts on it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hidfd.config.schema import TrialConfig
from tune.ledger.ledger import Ledger
from tune.planner.task_queue import TaskQueue
from tune.study.states import Role, TaskKind, TaskState
from tune.study.task import Attempt, Outcome, Task, TaskSpec, task_specs


class TaskTable:
    """Writes tasks and how they ended into the ledger, and keeps the backlog of them.

    Attributes:
        backlog: every task, and quick answers about it.
        ended: keys of what has ended since somebody last drew conclusions; whoever does empties it.
        tries: every task in order of creation, also those that failed and were replaced by a second try.
    """

    def __init__(self, ledger: Ledger, *, is_driven: bool, tries_again: bool = False) -> None:
        """Takes up what the ledger holds.

        Args:
            ledger: of the study.
            is_driven: another process drives it, so what has not ended still runs.
            tries_again: what failed in an earlier run is tried again, when it is next asked for.
        """
        self.task_queue = TaskQueue()
        self.ended: list[str] = []
        self.tries: list[Task] = ledger.tasks()
        self._ledger, self._tries_again = ledger, tries_again
        for task in self.tries:
            self.task_queue.add(task)  # a later one of the same key is a second try of a failed one
            if is_driven and task.outcome is None and task.attempts and task.attempts[-1].ended is None:
                self.task_queue.start(task)
            elif task.attempts and task.attempts[-1].ended is None:
                attempt = task.attempts[-1]
                attempt.ended, attempt.end = attempt.last_seen, "interrupted"
                if task.outcome is None:
                    ledger.set_attempt(task, len(task.attempts) - 1)

    @property
    def tasks(self) -> dict[str, Task]:
        """Every task by key."""
        return self.task_queue.tasks

    def state_of(self, key: str) -> TaskState:
        """Where a task stands."""
        return self.task_queue.state_of(key)

    def attempts(self) -> Iterator[Attempt]:
        """Every attempt of every try."""
        return (attempt for task in self.tries for attempt in task.attempts)

    def add_trial(
        self,
        config: TrialConfig,
        role: Role,
        label: str,
        params: dict[str, Any],
        trial: int | None = None,
        rungs: tuple[int, ...] = (),
    ) -> tuple[str, ...]:
        """Every piece of a trial into the ledger, unless it is there."""
        specs = task_specs(config)
        for spec in specs:
            self.add(spec, role, label, params, trial, rungs if spec.kind is TaskKind.STUDENT else ())
        return tuple(spec.key for spec in specs)

    def add(
        self,
        spec: TaskSpec,
        role: Role,
        label: str,
        params: dict[str, Any],
        trial: int | None = None,
        rungs: tuple[int, ...] = (),
    ) -> None:
        """One piece into the ledger, unless it is there; see `tries_again`."""
        known = self.tasks.get(spec.key)
        has_failed = known is not None and self.state_of(spec.key) is TaskState.FAILED
        if known is not None and not (has_failed and self._tries_again and spec.key not in self.task_queue.wanted):
            return
        task = Task(
            number=len(self.tries),
            spec=spec,
            role=role,
            label=known.label if known else self.task_queue.label_for(spec, label),
            trial=trial,
            params=params,
            rungs=rungs,
        )
        self._ledger.add_task(task)
        self.task_queue.add(task)
        self.tries.append(task)
        for need in spec.needs:
            self.finish_dependents(self.tasks[need])

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Takes in how a task ended for good, and with it whatever rests on it."""
        self.task_queue.finish(task, outcome)
        self._ledger.finish_task(task)
        self.ended.append(task.key)
        self.finish_dependents(task)

    def finish_dependents(self, task: Task) -> None:
        """Ends whatever rests on a task that has ended without an artifact worth using."""
        for dependent, end in list(self.task_queue.doomed_by(task)):
            self.finish(dependent, end)

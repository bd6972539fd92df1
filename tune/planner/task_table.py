"""The tasks that a study has asked for, each written into the ledger before anything is done about it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hidfd.config.schema import TrialConfig
from tune.ledger.ledger import Ledger
from tune.planner.task_queue import TaskQueue
from tune.study.states import Role, TaskKind, TaskState
from tune.study.task import Attempt, Outcome, Task, TaskSpec, task_specs


@dataclass(frozen=True)
class TaskOrigin:
    """The reason for which a study asks for tasks; a task keeps the first one. See `Task` for the fields.

    Attributes:
        role, params, trial: of the tasks.
        label: of the student or test evaluation, as long as no other task has it.
        rungs: of the student.
    """

    role: Role
    label: str
    params: dict[str, Any]
    trial: int | None = None
    rungs: tuple[int, ...] = ()


class TaskTable:
    """The tasks of a study, written into the ledger with their outcomes.

    Attributes:
        task_queue: the tasks by key, and quick answers about them.
        ended: keys of the tasks that have ended since `StudyState.apply_outcomes` last emptied it.
        tries: all tasks in order of creation, including those that failed and were replaced by a second try.
    """

    def __init__(self, ledger: Ledger, *, is_driven: bool, tries_again: bool = False) -> None:
        """Read the tasks of a ledger; attempts that its last driver left unended are ended now.

        Args:
            ledger: of the study.
            is_driven: whether another process drives the study, so that attempts which have not ended still run.
            tries_again: whether a task that failed in an earlier run is tried again when it is next asked for.
        """
        self.task_queue = TaskQueue()
        self.ended: list[str] = []
        self.tries: list[Task] = ledger.tasks()
        self._ledger, self._tries_again = ledger, tries_again
        for task in self.tries:
            self.task_queue.add(task)  # a later task of the same key is the second try of a failed one
            if is_driven and task.outcome is None and task.attempts and task.attempts[-1].ended is None:
                self.task_queue.start(task)
            elif task.attempts and task.attempts[-1].ended is None:
                attempt = task.attempts[-1]
                attempt.ended, attempt.end = attempt.last_seen, "interrupted"
                if task.outcome is None:
                    ledger.set_attempt(task, len(task.attempts) - 1)

    @property
    def tasks(self) -> dict[str, Task]:
        """The newest try of every task, by key."""
        return self.task_queue.tasks

    def state_of(self, key: str) -> TaskState:
        """Return the state of a task."""
        return self.task_queue.state_of(key)

    def attempts(self) -> Iterator[Attempt]:
        """Iterate over all attempts at all tasks, failed tries included."""
        return (attempt for task in self.tries for attempt in task.attempts)

    def add_trial(self, config: TrialConfig, origin: TaskOrigin) -> tuple[str, ...]:
        """Add the tasks of a trial, and return their keys, the student's last."""
        specs = task_specs(config)
        for spec in specs:
            self.add(spec, origin)
        return tuple(spec.key for spec in specs)

    def add(self, spec: TaskSpec, origin: TaskOrigin) -> None:
        """Add a task, unless it is there already or is a failed one that is not to be tried again."""
        known = self.tasks.get(spec.key)
        has_failed = known is not None and self.state_of(spec.key) is TaskState.FAILED
        if known is not None and not (has_failed and self._tries_again and spec.key not in self.task_queue.wanted):
            return
        task = Task(
            number=len(self.tries),
            spec=spec,
            role=origin.role,
            label=known.label if known else self.task_queue.label_for(spec, origin.label),
            trial=origin.trial,
            params=origin.params,
            rungs=origin.rungs if spec.kind is TaskKind.STUDENT else (),
        )
        self._ledger.add_task(task)
        self.task_queue.add(task)
        self.tries.append(task)
        for need in spec.needs:
            self.finish_dependents(self.tasks[need])

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Give a task its final outcome, and end the tasks that need it if it is not complete."""
        self.task_queue.finish(task, outcome)
        self._ledger.finish_task(task)
        self.ended.append(task.key)
        self.finish_dependents(task)

    def finish_dependents(self, task: Task) -> None:
        """End the tasks that need a task which has ended otherwise than complete."""
        for dependent, end in list(self.task_queue.doomed_by(task)):
            self.finish(dependent, end)

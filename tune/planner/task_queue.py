"""All tasks of a study, and quick answers about them: what can start, what waits for a task, what is left. Torch-free.

The answers follow from the specifications of the tasks and their outcomes; nothing here decides anything or writes into
the ledger. They are as fast for ten thousand trials as for ten, because each change touches only what depends on it.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator

from tune.study.states import TaskKind, TaskState
from tune.study.task import Outcome, Task, TaskSpec


class TaskQueue:
    """The tasks of a study by key.

    Attributes:
        tasks: key -> task, for every task that was ever asked for.
        wanted: keys of the tasks that the study asks for now, in the order in which it asked.
        running: keys of the tasks that an engine runs.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.wanted: dict[str, None] = {}
        self.running: set[str] = set()
        self._unfinished: set[str] = set()  # wanted, without an outcome
        self._waiting_builds: set[str] = set()
        self._ready: list[int] = []  # numbers of tasks that wait for nothing but a slot, ascending
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)  # key -> keys of the tasks that need it
        self._key_of_number: dict[int, str] = {}
        self._labels: set[str] = set()
        self._num_builds: Counter[TaskKind] = Counter()
        self._built: set[str] = set()  # digests of artifacts that are known to be in the store
        self._num_building: Counter[str] = Counter()  # digest -> running tasks that make it
        self._num_training: Counter[str] = Counter()  # trajectory -> running tasks that train it
        self._builds_of_trajectory: defaultdict[str, set[str]] = defaultdict(set)  # trajectory -> keys of its lengths

    def state_of(self, key: str) -> TaskState:
        """Return the state of a task."""
        outcome = self.tasks[key].outcome
        if outcome is not None:
            return outcome.state
        return TaskState.RUNNING if key in self.running else TaskState.WAITING

    def add(self, task: Task) -> None:
        """Add a task; one whose key is known is a second try, and replaces the first."""
        before = self.tasks.get(task.key)
        if before is not None:
            self._remove_from_ready(before)
        self.tasks[task.key] = task
        self._key_of_number[task.number] = task.key
        self._labels.add(task.label)
        self._num_builds[task.spec.kind] += before is None
        for need in task.spec.needs:
            self._dependents[need].add(task.key)
        if task.spec.trajectory is not None:
            self._builds_of_trajectory[task.spec.trajectory].add(task.key)
        if task.outcome is not None and task.outcome.state is TaskState.COMPLETE:
            self._built |= task.spec.makes
        self._refresh(task.key)

    def want(self, keys: Iterable[str]) -> None:
        """Add the tasks of these keys to those that the study asks for."""
        for key in keys:
            if key not in self.wanted:
                self.wanted[key] = None
                self._refresh(key)

    def unwant(self, key: str) -> None:
        """Take a task out of those that the study asks for."""
        self.wanted.pop(key, None)
        self._refresh(key)

    def start(self, task: Task) -> None:
        """Count a task as running from now on."""
        self.running.add(task.key)
        self._count_running(task.spec, 1)
        self._refresh(task.key)

    def release(self, task: Task) -> None:
        """Count a task as running no more, whether it has ended for good or not."""
        if task.key in self.running:
            self.running.discard(task.key)
            self._count_running(task.spec, -1)
        self._refresh(task.key)

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Give a task its final outcome."""
        task.outcome = outcome
        if outcome.state is TaskState.COMPLETE:
            self._built |= task.spec.makes
        self._refresh(task.key)
        for key in self._dependents[task.key]:
            self._refresh(key)

    def mark_built(self, generator: str) -> None:
        """Record that a generator is in the store; the task that trains it may go on to a longer one."""
        self._built.add(generator)

    def shorter_lengths(self, spec: TaskSpec) -> tuple[int, ...]:
        """Return the images, before the end of this task, at which waiting tasks want the generator that it trains."""
        others = [other for other in self._waiting_lengths(spec) if other.generator not in self._built]
        lengths = {other.target_images for other in others if other.target_images is not None}
        return tuple(sorted(images for images in lengths if images < (spec.target_images or 0)))

    def doomed_by(self, task: Task) -> Iterator[tuple[Task, Outcome]]:
        """Yield each task that waits for a build which ended otherwise than complete, with the outcome that follows."""
        outcome = task.outcome
        if outcome is None or outcome.state is TaskState.COMPLETE:
            return
        for key in sorted(self._dependents[task.key], key=lambda key: self.tasks[key].number):
            dependent = self.tasks[key]
            if dependent.outcome is None:
                yield dependent, Outcome(outcome.state, f"{task.label} {outcome.state}: {outcome.reason}")

    def first_ready(self, among: Container[str] | None = None) -> Task | None:
        """Return the first task, in order of creation, that can start now; None if none can.

        A task can start when the builds that it needs are complete and no running task makes the same artifacts. In
        place of a generator that is still to be trained comes the longest length of its trajectory that may start: it
        saves the shorter ones on its way.

        Args:
            among: keys of the tasks that may start; None for any.
        """
        for number in self._ready:
            task = self.tasks[self._key_of_number[number]]
            if (among is None or task.key in among) and self._is_free(task.spec):
                lengths = [] if task.spec.generator in self._built else self._waiting_lengths(task.spec)
                longer = [spec for spec in lengths if among is None or spec.key in among]
                return self.tasks[max([task.spec, *longer], key=lambda spec: spec.target_images or 0).key]
        return None

    def has_waiting_build(self) -> bool:
        """Whether a build that the study asks for waits to be started."""
        return bool(self._waiting_builds)

    def has_unfinished(self, among: Container[str] | None = None) -> bool:
        """Whether a task that the study asks for (among these keys) has not ended."""
        return any(among is None or key in among for key in self._unfinished)

    def label_for(self, spec: TaskSpec, proposed: str) -> str:
        """Return a label that no other task has: a numbered noun for a build, else the proposed one or a variation."""
        if spec.kind.is_build:
            return f"{spec.kind.label}-{self._num_builds[spec.kind]}"
        number, label = 2, proposed
        while label in self._labels:
            label, number = f"{proposed}-{number}", number + 1
        return label

    def _refresh(self, key: str) -> None:
        """Bring all that is derived from one task up to date."""
        task = self.tasks[key]
        is_unfinished = key in self.wanted and task.outcome is None
        (self._unfinished.add if is_unfinished else self._unfinished.discard)(key)
        is_waiting = is_unfinished and key not in self.running
        is_build = is_waiting and task.spec.kind.is_build
        (self._waiting_builds.add if is_build else self._waiting_builds.discard)(key)
        self._remove_from_ready(task)
        if is_waiting and all(self._is_complete(need) for need in task.spec.needs):
            bisect.insort(self._ready, task.number)

    def _remove_from_ready(self, task: Task) -> None:
        position = bisect.bisect_left(self._ready, task.number)
        if position < len(self._ready) and self._ready[position] == task.number:
            del self._ready[position]

    def _is_complete(self, key: str) -> bool:
        outcome = self.tasks[key].outcome
        return outcome is not None and outcome.state is TaskState.COMPLETE

    def _is_free(self, spec: TaskSpec) -> bool:
        """Whether no running task makes one of its artifacts, or trains another length of its generator."""
        if spec.trajectory is not None and self._num_training[spec.trajectory] and spec.generator not in self._built:
            return False
        return all(digest in self._built or not self._num_building[digest] for digest in spec.makes)

    def _waiting_lengths(self, spec: TaskSpec) -> list[TaskSpec]:
        """Return the builds of its trajectory that the study asks for, have not ended and do not run."""
        keys = self._builds_of_trajectory[spec.trajectory] if spec.trajectory is not None else set()
        return [self.tasks[key].spec for key in keys if key in self._unfinished and key not in self.running]

    def _count_running(self, spec: TaskSpec, change: int) -> None:
        for digest in spec.makes:
            self._num_building[digest] += change
        if spec.trajectory is not None:
            self._num_training[spec.trajectory] += change

"""Every task of a study, and quick answers about it: what can start, what waits for it, what is left.

All of it follows from the pieces and how they ended; nothing here decides, writes or remembers. Ten thousand trials are
answered as fast as ten, because each change touches only what depends on it. Torch-free.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator

from tune.study.states import TaskKind, TaskState
from tune.study.task import Outcome, Task, TaskSpec


class TaskQueue:
    """Tasks by key.

    Attributes:
        works: every one that was ever asked for.
        wanted: keys of those that the study asks for by now, in the order in which it asked.
        running: keys of those that an engine has.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.wanted: dict[str, None] = {}
        self.running: set[str] = set()
        self._unfinished: set[str] = set()  # wanted, without an outcome
        self._waiting_builds: set[str] = set()
        self._ready: list[int] = []  # numbers of those that wait for nothing but a slot, ascending
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)
        self._keys: dict[int, str] = {}
        self._labels: set[str] = set()
        self._num_builds: Counter[TaskKind] = Counter()
        self._made: set[str] = set()
        self._claimed: Counter[str] = Counter()
        self._trajectories: Counter[str] = Counter()
        self._lengths: defaultdict[str, set[str]] = defaultdict(set)  # trajectory -> keys of its generators' builds

    def state_of(self, key: str) -> TaskState:
        """Where a task stands."""
        outcome = self.tasks[key].outcome
        if outcome is not None:
            return outcome.state
        return TaskState.RUNNING if key in self.running else TaskState.WAITING

    def add(self, task: Task) -> None:
        """Takes in a task; one of the same key is a second try, and replaces the first."""
        before = self.tasks.get(task.key)
        if before is not None:
            self._not_ready(before)
        self.tasks[task.key] = task
        self._keys[task.number] = task.key
        self._labels.add(task.label)
        self._num_builds[task.spec.kind] += before is None
        for need in task.spec.needs:
            self._dependents[need].add(task.key)
        if task.spec.trajectory is not None:
            self._lengths[task.spec.trajectory].add(task.key)
        if task.outcome is not None and task.outcome.state is TaskState.COMPLETE:
            self._made |= task.spec.makes
        self._refresh(task.key)

    def want(self, keys: Iterable[str]) -> None:
        """The study asks for these."""
        for key in keys:
            if key not in self.wanted:
                self.wanted[key] = None
                self._refresh(key)

    def unwant(self, key: str) -> None:
        """The study no longer asks for it."""
        self.wanted.pop(key, None)
        self._refresh(key)

    def start(self, task: Task) -> None:
        """An engine has it."""
        self.running.add(task.key)
        self._claim(task.spec, 1)
        self._refresh(task.key)

    def release(self, task: Task) -> None:
        """No engine has it any more, whether it has ended for good or not."""
        if task.key in self.running:
            self.running.discard(task.key)
            self._claim(task.spec, -1)
        self._refresh(task.key)

    def finish(self, task: Task, outcome: Outcome) -> None:
        """It has ended for good."""
        task.outcome = outcome
        if outcome.state is TaskState.COMPLETE:
            self._made |= task.spec.makes
        self._refresh(task.key)
        for key in self._dependents[task.key]:
            self._refresh(key)

    def mark_built(self, generator: str) -> None:
        """A generator has been built, by work that may still run: whoever needs this length need not wait for more."""
        self._made.add(generator)

    def shorter_lengths(self, spec: TaskSpec) -> tuple[int, ...]:
        """Images at which others that have not ended want the generator that this piece trains, before its own end."""
        others = [other for other in self._trained_like(spec) if other.generator not in self._made]
        lengths = {other.target_images for other in others if other.target_images is not None}
        return tuple(sorted(images for images in lengths if images < (spec.target_images or 0)))

    def doomed_by(self, task: Task) -> Iterator[tuple[Task, Outcome]]:
        """What waits for a build that has ended without an artifact worth using, and how that ends."""
        outcome = task.outcome
        if outcome is None or outcome.state is TaskState.COMPLETE:
            return
        for key in sorted(self._dependents[task.key], key=lambda key: self.tasks[key].number):
            dependent = self.tasks[key]
            if dependent.outcome is None:
                yield dependent, Outcome(outcome.state, f"{task.label} {outcome.state}: {outcome.reason}")

    def first_ready(self, among: Container[str] | None = None) -> Task | None:
        """The first, in order of creation, whose needs are there and whose artifacts nobody builds now.

        Of a generator that is still to be trained the longest length that may start comes in its place: it leaves the
        shorter ones on its way.

        Args:
            among: keys that may start; None for any.
        """
        for number in self._ready:
            task = self.tasks[self._keys[number]]
            if (among is None or task.key in among) and self._is_free(task.spec):
                lengths = [] if task.spec.generator in self._made else self._trained_like(task.spec)
                longer = [spec for spec in lengths if among is None or spec.key in among]
                return self.tasks[max([task.spec, *longer], key=lambda spec: spec.target_images or 0).key]
        return None

    def waiting(self) -> list[Task]:
        """What is wanted, has not ended and does not run, in order of creation."""
        found = [self.tasks[key] for key in self._unfinished if key not in self.running]
        return sorted(found, key=lambda task: task.number)

    def has_waiting_build(self) -> bool:
        """Whether a build that somebody needs has not started."""
        return bool(self._waiting_builds)

    def unfinished(self, among: Container[str] | None = None) -> bool:
        """Whether anything that is wanted (among these keys) has not ended."""
        return any(among is None or key in among for key in self._unfinished)

    def label_for(self, spec: TaskSpec, wish: str) -> str:
        """A name that no other task has: what was wished for a student, a numbered noun for a build."""
        if spec.kind.is_build:
            return f"{spec.kind.label}-{self._num_builds[spec.kind]}"
        number, label = 2, wish
        while label in self._labels:
            label, number = f"{wish}-{number}", number + 1
        return label

    def _refresh(self, key: str) -> None:
        """Brings what is derived for one task up to date."""
        task = self.tasks[key]
        is_unfinished = key in self.wanted and task.outcome is None
        (self._unfinished.add if is_unfinished else self._unfinished.discard)(key)
        is_waiting = is_unfinished and key not in self.running
        is_build = is_waiting and task.spec.kind.is_build
        (self._waiting_builds.add if is_build else self._waiting_builds.discard)(key)
        self._not_ready(task)
        if is_waiting and all(self._is_complete(need) for need in task.spec.needs):
            bisect.insort(self._ready, task.number)

    def _not_ready(self, task: Task) -> None:
        place = bisect.bisect_left(self._ready, task.number)
        if place < len(self._ready) and self._ready[place] == task.number:
            del self._ready[place]

    def _is_complete(self, key: str) -> bool:
        outcome = self.tasks[key].outcome
        return outcome is not None and outcome.state is TaskState.COMPLETE

    def _is_free(self, spec: TaskSpec) -> bool:
        """Nobody builds what it makes, nor trains another length of a generator that it would train."""
        if spec.trajectory is not None and self._trajectories[spec.trajectory] and spec.generator not in self._made:
            return False
        return all(digest in self._made or not self._claimed[digest] for digest in spec.makes)

    def _trained_like(self, spec: TaskSpec) -> list[TaskSpec]:
        """The builds of its trajectory that are wanted, have not ended and do not run."""
        keys = self._lengths[spec.trajectory] if spec.trajectory is not None else set()
        return [self.tasks[key].spec for key in keys if key in self._unfinished and key not in self.running]

    def _claim(self, spec: TaskSpec, change: int) -> None:
        for digest in spec.makes:
            self._claimed[digest] += change
        if spec.trajectory is not None:
            self._trajectories[spec.trajectory] += change

"""The planner, which makes all decisions of a study: without Ray, without torch, with the caller's clock.

An engine asks `next_task`, runs it, and calls `on_start`, `on_report` and `on_end`; `verdict` says from memory whether
a task shall go on. Every decision is written into the ledger before it is acted on, so a planner that is made anew over
the same ledger goes on where the last one was killed.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hidfd.formatting import plural
from tune.planner.budget import Account, Cost, Pace, cost_of, exhausted
from tune.planner.comparison import comparison_specs
from tune.planner.state import StudyState
from tune.planner.suggest import propose
from tune.study.messages import (
    MAX_ROWS,
    Done,
    ProgressReport,
    TaskBlocked,
    TaskDiverged,
    TaskEnd,
    TaskFailed,
    TaskFinished,
    TaskInfeasible,
    TaskLost,
    TaskStopped,
    Wait,
)
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskKind, TaskState
from tune.study.task import Attempt, Outcome, Task, TaskSpec

LOST_WITHOUT_PROGRESS = 3
"""Crashes in a row at one point of its progress that are taken for the task's own fault, not its node's."""

LOST_IN_ALL = 10
"""Crashes, wherever they happened, that are taken for the task's own fault: it may log progress and never save any."""

STOP_SECONDS = 5.0
"""Seconds that a task may take to save a checkpoint and stop: so long before the budget's end all tasks are stopped."""

OBEY_SECONDS = 60.0
"""Seconds for saving and stopping that a task has once it hangs or the budget is used up, before it is killed."""

LISTENS_SECONDS = 30.0
"""The longest time between two `tick`s that counts as silence of a task: in a longer one the driver itself was held up,
by its ledger for example."""

SEEN_EVERY_SECONDS = 15.0
"""Interval at which the ledger is told that a running task is alive, and how far it is: a heartbeat."""

_log = logging.getLogger(__name__)


@dataclass
class RunningTask:
    """The newest reports of a running task, in memory only: a new driver needs none of it.

    Attributes:
        stage, images, target_images, metrics, picture: as it last reported them.
        attempt_number: index of its attempt in `Task.attempts`, None until it has started.
        last_written: time at which its attempt was last written into the ledger.
        silent_seconds: time since its last report, without the times in which the driver was held up.
        verdict: why it shall stop, if it shall.
    """

    stage: str | None = None
    images: int = 0
    target_images: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    picture: str | None = None
    attempt_number: int | None = None
    last_written: float = 0.0
    silent_seconds: float = 0.0
    verdict: str | None = None


class Planner:
    """The planner of one study.

    Attributes:
        state: of the study.
        running: key -> newest reports, for every task that runs.
        notes: lines for the user, in order.
        blocking_failure: a failure whose cause the user has to mend before anything can go on; None if there is none.
    """

    def __init__(
        self, state: StudyState, clock: Callable[[], float], calendar: Callable[[], float] | None = None
    ) -> None:
        """Plan over a state.

        Args:
            state: of the study.
            clock: gives seconds that never jump, for all durations.
            calendar: gives seconds since the epoch, to which the machine's clock may jump; None if `clock` does that.
        """
        self.state = state
        self.running: dict[str, RunningTask] = {}
        self.notes: list[str] = []
        self.blocking_failure: TaskBlocked | None = None
        self._told_rows: dict[str, deque[dict[str, float]]] = {}
        self._clock, self._calendar = clock, calendar or clock
        self._now = -math.inf
        self._last_listened = self.now()
        self._drain_reason: str | None = None
        self._budget_used_up_at: float | None = None
        self._account = Account(state.task_table.attempts())
        self._pace = Pace()
        self._reserve_basis: tuple[int | None, int] | None = None
        self._reserved = Cost()
        for task in state.tasks.values():
            self._learn(task)
        state.apply_outcomes()

    def next_task(self, free: int) -> Task | Wait | Done:
        """Choose the task to start now.

        Args:
            free: slots of the engine that are free.

        Returns:
            A task, which counts as running from now on; Wait while others run; Done when nothing is left, or the study
            was asked to stop and nothing runs any more.
        """
        self._watch_budget()
        if self._drain_reason is not None:
            return Wait() if self.running else Done(self._drain_reason)
        if free <= 0:
            return Wait()
        task = self.state.task_queue.first_ready(self.state.startable) or self._suggest_until_ready()
        if task is None and self.state.final_evaluation.untested():
            self.state.final_evaluation.open_test_labels(self._calendar())
            task = self.state.task_queue.first_ready(self.state.startable)
        if task is None:
            return Wait() if self.running else Done("everything that was asked for has ended")
        task.snapshots_at_images = self.state.task_queue.shorter_lengths(task.spec)
        self.running[task.key] = RunningTask(target_images=task.spec.target_images)
        self.state.task_queue.start(task)
        return task

    def is_over(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not self.running and self.state.is_over()

    def on_start(self, task: Task, node: str) -> None:
        """Record that an attempt at a task has begun on a node."""
        now, stamp, running = self.now(), self._calendar(), self.running[task.key]
        since = task.attempts[-1].images_to if task.attempts else 0
        resources = dict(self.state.definition.resources)
        task.attempts.append(
            Attempt(
                node,
                resources,
                stamp,
                stamp,
                images_from=since,
                images_to=since,
                run=self.state.ledger.epoch,
                begun=now,
            )
        )
        running.attempt_number, running.last_written, running.images = len(task.attempts) - 1, now, since
        self._account.open(task.attempts[-1])
        self.state.ledger.set_attempt(task, running.attempt_number)

    def on_report(self, key: str, report: ProgressReport) -> str | None:
        """Take in the report of a running task; the same report twice changes nothing, since a row is written once.

        Returns:
            The verdict on the task, as `verdict`.
        """
        running = self.running.get(key)
        if running is None:
            return None
        task = self.state.tasks[key]
        running.silent_seconds = 0.0
        if report.rows:
            self._told_rows.setdefault(key, deque(maxlen=MAX_ROWS)).extend(report.rows)
        if report.note:
            self.notes.append(f"{task.label}: {report.note}")
        if report.generator is not None:
            self.state.task_queue.mark_built(report.generator)
        if report.stage is not None:
            same = report.stage == running.stage
            running.target_images = report.target_images or (running.target_images if same else None)
            running.stage, running.images = report.stage, report.images
        running.metrics |= report.metrics
        running.picture = report.picture or running.picture
        if report.measured and report.images in task.rungs:
            self._compare(task, report)
        if running.attempt_number is not None:
            attempt = task.attempts[running.attempt_number]
            attempt.last_seen = self._stamp(attempt)
            attempt.images_to, attempt.stage = running.images, running.stage
        return self.verdict(key)

    def take_rows(self) -> dict[str, list[dict[str, float]]]:
        """Return the rows of metrics that tasks have told since the last call, by key; of very many the newest."""
        told, self._told_rows = self._told_rows, {}
        return {key: list(rows) for key, rows in told.items()}

    def verdict(self, key: str) -> str | None:
        """Return why a running task shall stop, or None if it shall go on; from memory, so it is cheap."""
        running = self.running.get(key)
        if running is None:
            return self._drain_reason
        closed = self.state.closed_reason if key not in self.state.final_evaluation.keys else None
        return running.verdict or self._drain_reason or closed

    def now(self) -> float:
        """Return the clock's time, or the latest time that it has given if it goes backwards."""
        self._now = max(self._now, self._clock())
        return self._now

    def _stamp(self, attempt: Attempt) -> float:
        """Return the time of now as an attempt has it: when it started, and the seconds since."""
        return attempt.started + self.now() - attempt.start

    def spent(self) -> Cost:
        """Return what the study has cost until now."""
        return self._account.spent(self.now())

    def tick(self) -> None:
        """Check the budget, look for tasks that hang, and write heartbeats; the engine calls it every few seconds."""
        now = self.now()
        self._watch_budget()
        self._watch_hung(now)
        for key, running in self.running.items():
            if running.attempt_number is not None and now - running.last_written >= SEEN_EVERY_SECONDS:
                running.last_written = now
                self.state.ledger.set_attempt(self.state.tasks[key], running.attempt_number)

    def must_kill(self, key: str) -> bool:
        """Whether the process of a task is to be killed, because it was asked to stop and has not.

        This is so for a task that hangs and, once the budget is used up, for one in a stage that cannot stop half-way.
        """
        running = self.running.get(key)
        if running is None or running.attempt_number is None or self.verdict(key) is None:
            return False
        return running.silent_seconds >= self._hung_seconds + OBEY_SECONDS or self._has_overdrawn()

    def on_end(self, task: Task, end: TaskEnd) -> None:
        """Record that a task stopped running, for whatever reason; a second call for the same end changes nothing."""
        running = self.running.get(task.key)
        if running is None:
            return
        if running.attempt_number is None:
            self.on_start(task, "(never started)")
        if running.silent_seconds >= self._hung_seconds and isinstance(end, TaskStopped):
            # It hung, even if it obeyed in the end.
            end = TaskLost(running.verdict or "hung", cpu_seconds=end.cpu_seconds)
        elif isinstance(end, TaskLost) and not end.node_is_gone and self._has_overdrawn():
            end = TaskStopped(end.reason, end.cpu_seconds)  # killed because of the budget, which is not its own fault
        attempt = task.attempts[-1]
        attempt.ended = attempt.last_seen = self._stamp(attempt)
        self._account.close(attempt)
        attempt.end, attempt.cpu_seconds = end.word, end.cpu_seconds
        if isinstance(end, TaskLost) and end.node_is_gone:
            attempt.end = "node lost"
        self.state.ledger.set_attempt(task, len(task.attempts) - 1)
        outcome = self._outcome(task, end)
        if not isinstance(end, TaskDiverged):
            # The decision of a rung holds even if the student was finished before it learned of it.
            outcome = self.state.pruned_outcome(task) or outcome
        del self.running[task.key]
        self.state.task_queue.release(task)
        if outcome is not None:
            self.state.task_table.finish(task, outcome)
            self._learn(task)
        self.state.apply_outcomes()

    def drain(self, reason: str) -> None:
        """Start nothing more, and ask running tasks to save a checkpoint and stop."""
        self._drain_reason = self._drain_reason or reason

    @property
    def stopping(self) -> str | None:
        """The reason for which nothing more is started; None while the study goes on."""
        return self._drain_reason

    @property
    def best(self) -> SearchTrial | None:
        """The best complete search trial so far; None if there is none."""
        return self.state.best

    def _suggest_until_ready(self) -> Task | None:
        """Add search trials until one of them gives a task to start or a build that has to wait."""
        state = self.state
        while state.closed_reason is None and len(state.search_trials) < state.max_search_trials:
            if state.task_queue.has_waiting_build():
                return None
            self._suggest()
            task = state.task_queue.first_ready()
            if task is not None:
                return task
        return None

    def _suggest(self) -> None:
        proposal = propose(self.state)
        self.state.suggest(proposal.params, proposal.leader, proposal.why, proposal.point)

    def _compare(self, task: Task, report: ProgressReport) -> None:
        """Decide once, by ASHA at exactly the images of a rung, whether a student goes on."""
        assert task.trial is not None, task.label
        search_trial = self.state.search_trials[task.trial]
        if report.images not in search_trial.rungs:
            metrics = report.metrics
            self.state.decide(
                search_trial, report.images, metrics["agreement"], metrics.get("agreement_standard_error")
            )
        dropped = self.state.pruned_outcome(task)
        if dropped is not None:
            self.running[task.key].verdict = dropped.reason

    def _learn(self, task: Task) -> None:
        """Learn from a complete task how long its kind takes, unless its artifacts were found in the store."""
        if task.outcome is not None and task.outcome.state is TaskState.COMPLETE and not task.outcome.reused:
            self._pace.learn(task.spec, task.seconds)

    @property
    def _hung_seconds(self) -> float:
        minutes = self.state.definition.study.hung_after_minutes
        return math.inf if minutes is None else 60 * minutes

    def _watch_hung(self, now: float) -> None:
        """Ask tasks that have reported nothing for too long to stop; `must_kill` says when to kill them."""
        passed, self._last_listened = min(now - self._last_listened, LISTENS_SECONDS), now
        for key, running in self.running.items():
            running.silent_seconds += passed if running.attempt_number is not None else 0.0
            if running.silent_seconds >= self._hung_seconds and running.verdict is None:
                minutes = self.state.definition.study.hung_after_minutes
                running.verdict = f"hung: it told nothing for {minutes:g} min"
                self.notes.append(
                    f"{self.state.tasks[key].label}: {running.verdict} (study.hung_after_minutes); it is stopped, and "
                    f"goes on from its last checkpoint"
                )

    def _watch_budget(self) -> None:
        """Stop everything once the budget is used up, and the search once only the comparison's share is left."""
        budget = self.state.definition.study.budget
        if self._drain_reason is not None or not budget.is_set:
            return
        spent = self._account.spent(self.now(), ahead_seconds=STOP_SECONDS)
        reason = exhausted(spent, budget)
        if reason is not None:
            self._budget_used_up_at = self.now()
            self.drain(f"the budget is used up ({reason})")
        elif self.state.best is not None and self.state.closed_reason is None and not self.state.search_is_over():
            reason = exhausted(spent + self._reserve(), budget)
            if reason is not None:
                self.state.close_search(f"what is left of the budget is kept for the finalists ({reason} with them)")

    def _has_overdrawn(self) -> bool:
        return self._budget_used_up_at is not None and self.now() - self._budget_used_up_at >= OBEY_SECONDS

    def _reserve(self) -> Cost:
        """Return the expected cost of the comparison at the end, by how long tasks took so far; 0 before any ended."""
        definition, best = self.state.definition, self.state.best
        basis = best.number if best else None, self._pace.num_learnt
        if basis != self._reserve_basis:
            self._reserve_basis = basis
            specs = {spec.key: spec for spec in comparison_specs(definition, self.state.search_trials)}
            seconds = sum(self._pace.seconds(spec) or 0.0 for spec in specs.values())
            num_parallel = max(1, definition.study.concurrency)
            self._reserved = cost_of(dict(definition.resources), seconds) + Cost(wall_seconds=seconds / num_parallel)
        return self._reserved

    def _outcome(self, task: Task, end: TaskEnd) -> Outcome | None:
        """Return the outcome that follows from the end of an attempt; None if another attempt goes on later."""
        match end:
            case TaskFinished(metrics, reused, _, build_seconds, answers):
                state, reason = self._judge(task.spec, metrics)
                return Outcome(state, reason, metrics, reused, build_seconds, answers)
            case TaskDiverged(reason):
                return Outcome(TaskState.DIVERGED, reason)
            case TaskInfeasible(reason, exit_code, cpu_seconds):
                if task.key in self.state.definition.shared_keys:
                    return self._outcome(task, TaskBlocked(reason, exit_code, cpu_seconds))
                return Outcome(TaskState.INFEASIBLE, reason)
            case TaskFailed(reason):
                return Outcome(TaskState.FAILED, reason)
            case TaskBlocked(reason) as blocked:
                self.blocking_failure = blocked
                self.drain(f"{task.label}: {reason}")
                return None
            case TaskLost(reason):
                return self._lost(task, reason)
            case TaskStopped():
                return None

    def _judge(self, spec: TaskSpec, metrics: dict[str, float]) -> tuple[TaskState, str | None]:
        if spec.kind is TaskKind.STUDENT:
            missing = self.state.definition.study.unmeasured(metrics)
            if missing is not None:
                return TaskState.FAILED, f"its {missing} is not a number"
        if spec.kind is TaskKind.GENERATOR:
            classes = metrics.get("generator.effective_classes", math.nan)
            asked = metrics.get("generator.asked_classes", spec.config.data.num_classes)
            if not classes >= asked / 3:
                return TaskState.COLLAPSED, (
                    f"exp(entropy) of its images' classes is {classes:.4g}, below the gate of {asked / 3:.4g}, a third "
                    f"of the {asked:.0f} classes that the collected images have"
                )
        return TaskState.COMPLETE, None

    def _lost(self, task: Task, reason: str) -> Outcome | None:
        """Return a failure once the task's own process has died too often; nodes that went away do not count."""
        own = [attempt for attempt in task.attempts if attempt.end != "node lost"]
        last = own[-LOST_WITHOUT_PROGRESS:]
        stuck = len(last) == LOST_WITHOUT_PROGRESS and all(
            attempt.end == "lost" and attempt.images_to == last[0].images_to for attempt in last
        )
        in_all = sum(attempt.end == "lost" for attempt in own)
        if task.attempts[-1].end == "node lost" or (not stuck and in_all < LOST_IN_ALL):
            _log.warning("%s: lost (%s); it goes on from its last checkpoint", task.label, reason)
            return None
        where = f"{LOST_WITHOUT_PROGRESS} times at one point" if stuck else plural(in_all, "time")
        return Outcome(TaskState.FAILED, f"lost {where}: {reason}")

"""The state of a study: its search trials, tasks, rungs, comparison rows, and the best trial so far. Torch-free.

Every change is written into the ledger before anything is done about it, so that a state that is made anew over the
same ledger is the same state. The planner makes its choices from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hidfd.errors import ConfigError
from hidfd.formatting import part_of, percent
from tune.ledger.ledger import Ledger
from tune.ledger.rows import reading_row
from tune.planner.comparison import ComparisonRow, best_of
from tune.planner.final_evaluation import FinalEvaluation
from tune.planner.task_queue import TaskQueue
from tune.planner.task_table import TaskOrigin, TaskTable
from tune.samplers.distributions import distributions_of
from tune.study.asha import Rung, decide
from tune.study.definition import Definition, differences
from tune.study.search_space import changed
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import Outcome, Task


class StudyState:
    """The state of one study.

    Attributes:
        search_trials: in order of their numbers.
        task_table: the tasks that they and the comparison rows need.
        rungs: student images -> values of the students there.
        final_evaluation: the comparison that follows the search.
        closed_reason: why the search ended before it was complete; None if it did not.
        best: the complete search trial of the highest value that keeps the constraints; of equal ones the one with the
            better further objectives, then the earliest.
    """

    def __init__(
        self, definition: Definition, ledger: Ledger, *, is_driven: bool = False, tries_again: bool = False
    ) -> None:
        """Take up the study where its ledger ends.

        Args:
            definition: of the study.
            ledger: of the study, which this state writes; a copy where another process drives the study.
            is_driven: whether another process drives the study, so that attempts which have not ended still run.
            tries_again: whether tasks that failed in an earlier run are tried once more; a process that only reads the
                study leaves them as they are.

        Raises:
            ConfigError: the ledger's search trials were made for another search of the same name.
        """
        self.definition = definition
        self.ledger = ledger
        self.search_trials: list[SearchTrial] = []
        self.rungs: defaultdict[int, Rung] = defaultdict(Rung)
        self.closed_reason: str | None = None
        self.best: SearchTrial | None = None
        self._unfinished: dict[int, SearchTrial] = {}  # by number
        self._trials_of_student: dict[str, list[SearchTrial]] = {}  # key of a student -> unfinished trials that need it
        self._failed: list[SearchTrial] = []
        self._retried: set[int] = set()  # numbers of failed trials that another one tries again
        self._group_sizes: Counter[int] = Counter()
        self._num_points = 0
        self._check_identity()
        ledger.repair()
        self.task_table = TaskTable(ledger, is_driven=is_driven, tries_again=tries_again)
        self.final_evaluation = FinalEvaluation(definition, ledger, self.task_table)
        self._recover()
        if tries_again:
            self._retry_failed()

    @property
    def task_queue(self) -> TaskQueue:
        """The tasks of the study, and quick answers about them."""
        return self.task_table.task_queue

    @property
    def tasks(self) -> dict[str, Task]:
        """The newest try of every task, by key."""
        return self.task_table.tasks

    def state_of(self, key: str) -> TaskState:
        """Return the state of a task."""
        return self.task_table.state_of(key)

    @property
    def comparison_rows(self) -> list[ComparisonRow]:
        """The rows of the comparison that the study has asked for by now."""
        return self.final_evaluation.rows

    @property
    def max_search_trials(self) -> int:
        """Search trials that the search makes at most; one that failed and was tried again does not count."""
        return self.definition.limit + len(self._retried)

    @property
    def num_learnt_from(self) -> int:
        """Number of search trials that samplers learn from: those that have ended and have not failed."""
        return len(self.search_trials) - len(self._unfinished) - len(self._failed)

    @property
    def next_point(self) -> int | None:
        """The index of the first of `study.points` that no search trial tries yet; None if all are tried."""
        return self._num_points if self._num_points < len(self.definition.study.points) else None

    def size_of_group(self, leader: SearchTrial) -> int:
        """Return the number of search trials that share the leader's upstream parameters, itself counted."""
        return self._group_sizes[leader.number]

    def is_over(self) -> bool:
        """Whether nothing is left to suggest, to start or to wait for."""
        return (
            not self.task_queue.has_unfinished(among=self.startable)
            and self.search_is_over()
            and not self.final_evaluation.untested()
        )

    @property
    def startable(self) -> set[str] | None:
        """Keys of the tasks that may start once the search is closed; None, for all tasks, before."""
        return None if self.closed_reason is None else self.final_evaluation.keys

    def close_search(self, reason: str) -> None:
        """End the search early: suggest nothing more, and start only the tasks of the comparison.

        A run with another budget, a higher one say, opens the search again and finishes what it left.
        """
        self.closed_reason = reason
        self.ledger.set_search_closed({"reason": reason, "budget": self._budget()})
        self.apply_outcomes()

    def suggest(
        self,
        params: dict[str, Any],
        leader: SearchTrial | None,
        why: str = "",
        point: int | None = None,
        retries: int | None = None,
    ) -> None:
        """Add a search trial and its tasks.

        Args:
            params: dotted path -> value.
            leader: the first search trial of the group whose upstream parameters it shares; None for a new group.
            why: reason for these parameters, in words.
            point: index of the entry of `study.points` that it tries, if it tries one.
            retries: number of the failed search trial whose parameters it tries again, if it does.
        """
        number = len(self.search_trials)
        trial = SearchTrial(number, params, leader.number if leader else number, why, point, retries)
        distributions = distributions_of(self.definition.space)
        self.ledger.add_search_trial(trial, {path: distributions[path] for path in params})
        self._register(trial)
        self._add_tasks(trial)
        self.apply_outcomes()

    def apply_outcomes(self) -> None:
        """Draw the conclusions from tasks that have ended: finish their search trials, plan the final evaluation."""
        ended, self.task_table.ended = self.task_table.ended, []
        for key in ended:
            outcome = self.tasks[key].outcome
            if outcome is not None:
                for trial in self._trials_of_student.pop(key, []):
                    self._finish(trial, outcome)
        self.final_evaluation.plan(self.search_trials, self.best, is_over=self.search_is_over())

    def decide(self, trial: SearchTrial, images: int, value: float, error: float | None = None) -> None:
        """Compare a student with the others at a rung, and write the decision before it is acted on.

        Args:
            trial: of the student.
            images: that it has seen.
            value, error: its agreement there, and the standard error.
        """
        rung, student, pruner = self.rungs[images], trial.task_keys[-1], self.definition.study.pruner
        trial.rungs[images] = decide(
            value,
            rung.others(student),
            pruner.reduction_factor,
            margin=pruner.margin,
            error=error,
            errors=rung.errors,
        )
        rung.add(student, value, error)
        self.ledger.set_rungs(trial)

    def pruned_outcome(self, task: Task) -> Outcome | None:
        """Return the outcome of a student that a rung has decided against; None if no rung has."""
        if task.trial is None or not task.rungs:
            return None
        trial = self.search_trials[task.trial]
        dropped = [images for images, decision in trial.rungs.items() if not decision.kept]
        if not dropped:
            return None
        decision = trial.rungs[dropped[0]]
        reason = (
            f"pruned at {dropped[0]:,} images: agreement {percent(decision.value)}, "
            f"{part_of(decision.num_better, decision.num_others, 'other')} did better there"
        )
        return Outcome(TaskState.PRUNED, reason, {"agreement": decision.value})

    def _check_identity(self) -> None:
        identity, known = self.definition.identity(), self.ledger.identity
        if known is None and self.ledger.has_other_objectives:
            raise ConfigError(
                f"the ledger's study {self.definition.name!r} was made for other objectives, which cannot be changed; "
                f"give the study another `name:`: artifacts are found again"
            )
        if known is None:
            self.ledger.set_identity(identity)
        elif changes := list(differences(known, identity)):  # a key that an older version left out counts as None
            shown = "\n  ".join(changes[:10]) + (f"\n  and {len(changes) - 10} more" if len(changes) > 10 else "")
            raise ConfigError(
                f"the ledger's study {self.definition.name!r} was begun with other settings, and its results "
                f"are not comparable with these:\n  {shown}\ngive the study another `name:`, or take the change back"
            )

    def _recover(self) -> None:
        closed = self.ledger.search_closed
        if closed is not None and closed["budget"] == self._budget():
            self.closed_reason = closed["reason"]
        for trial in self.ledger.search_trials():
            self._register(trial)
            is_planned = bool(trial.task_keys) and all(key in self.tasks for key in trial.task_keys)
            if not trial.state.is_final and not is_planned:
                self._add_tasks(trial)
            elif not trial.state.is_final:
                self._await_student(trial)
            elif trial.task_keys and not is_planned:
                with reading_row(f"trial {trial.number}"):
                    raise ValueError("the ledger lacks a task of it")
            self.task_queue.want(trial.task_keys)
        for task in list(self.tasks.values()):
            dropped = self.pruned_outcome(task)
            if task.outcome is None and dropped is not None:
                self.task_table.finish(task, dropped)
            else:
                self.task_table.finish_dependents(task)
        self.apply_outcomes()

    def _register(self, trial: SearchTrial) -> None:
        self.search_trials.append(trial)
        self._group_sizes[trial.group] += 1
        self._num_points += trial.point is not None
        if trial.retries is not None:
            self._retried.add(trial.retries)
        for images, decision in trial.rungs.items():
            self.rungs[images].add(trial.task_keys[-1], decision.value, decision.error)
        if trial.state.is_final:
            self._register_end(trial)
        else:
            self._unfinished[trial.number] = trial

    def _register_end(self, trial: SearchTrial) -> None:
        self._unfinished.pop(trial.number, None)
        self.best = best_of([s for s in (self.best, trial) if s is not None])
        if trial.state is TaskState.FAILED:
            self._failed.append(trial)

    def _retry_failed(self) -> None:
        for trial in list(self._failed):
            if trial.task_keys and trial.number not in self._retried:
                for key in trial.task_keys:
                    if self.state_of(key) is TaskState.FAILED:
                        self.task_queue.unwant(key)
                leader, why = self.search_trials[trial.group], f"trial {trial.number} again, which failed"
                self.suggest(dict(trial.params), leader, why, retries=trial.number)

    def _add_tasks(self, trial: SearchTrial) -> None:
        """Write the tasks of a search trial that are not in the ledger yet, and then all their keys."""
        try:
            params = self.definition.settings_of(trial.params, trial.group)
            config = changed(self.definition.base, params)
        except ConfigError as error:
            trial.state, trial.reason = TaskState.INFEASIBLE, f"these values do not fit together: {error}"
            self.ledger.finish_search_trial(trial)
            self._register_end(trial)
            return
        label = f"trial-{trial.number}"
        origin = TaskOrigin("search", label, params, trial.number, self.definition.rungs)
        trial.task_keys = self.task_table.add_trial(config, origin)
        self.ledger.set_task_keys(trial)
        self.task_queue.want(trial.task_keys)
        self._await_student(trial)

    def _await_student(self, trial: SearchTrial) -> None:
        key = trial.task_keys[-1]
        self._trials_of_student.setdefault(key, []).append(trial)
        self.task_table.ended.append(key)  # it may have ended already, for another search trial

    def _finish(self, trial: SearchTrial, outcome: Outcome) -> None:
        student = self.tasks[trial.task_keys[-1]]
        assert student.trial is not None or not trial.rungs
        trial.state, trial.reason = outcome.state, outcome.reason
        study, metrics = self.definition.study, outcome.metrics
        missing = study.unmeasured(metrics) if outcome.state is TaskState.COMPLETE else None
        if missing is not None:  # its student was finished for a comparison row, which does not need this metric
            trial.state, trial.reason = TaskState.FAILED, f"its {missing} was not measured"
        elif outcome.state is TaskState.COMPLETE:
            trial.value = metrics[study.objective]
            trial.further = {name: metrics[name] for name in study.further_objectives}
            trial.violation = study.violation(metrics)
        if student.trial not in (None, trial.number):
            trial.rungs = dict(self.search_trials[student.trial].rungs)
            self.ledger.set_rungs(trial)
        self.ledger.finish_search_trial(trial)
        self._register_end(trial)

    def search_is_over(self) -> bool:
        """Whether the search suggests nothing more and waits for none of its tasks."""
        if self.closed_reason is not None:
            return self.task_queue.running <= self.final_evaluation.keys
        return len(self.search_trials) >= self.max_search_trials and not self._unfinished

    def _budget(self) -> dict[str, Any]:
        return self.definition.study.budget.model_dump(mode="json")

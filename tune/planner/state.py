"""What a study holds and what follows from it: suggestions, rungs, the best so far. Torch-free.

All of it stands in the ledger, written before anything is done about it; a state made anew over the same ledger is the
same state. The planner chooses from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hidfd.errors import ConfigError
from tune.ledger.ledger import Ledger
from tune.planner.comparison import ComparisonRow, best_of
from tune.planner.final_evaluation import FinalEvaluation
from tune.planner.task_queue import TaskQueue
from tune.planner.task_table import TaskTable
from tune.study.asha import Rung, decide
from tune.study.definition import Definition, differences
from tune.study.search_space import changed
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import Outcome, Task


class StudyState:
    """Suggestions of one study, over its tasks (`tune.planner.task_table`) and its comparisons
    (`tune.planner.final_evaluation`).

    Attributes:
        suggestions: of the search, in order.
        roster: its tasks.
        rungs: student images -> what was shown there.
        final_evaluation: what is compared once the search is over.
        closed_reason: why the search has ended before it was complete; None if it has not.
        best: of the complete suggestions that keep the constraints the one of the highest value; of equals that with
            the better further objectives, then the earliest.
    """

    def __init__(
        self, definition: Definition, ledger: Ledger, *, is_driven: bool = False, tries_again: bool = False
    ) -> None:
        """Takes up the study where the ledger stands.

        Args:
            definition: of the study.
            ledger: of the study, written by this state; a copy where another process drives the study.
            is_driven: another process does, so what has not ended still runs.
            tries_again: whether what failed in an earlier run, for reasons that its settings are not to blame for, is
                asked for once more; whoever only looks on leaves it as it is.

        Raises:
            ConfigError: the ledger's suggestions were made for another search of the same name.
        """
        self.definition = definition
        self.ledger = ledger
        self.search_trials: list[SearchTrial] = []
        self.rungs: defaultdict[int, Rung] = defaultdict(Rung)
        self.closed_reason: str | None = None
        self.best: SearchTrial | None = None
        self._open: dict[int, SearchTrial] = {}  # those that have not ended
        self._asking: dict[str, list[SearchTrial]] = {}  # key of a student -> those that have not ended and share it
        self._failed: list[SearchTrial] = []
        self._made_again: set[int] = set()  # numbers of those that failed, and stand once more
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
        """Its tasks, and quick answers about them."""
        return self.task_table.task_queue

    @property
    def tasks(self) -> dict[str, Task]:
        """Every task by key."""
        return self.task_table.tasks

    def state_of(self, key: str) -> TaskState:
        """Where a task stands."""
        return self.task_table.state_of(key)

    @property
    def comparison_rows(self) -> list[ComparisonRow]:
        """Comparisons asked for by now."""
        return self.final_evaluation.rows

    @property
    def max_search_trials(self) -> int:
        """How many suggestions the search makes at most; one that failed and was made again does not count."""
        return self.definition.limit + len(self._made_again)

    @property
    def num_learnt_from(self) -> int:
        """Suggestions that samplers learn from: those that have ended, but for failures."""
        return len(self.search_trials) - len(self._open) - len(self._failed)

    @property
    def next_point(self) -> int | None:
        """Which of `study.points` has not been suggested yet; None if all have."""
        return self._num_points if self._num_points < len(self.definition.study.points) else None

    def size_of_group(self, leader: SearchTrial) -> int:
        """How many suggestions share its upstream parameters, itself counted."""
        return self._group_sizes[leader.number]

    def is_over(self) -> bool:
        """Whether nothing is left to suggest, to start or to wait for."""
        return (
            not self.task_queue.unfinished(among=self.startable)
            and self.search_is_over()
            and not self.final_evaluation.untested()
        )

    @property
    def startable(self) -> set[str] | None:
        """Keys of the tasks that may start; None for any."""
        return None if self.closed_reason is None else self.final_evaluation.keys

    def close_search(self, reason: str) -> None:
        """Suggests nothing more, and starts only what the comparison at the end needs.

        What the search has not finished goes on when its budget has been raised.
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
        """Takes in a new suggestion, with its tasks.

        Args:
            params: dotted path -> value.
            leader: the suggestion whose upstream parameters it holds; None if it opens a group.
            why: these parameters, in words.
            point: which of `study.points` it tries, if one.
            retries: number of the suggestion that failed and that it makes again, if one.
        """
        number = len(self.search_trials)
        search_trial = SearchTrial(number, params, leader.number if leader else number, why, point, retries)
        distributions = self.definition.space.distributions
        self.ledger.add_search_trial(search_trial, {path: distributions[path] for path in params})
        self._take_in(search_trial)
        self._plan_search_trial(search_trial)
        self.apply_outcomes()

    def apply_outcomes(self) -> None:
        """Everything that follows from what has ended: suggestions, finalists."""
        ended, self.task_table.ended = self.task_table.ended, []
        for key in ended:
            outcome = self.tasks[key].outcome
            if outcome is not None:
                for search_trial in self._asking.pop(key, []):
                    self._finish_search_trial(search_trial, outcome)
        self.final_evaluation.plan(self.search_trials, self.best, is_over=self.search_is_over())

    def decide(self, search_trial: SearchTrial, images: int, value: float) -> None:
        """Compares a student at a rung, and writes the decision before anyone acts on it."""
        rung, student = self.rungs[images], search_trial.task_keys[-1]
        factor = self.definition.study.pruner.reduction_factor
        search_trial.rungs[images] = decide(value, rung.others(student), factor)
        rung.add(student, value)
        self.ledger.set_rungs(search_trial)

    def pruned_outcome(self, task: Task) -> Outcome | None:
        """The end of a student that a rung has decided against; None if none has."""
        if task.trial is None or not task.rungs:
            return None
        search_trial = self.search_trials[task.trial]
        dropped = [images for images, decision in search_trial.rungs.items() if not decision.kept]
        if not dropped:
            return None
        decision = search_trial.rungs[dropped[0]]
        reason = (
            f"pruned at {dropped[0]:,} images: agreement {100 * decision.value:.1f} %, "
            f"{decision.num_better} of {decision.num_others} others did better there"
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
        elif changes := list(differences(known, identity)):  # None is no difference to what an older version left out
            shown = "\n  ".join(changes[:10]) + (f"\n  and {len(changes) - 10} more" if len(changes) > 10 else "")
            raise ConfigError(
                f"the ledger's study {self.definition.name!r} was searched under other settings, and its results "
                f"do not answer for these:\n  {shown}\ngive the study another `name:`, or take the change back"
            )

    def _recover(self) -> None:
        closed = self.ledger.search_closed
        if closed is not None and closed["budget"] == self._budget():
            self.closed_reason = closed["reason"]
        for search_trial in self.ledger.search_trials():
            self._take_in(search_trial)
            is_planned = bool(search_trial.task_keys) and all(key in self.tasks for key in search_trial.task_keys)
            if not search_trial.state.is_final and not is_planned:
                self._plan_search_trial(search_trial)
            elif not search_trial.state.is_final:
                self._await_student(search_trial)
            self.task_queue.want(search_trial.task_keys)
        for task in list(self.tasks.values()):
            dropped = self.pruned_outcome(task)
            if task.outcome is None and dropped is not None:
                self.task_table.finish(task, dropped)
            else:
                self.task_table.finish_dependents(task)
        self.apply_outcomes()

    def _take_in(self, search_trial: SearchTrial) -> None:
        self.search_trials.append(search_trial)
        self._group_sizes[search_trial.group] += 1
        self._num_points += search_trial.point is not None
        if search_trial.retries is not None:
            self._made_again.add(search_trial.retries)
        for images, decision in search_trial.rungs.items():
            self.rungs[images].add(search_trial.task_keys[-1], decision.value)
        if search_trial.state.is_final:
            self._has_ended(search_trial)
        else:
            self._open[search_trial.number] = search_trial

    def _has_ended(self, search_trial: SearchTrial) -> None:
        self._open.pop(search_trial.number, None)
        self.best = best_of([s for s in (self.best, search_trial) if s is not None])
        if search_trial.state is TaskState.FAILED:
            self._failed.append(search_trial)

    def _retry_failed(self) -> None:
        for search_trial in list(self._failed):
            if search_trial.task_keys and search_trial.number not in self._made_again:
                for key in search_trial.task_keys:
                    if self.state_of(key) is TaskState.FAILED:
                        self.task_queue.unwant(key)
                leader, why = self.search_trials[search_trial.group], f"trial {search_trial.number} again, which failed"
                self.suggest(dict(search_trial.params), leader, why, retries=search_trial.number)

    def _plan_search_trial(self, search_trial: SearchTrial) -> None:
        """Writes the pieces of a suggestion, those that are not there already, and then their keys."""
        try:
            params = self.definition.settings_of(search_trial.params, search_trial.group)
            config = changed(self.definition.base, params)
        except ConfigError as error:
            search_trial.state, search_trial.reason = TaskState.FAILED, f"these values do not fit together: {error}"
            self.ledger.finish_search_trial(search_trial)
            self._has_ended(search_trial)
            return
        label = f"trial-{search_trial.number}"
        search_trial.task_keys = self.task_table.add_trial(
            config, "search", label, params, search_trial.number, self.definition.rungs
        )
        self.ledger.set_task_keys(search_trial)
        self.task_queue.want(search_trial.task_keys)
        self._await_student(search_trial)

    def _await_student(self, search_trial: SearchTrial) -> None:
        key = search_trial.task_keys[-1]
        self._asking.setdefault(key, []).append(search_trial)
        self.task_table.ended.append(key)  # it may have, for another suggestion

    def _finish_search_trial(self, search_trial: SearchTrial, outcome: Outcome) -> None:
        student = self._student(search_trial)
        assert student is not None
        assert student.trial is not None or not search_trial.rungs
        search_trial.state, search_trial.reason = outcome.state, outcome.reason
        study, metrics = self.definition.study, outcome.metrics
        missing = study.unmeasured(metrics) if outcome.state is TaskState.COMPLETE else None
        if missing is not None:  # its student was finished for a row that does not ask for it
            search_trial.state, search_trial.reason = TaskState.FAILED, f"its {missing} was not measured"
        elif outcome.state is TaskState.COMPLETE:
            search_trial.value = metrics[study.objective]
            search_trial.further = {name: metrics[name] for name in study.further_objectives}
            search_trial.violation = study.violation(metrics)
        if student.trial not in (None, search_trial.number):
            search_trial.rungs = dict(self.search_trials[student.trial].rungs)
            self.ledger.set_rungs(search_trial)
        self.ledger.finish_search_trial(search_trial)
        self._has_ended(search_trial)

    def search_is_over(self) -> bool:
        """Whether the search suggests nothing more, and nothing of it runs."""
        if self.closed_reason is not None:
            return self.task_queue.running <= self.final_evaluation.keys
        return len(self.search_trials) >= self.max_search_trials and not self._open

    def _budget(self) -> dict[str, Any]:
        return self.definition.study.budget.model_dump(mode="json")

    def _student(self, search_trial: SearchTrial) -> Task | None:
        return self.tasks.get(search_trial.task_keys[-1]) if search_trial.task_keys else None

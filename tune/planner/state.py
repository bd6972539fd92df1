"""What a study holds and what follows from it: suggestions, rungs, the best so far. Torch-free.

All of it stands in the ledger, written before anything is done about it; a state made anew over the same ledger is the
same state. The planner chooses from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hidfd.errors import ConfigError
from tune.ledger.ledger import Ledger
from tune.planner.comparison import Row, best_of
from tune.planner.final_evaluation import Finals
from tune.planner.task_queue import Backlog
from tune.planner.task_table import Roster
from tune.study.asha import Rung, decide
from tune.study.definition import Definition, differences
from tune.study.search_space import changed
from tune.study.states import WorkState
from tune.study.suggestion import Suggestion
from tune.study.task import Outcome, Work


class StudyState:
    """Suggestions of one study, over its pieces of work (`tune.planner.task_table`) and its comparisons
    (`tune.planner.final_evaluation`).

    Attributes:
        suggestions: of the search, in order.
        roster: its pieces of work.
        rungs: student images -> what was shown there.
        finals: what is compared once the search is over.
        closed: why the search has ended before it was complete; None if it has not.
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
        self.suggestions: list[Suggestion] = []
        self.rungs: defaultdict[int, Rung] = defaultdict(Rung)
        self.closed: str | None = None
        self.best: Suggestion | None = None
        self._open: dict[int, Suggestion] = {}  # those that have not ended
        self._asking: dict[str, list[Suggestion]] = {}  # key of a student -> those that have not ended and share it
        self._failed: list[Suggestion] = []
        self._made_again: set[int] = set()  # numbers of those that failed, and stand once more
        self._group_sizes: Counter[int] = Counter()
        self._num_points = 0
        self._check_identity()
        ledger.repair()
        self.roster = Roster(ledger, is_driven=is_driven, tries_again=tries_again)
        self.finals = Finals(definition, ledger, self.roster)
        self._recover()
        if tries_again:
            self._retry_failed()

    @property
    def backlog(self) -> Backlog:
        """Its pieces of work, and quick answers about them."""
        return self.roster.backlog

    @property
    def works(self) -> dict[str, Work]:
        """Every piece of work by key."""
        return self.roster.works

    def of(self, key: str) -> WorkState:
        """Where a piece of work stands."""
        return self.roster.of(key)

    @property
    def rows(self) -> list[Row]:
        """Comparisons asked for by now."""
        return self.finals.rows

    @property
    def limit(self) -> int:
        """How many suggestions the search makes at most; one that failed and was made again does not count."""
        return self.definition.limit + len(self._made_again)

    @property
    def num_learnt_from(self) -> int:
        """Suggestions that samplers learn from: those that have ended, but for failures."""
        return len(self.suggestions) - len(self._open) - len(self._failed)

    @property
    def next_point(self) -> int | None:
        """Which of `study.points` has not been suggested yet; None if all have."""
        return self._num_points if self._num_points < len(self.definition.study.points) else None

    def size_of_group(self, leader: Suggestion) -> int:
        """How many suggestions share its upstream parameters, itself counted."""
        return self._group_sizes[leader.number]

    def is_over(self) -> bool:
        """Whether nothing is left to suggest, to start or to wait for."""
        return (
            not self.backlog.unfinished(among=self.startable) and self.search_is_over() and not self.finals.unopened()
        )

    @property
    def startable(self) -> set[str] | None:
        """Keys of the pieces of work that may start; None for any."""
        return None if self.closed is None else self.finals.keys

    def close_search(self, reason: str) -> None:
        """Suggests nothing more, and starts only what the comparison at the end needs.

        What the search has not finished goes on when its budget has been raised.
        """
        self.closed = reason
        self.ledger.set_closed({"reason": reason, "budget": self._budget()})
        self.settle()

    def suggest(
        self,
        params: dict[str, Any],
        leader: Suggestion | None,
        why: str = "",
        point: int | None = None,
        retries: int | None = None,
    ) -> None:
        """Takes in a new suggestion, with its pieces of work.

        Args:
            params: dotted path -> value.
            leader: the suggestion whose upstream parameters it holds; None if it opens a group.
            why: these parameters, in words.
            point: which of `study.points` it tries, if one.
            retries: number of the suggestion that failed and that it makes again, if one.
        """
        number = len(self.suggestions)
        suggestion = Suggestion(number, params, leader.number if leader else number, why, point, retries)
        distributions = self.definition.space.distributions
        self.ledger.add_suggestion(suggestion, {path: distributions[path] for path in params})
        self._take_in(suggestion)
        self._plan_suggestion(suggestion)
        self.settle()

    def settle(self) -> None:
        """Everything that follows from what has ended: suggestions, finalists."""
        ended, self.roster.ended = self.roster.ended, []
        for key in ended:
            outcome = self.works[key].outcome
            if outcome is not None:
                for suggestion in self._asking.pop(key, []):
                    self._finish_suggestion(suggestion, outcome)
        self.finals.plan(self.suggestions, self.best, is_over=self.search_is_over())

    def decide(self, suggestion: Suggestion, images: int, value: float) -> None:
        """Compares a student at a rung, and writes the decision before anyone acts on it."""
        rung, student = self.rungs[images], suggestion.work[-1]
        factor = self.definition.study.pruner.reduction_factor
        suggestion.rungs[images] = decide(value, rung.others(student), factor)
        rung.add(student, value)
        self.ledger.set_rungs(suggestion)

    def pruned_outcome(self, work: Work) -> Outcome | None:
        """The end of a student that a rung has decided against; None if none has."""
        if work.trial is None or not work.rungs:
            return None
        suggestion = self.suggestions[work.trial]
        dropped = [images for images, decision in suggestion.rungs.items() if not decision.kept]
        if not dropped:
            return None
        decision = suggestion.rungs[dropped[0]]
        reason = (
            f"pruned at {dropped[0]:,} images: agreement {100 * decision.value:.1f} %, "
            f"{decision.num_better} of {decision.num_others} others did better there"
        )
        return Outcome(WorkState.PRUNED, reason, {"agreement": decision.value})

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
        closed = self.ledger.closed
        if closed is not None and closed["budget"] == self._budget():
            self.closed = closed["reason"]
        for suggestion in self.ledger.suggestions():
            self._take_in(suggestion)
            is_planned = bool(suggestion.work) and all(key in self.works for key in suggestion.work)
            if not suggestion.state.is_final and not is_planned:
                self._plan_suggestion(suggestion)
            elif not suggestion.state.is_final:
                self._await_student(suggestion)
            self.backlog.want(suggestion.work)
        for work in list(self.works.values()):
            dropped = self.pruned_outcome(work)
            if work.outcome is None and dropped is not None:
                self.roster.finish(work, dropped)
            else:
                self.roster.finish_dependents(work)
        self.settle()

    def _take_in(self, suggestion: Suggestion) -> None:
        self.suggestions.append(suggestion)
        self._group_sizes[suggestion.group] += 1
        self._num_points += suggestion.point is not None
        if suggestion.retries is not None:
            self._made_again.add(suggestion.retries)
        for images, decision in suggestion.rungs.items():
            self.rungs[images].add(suggestion.work[-1], decision.value)
        if suggestion.state.is_final:
            self._has_ended(suggestion)
        else:
            self._open[suggestion.number] = suggestion

    def _has_ended(self, suggestion: Suggestion) -> None:
        self._open.pop(suggestion.number, None)
        self.best = best_of([s for s in (self.best, suggestion) if s is not None])
        if suggestion.state is WorkState.FAILED:
            self._failed.append(suggestion)

    def _retry_failed(self) -> None:
        for suggestion in list(self._failed):
            if suggestion.work and suggestion.number not in self._made_again:
                for key in suggestion.work:
                    if self.of(key) is WorkState.FAILED:
                        self.backlog.unwant(key)
                leader, why = self.suggestions[suggestion.group], f"trial {suggestion.number} again, which failed"
                self.suggest(dict(suggestion.params), leader, why, retries=suggestion.number)

    def _plan_suggestion(self, suggestion: Suggestion) -> None:
        """Writes the pieces of a suggestion, those that are not there already, and then their keys."""
        try:
            params = self.definition.settings_of(suggestion.params, suggestion.group)
            config = changed(self.definition.base, params)
        except ConfigError as error:
            suggestion.state, suggestion.reason = WorkState.FAILED, f"these values do not fit together: {error}"
            self.ledger.finish_suggestion(suggestion)
            self._has_ended(suggestion)
            return
        label = f"trial-{suggestion.number}"
        suggestion.work = self.roster.add_trial(
            config, "search", label, params, suggestion.number, self.definition.rungs
        )
        self.ledger.set_suggestion_work(suggestion)
        self.backlog.want(suggestion.work)
        self._await_student(suggestion)

    def _await_student(self, suggestion: Suggestion) -> None:
        key = suggestion.work[-1]
        self._asking.setdefault(key, []).append(suggestion)
        self.roster.ended.append(key)  # it may have, for another suggestion

    def _finish_suggestion(self, suggestion: Suggestion, outcome: Outcome) -> None:
        student = self._student(suggestion)
        assert student is not None
        assert student.trial is not None or not suggestion.rungs
        suggestion.state, suggestion.reason = outcome.state, outcome.reason
        study, metrics = self.definition.study, outcome.metrics
        missing = study.unmeasured(metrics) if outcome.state is WorkState.COMPLETE else None
        if missing is not None:  # its student was finished for a row that does not ask for it
            suggestion.state, suggestion.reason = WorkState.FAILED, f"its {missing} was not measured"
        elif outcome.state is WorkState.COMPLETE:
            suggestion.value = metrics[study.objective]
            suggestion.further = {name: metrics[name] for name in study.further_objectives}
            suggestion.violation = study.violation(metrics)
        if student.trial not in (None, suggestion.number):
            suggestion.rungs = dict(self.suggestions[student.trial].rungs)
            self.ledger.set_rungs(suggestion)
        self.ledger.finish_suggestion(suggestion)
        self._has_ended(suggestion)

    def search_is_over(self) -> bool:
        """Whether the search suggests nothing more, and nothing of it runs."""
        if self.closed is not None:
            return self.backlog.running <= self.finals.keys
        return len(self.suggestions) >= self.limit and not self._open

    def _budget(self) -> dict[str, Any]:
        return self.definition.study.budget.model_dump(mode="json")

    def _student(self, suggestion: Suggestion) -> Work | None:
        return self.works.get(suggestion.work[-1]) if suggestion.work else None

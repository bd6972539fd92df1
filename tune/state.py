"""What a study holds and what follows from it: suggestions, pieces of work, comparisons. Torch-free.

All of it stands in the ledger, written before anything is done about it; a state made anew over the same ledger is the
same state. The planner chooses from it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from hidfd.config import TrialConfig
from hidfd.errors import ConfigError
from tune.backlog import Backlog
from tune.comparison import (
    Row,
    best_of,
    champion_of,
    control_rows,
    finalist_rows,
    finalists_of,
    summarise,
    variant_rows,
)
from tune.definition import Definition, differences
from tune.ledger import Ledger, Suggestion
from tune.rungs import Rung, decide
from tune.snapshot import Role, WorkState
from tune.space import changed
from tune.work import Outcome, Piece, Work, opening_piece, pieces_of


class StudyState:
    """Suggestions, works and rows of one study.

    Attributes:
        suggestions: of the search, in order.
        backlog: its pieces of work.
        rungs: student images -> what was shown there.
        rows: comparisons asked for by now.
        row_keys: keys of the pieces of work that they rest on.
        closed: why the search has ended before it was complete; None if it has not.
        best: of the complete suggestions that keep the constraints the one of the highest value; of equals that with
            the better further objectives, then the earliest.
        openings: each time that the test labels were opened: `when`, and labels and keys of the `students`.
    """

    def __init__(self, definition: Definition, ledger: Ledger, *, is_driven: bool = False) -> None:
        """Takes up the study where the ledger stands.

        Args:
            definition: of the study.
            ledger: of the study, written by this state; a copy where another process drives the study.
            is_driven: another process does, so what has not ended still runs.

        Raises:
            ConfigError: the ledger's suggestions were made for another search of the same name.
        """
        self.definition = definition
        self.ledger = ledger
        self.suggestions: list[Suggestion] = []
        self.backlog = Backlog()
        self.rungs: defaultdict[int, Rung] = defaultdict(Rung)
        self.rows: list[Row] = []
        self.row_keys: set[str] = set()
        self.closed: str | None = None
        self.best: Suggestion | None = None
        self.openings = ledger.openings
        self._num_works = 0
        self._rows_stand: tuple[int | None, bool] | None = None
        self._finalists: list[Suggestion] = []
        self._champion: Suggestion | None = None
        self._open: dict[int, Suggestion] = {}  # those that have not ended
        self._asking: dict[str, list[Suggestion]] = {}  # key of a student -> those that have not ended and share it
        self._ended: list[str] = []  # keys of what may have ended since all that follows was drawn
        self._failed: list[Suggestion] = []
        self._newest: dict[str, int] = {}  # parameters -> number of the last suggestion that has them
        self._group_sizes: Counter[int] = Counter()
        self._num_points = 0
        self._check_identity()
        self._recover(is_driven)

    @property
    def works(self) -> dict[str, Work]:
        """Every piece of work by key."""
        return self.backlog.works

    def of(self, key: str) -> WorkState:
        """Where a piece of work stands."""
        return self.backlog.state_of(key)

    @property
    def limit(self) -> int:
        """How many suggestions the search makes at most; one that failed and was made again does not count."""
        return self.definition.limit + sum(self._is_superseded(failed) for failed in self._failed)

    @property
    def num_ended(self) -> int:
        """Suggestions that have ended, however."""
        return len(self.suggestions) - len(self._open)

    @property
    def next_point(self) -> int | None:
        """Which of `study.points` has not been suggested yet; None if all have."""
        return self._num_points if self._num_points < len(self.definition.study.points) else None

    def size_of_group(self, leader: Suggestion) -> int:
        """How many suggestions share its upstream parameters, itself counted."""
        return self._group_sizes[leader.number]

    def retry_failed(self) -> None:
        """Suggests again, once, what failed in an earlier run for reasons that its values are not to blame for."""
        for suggestion in list(self._failed):
            if suggestion.work and not self._is_superseded(suggestion):
                for key in suggestion.work:
                    if self.of(key) is WorkState.FAILED:
                        self.backlog.unwant(key)
                leader, why = self.suggestions[suggestion.group], f"trial {suggestion.number} again, which failed"
                self.suggest(dict(suggestion.params), leader, why)

    def is_over(self) -> bool:
        """Whether nothing is left to suggest, to start or to wait for."""
        return not self.backlog.unfinished(among=self.startable) and self.search_is_over() and not self.unopened()

    @property
    def startable(self) -> set[str] | None:
        """Keys of the pieces of work that may start; None for any."""
        return None if self.closed is None else self.row_keys

    def close_search(self, reason: str) -> None:
        """Suggests nothing more, and starts only what the comparison at the end needs.

        What the search has not finished goes on when its budget has been raised.
        """
        self.closed = reason
        self.ledger.set_closed({"reason": reason, "budget": self._budget()})
        self.settle()

    def unopened(self) -> dict[str, str]:
        """Key -> label of the students for whom the test labels are to be opened now.

        They are the champion's and its controls', and their labels stay closed until all that was compared has ended. A
        failure has not: the same command tries again.
        """
        compared = [row for row in self.rows if row.role in ("finalist", "control")]
        ends = [self.works[key].outcome for row in compared for key in row.keys]
        if any(end is None or end.state is WorkState.FAILED for end in ends):
            return {}
        opened = {key for opening in self.openings for key in opening["keys"]}
        return {
            key: label
            for row in self._tested_rows()
            for key, label in zip(row.keys, row.labels, strict=True)
            if self.of(key) is WorkState.COMPLETE and key not in opened
        }

    def open_test_labels(self, now: float) -> None:
        """Opens them for whom they are still closed: that and when is written first, and stays written."""
        students = self.unopened()
        opening = {"when": now, "students": list(students.values()), "keys": list(students)}
        self.ledger.set_openings([*self.openings, opening])
        self.openings = [*self.openings, opening]
        self._plan_openings()

    def suggest(
        self, params: dict[str, Any], leader: Suggestion | None, why: str = "", point: int | None = None
    ) -> None:
        """Takes in a new suggestion, with its pieces of work.

        Args:
            params: dotted path -> value.
            leader: the suggestion whose upstream parameters it holds; None if it opens a group.
            why: these parameters, in words.
            point: which of `study.points` it tries, if one.
        """
        number = len(self.suggestions)
        suggestion = Suggestion(number, params, leader.number if leader else number, why, point)
        distributions = self.definition.space.distributions
        self.ledger.add_suggestion(suggestion, {path: distributions[path] for path in params})
        self._take_in(suggestion)
        self._plan_suggestion(suggestion)
        self.settle()

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Takes in how a piece of work ended for good, and with it whatever rests on it; `settle` does the rest."""
        self.backlog.finish(work, outcome)
        self.ledger.finish_work(work)
        self._ended.append(work.key)
        for dependent, end in list(self.backlog.doomed_by(work)):
            self.finish(dependent, end)

    def settle(self) -> None:
        """Everything that follows from what has ended: suggestions, finalists."""
        ended, self._ended = self._ended, []
        for key in ended:
            outcome = self.works[key].outcome
            if outcome is not None:
                for suggestion in self._asking.pop(key, []):
                    self._finish_suggestion(suggestion, outcome)
        self._plan_rows()

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
        if not self.definition.search:
            return
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

    def _recover(self, is_driven: bool) -> None:
        self.ledger.repair()
        closed = self.ledger.closed
        if closed is not None and closed["budget"] == self._budget():
            self.closed = closed["reason"]
        for work in self.ledger.works():
            self._num_works += 1
            self.backlog.add(work)  # a later one of the same key is a second try of a failed one
            if is_driven and work.outcome is None and work.attempts and work.attempts[-1].ended is None:
                self.backlog.start(work)
            elif work.attempts and work.attempts[-1].ended is None:
                attempt = work.attempts[-1]
                attempt.ended, attempt.end = attempt.last_seen, "interrupted"
                if work.outcome is None:
                    self.ledger.set_attempt(work, len(work.attempts) - 1)
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
                self.finish(work, dropped)
            else:
                for dependent, end in list(self.backlog.doomed_by(work)):
                    self.finish(dependent, end)
        self.settle()

    def _take_in(self, suggestion: Suggestion) -> None:
        self.suggestions.append(suggestion)
        self._group_sizes[suggestion.group] += 1
        self._num_points += suggestion.point is not None
        self._newest[_known_as(suggestion)] = suggestion.number
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

    def _is_superseded(self, failed: Suggestion) -> bool:
        """Whether a suggestion that failed stands once more, later."""
        return self._newest[_known_as(failed)] > failed.number

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
        suggestion.work = self._add(config, "search", label, params, suggestion.number, self.definition.rungs)
        self.ledger.set_suggestion_work(suggestion)
        self.backlog.want(suggestion.work)
        self._await_student(suggestion)

    def _await_student(self, suggestion: Suggestion) -> None:
        key = suggestion.work[-1]
        self._asking.setdefault(key, []).append(suggestion)
        self._ended.append(key)  # it may have, for another suggestion

    def _plan_rows(self) -> None:
        """Variants at once, finalists when the search is over, then the controls of the best of them.

        A single finalist is the best from the start, so its controls run beside it. Asked again it adds nothing.
        """
        definition = self.definition
        is_over = self.search_is_over()
        stand = (self.best.number if is_over and self.best else None, is_over)
        if stand != self._rows_stand:
            self._rows_stand = stand
            self._champion = None
            self._finalists = finalists_of(self.suggestions, definition.study.num_finalists) if is_over else []
            self._want_rows([*variant_rows(definition), *finalist_rows(definition, self._finalists)])
        champion = self._find_champion()
        if champion is not None and champion is not self._champion:
            self._champion = champion
            self._want_rows([*(row for row in self.rows if row.role != "control"), *control_rows(definition, champion)])
        self._plan_openings()

    def _tested_rows(self) -> list[Row]:
        """The champion's and its controls', where their test labels may be opened."""
        if self._champion is None:
            return []
        finalists = [row for row in self.rows if row.role == "finalist"]
        controls = [row for row in self.rows if row.role == "control"]
        rows = [finalists[self._finalists.index(self._champion)], *controls]
        return [row for row in rows if row.openings]

    def _plan_openings(self) -> None:
        """A piece of work for every student for whom the ledger says that its labels are opened."""
        opened = {key for opening in self.openings for key in opening["keys"]}
        for row in self._tested_rows() if opened else []:
            for key, config, label in zip(row.keys, row.configs, row.labels, strict=True):
                if key in opened:
                    piece = opening_piece(config)
                    self._add_piece(piece, row.role, f"{label}-test", row.params)
                    self.backlog.want([piece.key])
                    self.row_keys.add(piece.key)

    def _find_champion(self) -> Suggestion | None:
        if len(self._finalists) < 2:
            return self._finalists[0] if self._finalists else None
        rows = [row for row in self.rows if row.role == "finalist"]
        if any(self.works[key].outcome is None for row in rows for key in row.keys):
            return None
        study = self.definition.study
        best = champion_of([summarise(row, self.works, study) for row in rows], study.objective)
        names = [row.name for row in rows]
        return None if best is None else self._finalists[names.index(best.name)]

    def _want_rows(self, rows: list[Row]) -> None:
        self.rows = rows
        self.row_keys = set()
        for number in range(len(self.definition.study.seeds)):
            for row in rows:
                keys = self._add(row.configs[number], row.role, row.labels[number], row.params)
                self.backlog.want(keys)
                self.row_keys.update(keys)

    def _add(
        self,
        config: TrialConfig,
        role: Role,
        label: str,
        params: dict[str, Any],
        trial: int | None = None,
        rungs: tuple[int, ...] = (),
    ) -> tuple[str, ...]:
        """Every piece of a trial into the ledger, unless it is there; what failed in an earlier run is tried again."""
        pieces = pieces_of(config)
        for piece in pieces:
            self._add_piece(piece, role, label, params, trial, rungs if piece.kind == "student" else ())
        return tuple(piece.key for piece in pieces)

    def _add_piece(
        self,
        piece: Piece,
        role: Role,
        label: str,
        params: dict[str, Any],
        trial: int | None = None,
        rungs: tuple[int, ...] = (),
    ) -> None:
        known = self.works.get(piece.key)
        if known is not None and (self.of(piece.key) is not WorkState.FAILED or piece.key in self.backlog.wanted):
            return
        work = Work(
            number=self._num_works,
            piece=piece,
            role=role,
            label=known.label if known else self.backlog.label_for(piece, label),
            trial=trial,
            params=params,
            rungs=rungs,
        )
        self.ledger.add_work(work)
        self.backlog.add(work)
        self._num_works += 1
        for need in piece.needs:
            for dependent, end in list(self.backlog.doomed_by(self.works[need])):
                self.finish(dependent, end)

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
            return self.backlog.running <= self.row_keys
        return len(self.suggestions) >= self.limit and not self._open

    def _budget(self) -> dict[str, Any]:
        return self.definition.study.budget.model_dump(mode="json")

    def _student(self, suggestion: Suggestion) -> Work | None:
        return self.works.get(suggestion.work[-1]) if suggestion.work else None


def _known_as(suggestion: Suggestion) -> str:
    """Equal for equal parameters; 1 and true are two."""
    return json.dumps(suggestion.params, sort_keys=True)

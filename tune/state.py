"""What a study holds and what follows from it: suggestions, pieces of work, comparisons. Torch-free.

All of it stands in the ledger, written before anything is done about it; a state made anew over the same ledger is the
same state. The planner chooses from it.
"""

from __future__ import annotations

import json
from typing import Any

from hidfd.config import TrialConfig
from hidfd.errors import ConfigError
from tune.comparison import Row, best_of, rows_of
from tune.definition import Definition, differences
from tune.ledger import Ledger, Suggestion
from tune.snapshot import Role, WorkState
from tune.space import changed
from tune.work import Outcome, Piece, Work, pieces_of


class StudyState:
    """Suggestions, works and rows of one study.

    Attributes:
        suggestions: of the search, in order.
        works: by key.
        wanted: keys of the works that the study asks for by now, in the order in which it asked.
        running: keys of those that an engine has.
        rows: comparisons asked for by now.
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
        self.works: dict[str, Work] = {}
        self.wanted: dict[str, None] = {}
        self.running: set[str] = set()
        self.rows: list[Row] = []
        self._num_works = 0
        self._rows_stand: tuple[int | None, bool] | None = None
        self._check_identity()
        self._recover(is_driven)

    def of(self, key: str) -> WorkState:
        """Where a piece of work stands."""
        outcome = self.works[key].outcome
        if outcome is not None:
            return outcome.state
        return WorkState.RUNNING if key in self.running else WorkState.WAITING

    def waiting(self) -> list[Work]:
        """What is wanted, has not ended and does not run, in order of creation."""
        found = [self.works[key] for key in self.wanted if self.of(key) is WorkState.WAITING]
        return sorted(found, key=lambda work: work.number)

    @property
    def limit(self) -> int:
        """How many suggestions the search makes at most; one that failed and was made again does not count."""
        return self.definition.limit + len(self._superseded())

    def retry_failed(self) -> None:
        """Suggests again, once, what failed in an earlier run for reasons that its values are not to blame for."""
        superseded = self._superseded()
        for suggestion in list(self.suggestions):
            failed = suggestion.state is WorkState.FAILED and suggestion.work
            if failed and suggestion.number not in superseded:
                for key in suggestion.work:
                    if self.of(key) is WorkState.FAILED:
                        self.wanted.pop(key, None)
                leader = self.suggestions[suggestion.group]
                self.suggest(dict(suggestion.params), leader)

    def is_over(self) -> bool:
        """Whether nothing is left to suggest, to start or to wait for."""
        ended = all(self.works[key].outcome is not None for key in self.wanted)
        return ended and self._search_is_over()

    def suggest(self, params: dict[str, Any], leader: Suggestion | None) -> None:
        """Takes in a new suggestion, with its pieces of work.

        Args:
            params: dotted path -> value.
            leader: the suggestion whose upstream parameters it holds; None if it opens a group.
        """
        distributions = self.definition.space.distributions
        suggestion = self.ledger.add_suggestion(params, distributions, leader.number if leader else None)
        self.suggestions.append(suggestion)
        self._plan_suggestion(suggestion)
        self.settle()

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Takes in how a piece of work ended for good; `settle` draws the consequences."""
        work.outcome = outcome
        self.ledger.finish_work(work)

    def settle(self) -> None:
        """Everything that follows from what has ended: students of dead builds, suggestions, finalists."""
        for work in self.waiting():
            outcome = self._doomed(work)
            if outcome is not None:
                self.finish(work, outcome)
        for suggestion in self.suggestions:
            student = self._student(suggestion)
            if not suggestion.state.is_final and student is not None and student.outcome is not None:
                self._finish_suggestion(suggestion, student.outcome)
        self._plan_rows()

    def _doomed(self, work: Work) -> Outcome | None:
        """The end of a piece of work that needs a build which has ended without an artifact worth using."""
        for need in work.piece.needs:
            build = self.works[need]
            if build.outcome is not None and build.outcome.state is not WorkState.COMPLETE:
                return Outcome(build.outcome.state, f"{build.label} {build.outcome.state}: {build.outcome.reason}")
        return None

    def pruned_outcome(self, work: Work) -> Outcome | None:
        """The end of a student that a rung has decided against; None if none has."""
        if work.trial is None or not work.rungs:
            return None
        suggestion = self.suggestions[work.trial]
        dropped = [images for images, decision in suggestion.rungs.items() if not decision.kept]
        if not dropped:
            return None
        decision = suggestion.rungs[dropped[0]]
        better = sum(other > decision.value for other in decision.against)
        reason = (
            f"pruned at {dropped[0]:,} images: agreement {100 * decision.value:.1f} %, "
            f"{better} of {len(decision.against)} others did better there"
        )
        return Outcome(WorkState.PRUNED, reason, {"agreement": decision.value})

    def _check_identity(self) -> None:
        if not self.definition.search:
            return
        identity, known = self.definition.identity(), self.ledger.identity
        if known is None:
            self.ledger.set_identity(identity)
        elif known != identity:
            changes = list(differences(known, identity))
            shown = "\n  ".join(changes[:10]) + (f"\n  and {len(changes) - 10} more" if len(changes) > 10 else "")
            raise ConfigError(
                f"the ledger's study {self.definition.name!r} was searched under other settings, and its results "
                f"do not answer for these:\n  {shown}\ngive the study another `name:`, or take the change back"
            )

    def _recover(self, is_driven: bool) -> None:
        self.ledger.repair()
        self.suggestions = self.ledger.suggestions()
        for work in self.ledger.works():
            self.works[work.key] = work  # a later one of the same key is a second try of a failed one
            self._num_works += 1
            if is_driven and work.outcome is None and work.attempts and work.attempts[-1].ended is None:
                self.running.add(work.key)
            elif work.attempts and work.attempts[-1].ended is None:
                attempt = work.attempts[-1]
                attempt.ended, attempt.end = attempt.last_seen, "interrupted"
                if work.outcome is None:
                    self.ledger.set_attempt(work, len(work.attempts) - 1)
        for suggestion in self.suggestions:
            is_planned = bool(suggestion.work) and all(key in self.works for key in suggestion.work)
            if not suggestion.state.is_final and not is_planned:
                self._plan_suggestion(suggestion)
            self._want(suggestion.work)
        for work in self.works.values():
            dropped = self.pruned_outcome(work)
            if work.outcome is None and dropped is not None:
                self.finish(work, dropped)
        self.settle()

    def _plan_suggestion(self, suggestion: Suggestion) -> None:
        """Writes the pieces of a suggestion, those that are not there already, and then their keys."""
        try:
            config = changed(self.definition.base, suggestion.params)
        except ConfigError as error:
            suggestion.state, suggestion.reason = WorkState.FAILED, f"these values do not fit together: {error}"
            self.ledger.finish_suggestion(suggestion)
            return
        label, params = f"trial-{suggestion.number}", suggestion.params
        suggestion.work = self._add(config, "search", label, params, suggestion.number, self.definition.rungs)
        self.ledger.set_suggestion_work(suggestion)
        self._want(suggestion.work)

    def _plan_rows(self) -> None:
        """Variants at once; the best trial and its controls when the search is over. Asked again it adds nothing."""
        best = best_of(self.suggestions)
        stand = (best.number if best else None, self._search_is_over())
        if stand == self._rows_stand:
            return
        self._rows_stand = stand
        self.rows = rows_of(self.definition, best if self._search_is_over() else None)
        for number in range(len(self.definition.study.seeds)):
            for row in self.rows:
                self._want(self._add(row.configs[number], row.role, row.labels[number], row.params))

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
        keys = []
        for piece in pieces_of(config):
            known = self.works.get(piece.key)
            if known is None or (self.of(piece.key) is WorkState.FAILED and piece.key not in self.wanted):
                work = Work(
                    number=self._num_works,
                    piece=piece,
                    role=role,
                    label=known.label if known else self._label(piece, label),
                    trial=trial,
                    params=params,
                    rungs=rungs if piece.kind == "student" else (),
                )
                self.ledger.add_work(work)
                self.works[work.key] = work
                self._num_works += 1
            keys.append(piece.key)
        return tuple(keys)

    def _label(self, piece: Piece, wish: str) -> str:
        """A name that no other piece of work has: what was wished for a student, a numbered noun for a build."""
        if piece.kind == "build":
            noun = "generator" if piece.until == "synthesis" else piece.until
            return f"{noun}-{sum(work.piece.until == piece.until for work in self.works.values())}"
        taken = {work.label for work in self.works.values()}
        number, label = 2, wish
        while label in taken:
            label, number = f"{wish}-{number}", number + 1
        return label

    def _want(self, keys: tuple[str, ...]) -> None:
        self.wanted.update(dict.fromkeys(keys))

    def _finish_suggestion(self, suggestion: Suggestion, outcome: Outcome) -> None:
        student = self._student(suggestion)
        assert student is not None
        assert student.trial is not None or not suggestion.rungs
        suggestion.state, suggestion.reason = outcome.state, outcome.reason
        if outcome.state is WorkState.COMPLETE:
            suggestion.value = outcome.metrics[self.definition.study.objective]
        if student.trial not in (None, suggestion.number):
            suggestion.rungs = dict(self.suggestions[student.trial].rungs)
            self.ledger.set_rungs(suggestion)
        self.ledger.finish_suggestion(suggestion)

    def _search_is_over(self) -> bool:
        return len(self.suggestions) >= self.limit and all(s.state.is_final for s in self.suggestions)

    def _superseded(self) -> set[int]:
        """Numbers of the suggestions that failed and stand once more, later."""
        last = {json.dumps(s.params, sort_keys=True): s.number for s in self.suggestions}
        failed = [s for s in self.suggestions if s.state is WorkState.FAILED]
        return {s.number for s in failed if last[json.dumps(s.params, sort_keys=True)] > s.number}

    def _student(self, suggestion: Suggestion) -> Work | None:
        return self.works.get(suggestion.work[-1]) if suggestion.work else None

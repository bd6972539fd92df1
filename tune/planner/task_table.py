"""The pieces of work that a study has taken up: each stands in the ledger before anybody acts on it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hidfd.config.schema import TrialConfig
from tune.ledger.ledger import Ledger
from tune.planner.task_queue import Backlog
from tune.study.states import Role, WorkState
from tune.study.task import Attempt, Outcome, Piece, Work, pieces_of


class Roster:
    """Writes pieces of work and how they ended into the ledger, and keeps the backlog of them.

    Attributes:
        backlog: every piece of work, and quick answers about it.
        ended: keys of what has ended since somebody last drew conclusions; whoever does empties it.
        tries: every piece of work in order of creation, also those that failed and were replaced by a second try.
    """

    def __init__(self, ledger: Ledger, *, is_driven: bool, tries_again: bool = False) -> None:
        """Takes up what the ledger holds.

        Args:
            ledger: of the study.
            is_driven: another process drives it, so what has not ended still runs.
            tries_again: what failed in an earlier run is tried again, when it is next asked for.
        """
        self.backlog = Backlog()
        self.ended: list[str] = []
        self.tries: list[Work] = ledger.works()
        self._ledger, self._tries_again = ledger, tries_again
        for work in self.tries:
            self.backlog.add(work)  # a later one of the same key is a second try of a failed one
            if is_driven and work.outcome is None and work.attempts and work.attempts[-1].ended is None:
                self.backlog.start(work)
            elif work.attempts and work.attempts[-1].ended is None:
                attempt = work.attempts[-1]
                attempt.ended, attempt.end = attempt.last_seen, "interrupted"
                if work.outcome is None:
                    ledger.set_attempt(work, len(work.attempts) - 1)

    @property
    def works(self) -> dict[str, Work]:
        """Every piece of work by key."""
        return self.backlog.works

    def of(self, key: str) -> WorkState:
        """Where a piece of work stands."""
        return self.backlog.state_of(key)

    def attempts(self) -> Iterator[Attempt]:
        """Every attempt of every try."""
        return (attempt for work in self.tries for attempt in work.attempts)

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
        pieces = pieces_of(config)
        for piece in pieces:
            self.add(piece, role, label, params, trial, rungs if piece.kind == "student" else ())
        return tuple(piece.key for piece in pieces)

    def add(
        self,
        piece: Piece,
        role: Role,
        label: str,
        params: dict[str, Any],
        trial: int | None = None,
        rungs: tuple[int, ...] = (),
    ) -> None:
        """One piece into the ledger, unless it is there; see `tries_again`."""
        known = self.works.get(piece.key)
        has_failed = known is not None and self.of(piece.key) is WorkState.FAILED
        if known is not None and not (has_failed and self._tries_again and piece.key not in self.backlog.wanted):
            return
        work = Work(
            number=len(self.tries),
            piece=piece,
            role=role,
            label=known.label if known else self.backlog.label_for(piece, label),
            trial=trial,
            params=params,
            rungs=rungs,
        )
        self._ledger.add_work(work)
        self.backlog.add(work)
        self.tries.append(work)
        for need in piece.needs:
            self.finish_dependents(self.works[need])

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Takes in how a piece of work ended for good, and with it whatever rests on it."""
        self.backlog.finish(work, outcome)
        self._ledger.finish_work(work)
        self.ended.append(work.key)
        self.finish_dependents(work)

    def finish_dependents(self, work: Work) -> None:
        """Ends whatever rests on a piece of work that has ended without an artifact worth using."""
        for dependent, end in list(self.backlog.doomed_by(work)):
            self.finish(dependent, end)

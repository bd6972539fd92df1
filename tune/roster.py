"""The pieces of work that a study has taken up: each stands in the ledger before anybody acts on it. Torch-free."""

from __future__ import annotations

from typing import Any

from hidfd.config import TrialConfig
from tune.backlog import Backlog
from tune.ledger import Ledger
from tune.snapshot import Role, WorkState
from tune.work import Outcome, Piece, Work, pieces_of


class Roster:
    """Writes pieces of work and how they ended into the ledger, and keeps the backlog of them.

    Attributes:
        backlog: every piece of work, and quick answers about it.
        ended: keys of what has ended since somebody last drew conclusions; whoever does empties it.
    """

    def __init__(self, ledger: Ledger, *, is_driven: bool) -> None:
        """Takes up what the ledger holds.

        Args:
            ledger: of the study.
            is_driven: another process drives it, so what has not ended still runs.
        """
        self.backlog = Backlog()
        self.ended: list[str] = []
        self._ledger = ledger
        self._num_works = 0
        for work in ledger.works():
            self._num_works += 1
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

    def add_trial(
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
        """One piece into the ledger, unless it is there."""
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
        self._ledger.add_work(work)
        self.backlog.add(work)
        self._num_works += 1
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

"""What a study compares once its search is over, and for whom it opens the test labels. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from tune.ledger.ledger import Ledger
from tune.planner.comparison import (
    Row,
    best_finalist,
    control_rows,
    finalist_rows,
    finalists_of,
    summarise,
    variant_rows,
)
from tune.planner.task_table import Roster
from tune.study.definition import Definition
from tune.study.snapshot import RowSnapshot
from tune.study.states import WorkState
from tune.study.suggestion import Suggestion
from tune.study.task import opening_piece


class Finals:
    """Variants, finalists and controls on fresh seeds.

    Attributes:
        rows: comparisons asked for by now.
        keys: of the pieces of work that they rest on.
        openings: each time that the test labels were opened: `when`, and labels and keys of the `students`.
    """

    def __init__(self, definition: Definition, ledger: Ledger, roster: Roster) -> None:
        """Nothing is asked for yet.

        Args:
            definition: of the study.
            ledger: where openings are remembered.
            roster: takes up the pieces of work.
        """
        self.rows: list[Row] = []
        self.keys: set[str] = set()
        self.openings = ledger.openings
        self._definition, self._ledger, self._roster = definition, ledger, roster
        self._stand: tuple[int | None, bool] | None = None
        self._finalists: list[Suggestion] = []
        self._champion: Suggestion | None = None

    def plan(self, suggestions: Sequence[Suggestion], best: Suggestion | None, *, is_over: bool) -> None:
        """Variants at once, finalists when the search is over, then the controls of the best of them.

        A single finalist is the best from the start, so its controls run beside it. Asked again it adds nothing.

        Args:
            suggestions: of the search.
            best: of them.
            is_over: the search is.
        """
        definition = self._definition
        stand = (best.number if is_over and best else None, is_over)
        if stand != self._stand:
            self._stand = stand
            self._champion = None
            self._finalists = finalists_of(suggestions, definition.study.num_finalists) if is_over else []
            self._want_rows([*variant_rows(definition), *finalist_rows(definition, self._finalists)])
        champion = self._find_champion()
        if champion is not None and champion is not self._champion:
            self._champion = champion
            self._want_rows([*(row for row in self.rows if row.role != "control"), *control_rows(definition, champion)])
        self._plan_openings()

    def unopened(self) -> dict[str, str]:
        """Key -> label of the students for whom the test labels are to be opened now.

        They are the champion's and its controls', and their labels stay closed until all that was compared has ended. A
        failure has not: the same command tries again. Without a champion they stay closed for good.
        """
        compared = [row for row in self.rows if row.role in ("finalist", "control")]
        ends = [self._roster.works[key].outcome for row in compared for key in row.keys]
        if any(end is None or end.state is WorkState.FAILED for end in ends) or self._best_row() is None:
            return {}
        opened = {key for opening in self.openings for key in opening["keys"]}
        return {
            key: label
            for row in self._tested_rows()
            for key, label in zip(row.keys, row.labels, strict=True)
            if self._roster.of(key) is WorkState.COMPLETE and key not in opened
        }

    def open_test_labels(self, now: float) -> None:
        """Opens them for whom they are still closed: that and when is written first, and stays written."""
        students = self.unopened()
        opening = {"when": now, "students": list(students.values()), "keys": list(students)}
        self._ledger.set_openings([*self.openings, opening])
        self.openings = [*self.openings, opening]
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
                    self._roster.add(piece, row.role, f"{label}-test", row.params)
                    self._roster.backlog.want([piece.key])
                    self.keys.add(piece.key)

    def _find_champion(self) -> Suggestion | None:
        if len(self._finalists) < 2:
            return self._finalists[0] if self._finalists else None
        rows = [row for row in self.rows if row.role == "finalist"]
        if any(self._roster.works[key].outcome is None for row in rows for key in row.keys):
            return None
        best, names = self._best_row(), [row.name for row in rows]
        return None if best is None else self._finalists[names.index(best.name)]

    def _best_row(self) -> RowSnapshot | None:
        """The best finalist on fresh seeds, once all of them have ended with a number."""
        study = self._definition.study
        rows = (row for row in self.rows if row.role == "finalist")
        return best_finalist([summarise(row, self._roster.works, study) for row in rows], study.objective)

    def _want_rows(self, rows: list[Row]) -> None:
        self.rows = rows
        self.keys = set()
        for number in range(len(self._definition.study.seeds)):
            for row in rows:
                keys = self._roster.add_trial(row.configs[number], row.role, row.labels[number], row.params)
                self._roster.backlog.want(keys)
                self.keys.update(keys)

"""What a study compares once its search is over, and for whom it opens the test labels. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from tune.ledger.ledger import Ledger
from tune.planner.comparison import (
    ComparisonRow,
    best_finalist,
    control_rows,
    finalist_rows,
    finalists_of,
    summarise,
    variant_rows,
)
from tune.planner.task_table import TaskTable
from tune.study.definition import Definition
from tune.study.search_trial import SearchTrial
from tune.study.snapshot import RowSnapshot
from tune.study.states import TaskState
from tune.study.task import test_evaluation_spec


class FinalEvaluation:
    """Variants, finalists and controls on fresh seeds.

    Attributes:
        rows: comparisons asked for by now.
        keys: of the tasks that they rest on.
        openings: each time that the test labels were opened: `when`, and labels and keys of the `students`.
    """

    def __init__(self, definition: Definition, ledger: Ledger, task_table: TaskTable) -> None:
        """Nothing is asked for yet.

        Args:
            definition: of the study.
            ledger: where openings are remembered.
            roster: takes up the tasks.
        """
        self.rows: list[ComparisonRow] = []
        self.keys: set[str] = set()
        self.test_evaluations = ledger.test_evaluations
        self._definition, self._ledger, self._task_table = definition, ledger, task_table
        self._stand: tuple[int | None, bool] | None = None
        self._finalists: list[SearchTrial] = []
        self._champion: SearchTrial | None = None

    def plan(self, search_trials: Sequence[SearchTrial], best: SearchTrial | None, *, is_over: bool) -> None:
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
            self._finalists = finalists_of(search_trials, definition.study.num_finalists) if is_over else []
            self._want_rows([*variant_rows(definition), *finalist_rows(definition, self._finalists)])
        champion = self._find_champion()
        if champion is not None and champion is not self._champion:
            self._champion = champion
            self._want_rows([*(row for row in self.rows if row.role != "control"), *control_rows(definition, champion)])
        self._plan_test_evaluations()

    def untested(self) -> dict[str, str]:
        """Key -> label of the students for whom the test labels are to be opened now.

        They are the champion's and its controls', and their labels stay closed until all that was compared has ended. A
        failure has not: the same command tries again. Without a champion they stay closed for good.
        """
        compared = [row for row in self.rows if row.role in ("finalist", "control")]
        ends = [self._task_table.tasks[key].outcome for row in compared for key in row.keys]
        if any(end is None or end.state is TaskState.FAILED for end in ends) or self._best_row() is None:
            return {}
        opened = {key for opening in self.test_evaluations for key in opening["keys"]}
        return {
            key: label
            for row in self._tested_rows()
            for key, label in zip(row.keys, row.labels, strict=True)
            if self._task_table.state_of(key) is TaskState.COMPLETE and key not in opened
        }

    def open_test_labels(self, now: float) -> None:
        """Opens them for whom they are still closed: that and when is written first, and stays written."""
        students = self.untested()
        opening = {"when": now, "students": list(students.values()), "keys": list(students)}
        self._ledger.set_test_evaluations([*self.test_evaluations, opening])
        self.test_evaluations = [*self.test_evaluations, opening]
        self._plan_test_evaluations()

    def _tested_rows(self) -> list[ComparisonRow]:
        """The champion's and its controls', where their test labels may be opened."""
        if self._champion is None:
            return []
        finalists = [row for row in self.rows if row.role == "finalist"]
        controls = [row for row in self.rows if row.role == "control"]
        rows = [finalists[self._finalists.index(self._champion)], *controls]
        return [row for row in rows if row.test_evaluations]

    def _plan_test_evaluations(self) -> None:
        """A task for every student for whom the ledger says that its labels are opened."""
        opened = {key for opening in self.test_evaluations for key in opening["keys"]}
        for row in self._tested_rows() if opened else []:
            for key, config, label in zip(row.keys, row.configs, row.labels, strict=True):
                if key in opened:
                    spec = test_evaluation_spec(config)
                    self._task_table.add(spec, row.role, f"{label}-test", row.params)
                    self._task_table.task_queue.want([spec.key])
                    self.keys.add(spec.key)

    def _find_champion(self) -> SearchTrial | None:
        if len(self._finalists) < 2:
            return self._finalists[0] if self._finalists else None
        rows = [row for row in self.rows if row.role == "finalist"]
        if any(self._task_table.tasks[key].outcome is None for row in rows for key in row.keys):
            return None
        best, names = self._best_row(), [row.name for row in rows]
        return None if best is None else self._finalists[names.index(best.name)]

    def _best_row(self) -> RowSnapshot | None:
        """The best finalist on fresh seeds, once all of them have ended with a number."""
        study = self._definition.study
        rows = (row for row in self.rows if row.role == "finalist")
        return best_finalist([summarise(row, self._task_table.tasks, study) for row in rows], study.objective)

    def _want_rows(self, rows: list[ComparisonRow]) -> None:
        self.rows = rows
        self.keys = set()
        for number in range(len(self._definition.study.seeds)):
            for row in rows:
                keys = self._task_table.add_trial(row.configs[number], row.role, row.labels[number], row.params)
                self._task_table.task_queue.want(keys)
                self.keys.update(keys)

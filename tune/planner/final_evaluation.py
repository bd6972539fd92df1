"""The final evaluation: variants, finalists and controls on fresh seeds, and their test evaluations. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from tune.ledger.ledger import Ledger
from tune.planner.comparison import (
    ComparisonRow,
    control_rows,
    finalist_rows,
    finalists_of,
    summarise,
    variant_rows,
    worth_rows,
)
from tune.planner.task_table import TaskOrigin, TaskTable
from tune.study.definition import Definition
from tune.study.search_trial import SearchTrial
from tune.study.snapshot import RowSnapshot
from tune.study.states import Role, TaskState
from tune.study.task import test_evaluation_spec
from tune.study.verdict import best_finalist


class FinalEvaluation:
    """The final evaluation of one study.

    Attributes:
        rows: of the comparison, as far as they are known by now.
        keys: of all tasks that the rows need.
        test_evaluations: each time that the test labels were opened: `when` in seconds since the epoch, labels of the
            `students`, and their `keys`.
    """

    def __init__(self, definition: Definition, ledger: Ledger, task_table: TaskTable) -> None:
        """Ask for nothing yet; `plan` does.

        Args:
            definition: of the study.
            ledger: remembers when the test labels were opened, and for which students.
            task_table: takes the tasks of the rows.
        """
        self.rows: list[ComparisonRow] = []
        self.keys: set[str] = set()
        self.test_evaluations = ledger.test_evaluations
        self._definition, self._ledger, self._task_table = definition, ledger, task_table
        self._planned_for: tuple[int | None, bool] | None = None  # number of the best trial, whether the search is over
        self._finalists: list[SearchTrial] = []
        self._champion: SearchTrial | None = None

    def plan(self, search_trials: Sequence[SearchTrial], best: SearchTrial | None, *, is_over: bool) -> None:
        """Ask for variants and `study.worth` at once, finalists after the search, then the controls of the best one.

        A single finalist is the best from the start, so its controls run beside it. A second call adds nothing.

        Args:
            search_trials: of the study.
            best: of the search trials.
            is_over: whether the search is over.
        """
        definition = self._definition
        wanted = (best.number if is_over and best else None, is_over)
        if wanted != self._planned_for:
            self._planned_for = wanted
            self._champion = None
            self._finalists = finalists_of(search_trials, definition.study.num_finalists) if is_over else []
            beside = [*variant_rows(definition), *worth_rows(definition)]
            self._ask_for([*beside, *finalist_rows(definition, self._finalists)])
        champion = self._find_champion()
        if champion is not None and champion is not self._champion:
            self._champion = champion
            self._ask_for([*(row for row in self.rows if row.role != "control"), *control_rows(definition, champion)])
        self._plan_test_evaluations()

    def untested(self) -> dict[str, str]:
        """Return key -> label of the students for which the test labels may be opened now and have not been.

        These are the students of the champion and its controls, once all students of the comparison have ended. One
        that failed has not: the same command tries it again. Without a champion the labels stay closed for good.
        """
        compared = [row for row in self.rows if row.role in ("finalist", "control")]
        ends = [self._task_table.tasks[key].outcome for row in compared for key in row.keys]
        if any(end is None or end.state is TaskState.FAILED for end in ends) or self._best_row() is None:
            return {}
        tested = self._tested_keys()
        return {
            key: label
            for row in self._tested_rows()
            for key, label in zip(row.keys, row.labels, strict=True)
            if self._task_table.state_of(key) is TaskState.COMPLETE and key not in tested
        }

    def open_test_labels(self, now: float) -> None:
        """Ask for the test evaluation of all students in `untested`, after writing that and `now` into the ledger."""
        students = self.untested()
        evaluation = {"when": now, "students": list(students.values()), "keys": list(students)}
        self._ledger.set_test_evaluations([*self.test_evaluations, evaluation])
        self.test_evaluations = [*self.test_evaluations, evaluation]
        self._plan_test_evaluations()

    def _tested_keys(self) -> set[str]:
        """Return the keys of the students for which the ledger says that the test labels were opened."""
        return {key for evaluation in self.test_evaluations for key in evaluation["keys"]}

    def _tested_rows(self) -> list[ComparisonRow]:
        """Return the rows of the champion and its controls for which the test labels may be opened."""
        if self._champion is None:
            return []
        champion = self._rows_of("finalist")[self._finalists.index(self._champion)]
        return [row for row in (champion, *self._rows_of("control")) if row.test_evaluations]

    def _plan_test_evaluations(self) -> None:
        """Ask for the test evaluation of each student for which the ledger says that the labels were opened."""
        tested = self._tested_keys()
        for row in self._tested_rows() if tested else []:
            for key, config, label in zip(row.keys, row.configs, row.labels, strict=True):
                if key in tested:
                    spec = test_evaluation_spec(config)
                    self._task_table.add(spec, TaskOrigin(row.role, f"{label}-test", row.params))
                    self._task_table.task_queue.want([spec.key])
                    self.keys.add(spec.key)

    def _find_champion(self) -> SearchTrial | None:
        if len(self._finalists) < 2:
            return self._finalists[0] if self._finalists else None
        rows = self._rows_of("finalist")
        if any(self._task_table.tasks[key].outcome is None for row in rows for key in row.keys):
            return None
        best, names = self._best_row(), [row.name for row in rows]
        return None if best is None else self._finalists[names.index(best.name)]

    def _best_row(self) -> RowSnapshot | None:
        """Return the best finalist on fresh seeds; None while none has all its numbers."""
        study, tasks = self._definition.study, self._task_table.tasks
        return best_finalist([summarise(row, tasks, study) for row in self._rows_of("finalist")], study.objective)

    def _rows_of(self, role: Role) -> list[ComparisonRow]:
        return [row for row in self.rows if row.role == role]

    def _ask_for(self, rows: list[ComparisonRow]) -> None:
        """Ask for the students of these rows: those of all rows on one seed, before those on the next seed."""
        self.rows = rows
        self.keys = set()
        for number in range(len(self._definition.study.seeds)):
            for row in (row for row in rows if row.configs):
                origin = TaskOrigin(row.role, row.labels[number], row.params)
                keys = self._task_table.add_trial(row.configs[number], origin)
                self._task_table.task_queue.want(keys)
                self.keys.update(keys)

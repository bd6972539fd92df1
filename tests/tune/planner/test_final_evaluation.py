"""The test labels of a study: opened when everything has been chosen, for the champion and its controls, on record."""

from dataclasses import replace
from typing import Any

import pytest

from tests.tune.sized import SEARCH as SIZES_SEARCHED
from tests.tune.sized import SizedWorld
from tests.tune.world import TESTED, Killed, KilledLedger, World, definition
from tune.engines.local import run_local
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.report import cautions
from tune.study.definition import Definition
from tune.study.messages import TaskEnd, TaskFailed, TaskFinished
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task

NOON = 1_760_011_200.0  # 2025-10-09 12:00 UTC


def with_test_split(study: dict[str, Any] | None = None, **trial: Any) -> Definition:
    return definition(study, **({"data": TESTED} | trial))


def at_noon(study: Definition, world: World) -> Planner:
    planner = world.planner(study, lambda: NOON)
    run_local(planner, world.execute)
    return planner


def test_labels_are_opened_last_and_for_the_champion_and_its_controls_alone() -> None:
    world = World()
    planner = at_noon(with_test_split({"num_finalists": 2, "seeds": [1001, 1002]}), world)
    opened = [label for label in world.log if label.endswith("-test")]
    assert world.log[-len(opened) :] == opened, "after everything else"
    rows = {row.name: row for row in snapshot_of(planner.state).comparison_rows}
    with_number = {name for name, row in rows.items() if "test_accuracy" in row.means}
    (loser,) = rows.keys() - with_number
    assert rows[loser].role == "finalist"
    assert with_number == {*(name for name, row in rows.items() if row.role == "control"), *(rows.keys() & with_number)}
    assert len(opened) == 2 * len(with_number)
    (evaluation,) = planner.state.ledger.test_evaluations
    assert evaluation["when"] == NOON
    assert [f"{label}-test" for label in evaluation["students"]] == opened
    assert all(rows[name].deviations["test_accuracy"] >= 0 for name in with_number), "mean and sd over both seeds"


def test_labels_stay_closed_where_no_finalist_keeps_the_constraints_on_fresh_seeds() -> None:
    class SlowerLater(SizedWorld):
        def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
            end = super()._finished(task, reused=reused)
            if task.role == "finalist" and isinstance(end, TaskFinished):
                return TaskFinished(end.metrics | {"latency_milliseconds": 9.0}, reused)
            return end

    for world, expected in ((SizedWorld(), 1), (SlowerLater(), 0)):
        study = {"constraints": {"latency_milliseconds": {"max": 5}}, "pruner": {"kind": "none"}}
        planner = at_noon(definition(study, SIZES_SEARCHED, data=TESTED), world)
        assert len(planner.state.ledger.test_evaluations) == expected
        assert planner.is_over()


def test_no_choice_rests_on_the_test_labels() -> None:
    class Flattering(World):
        """A world in which a student is the better on the test labels, the worse it is."""

        def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
            end = super()._finished(task, reused=reused)
            if task.spec.kind is TaskKind.TEST_EVALUATION and isinstance(end, TaskFinished):
                return TaskFinished({"test_accuracy": 1 - end.metrics["test_accuracy"]}, reused)
            return end

    found = []
    for world in (World(), Flattering()):
        planner = at_noon(with_test_split({"num_finalists": 2}), world)
        snapshot = snapshot_of(planner.state)
        students = [
            (task.label, task.value, task.state, task.metrics["agreement"])
            for task in snapshot.tasks
            if task.kind is TaskKind.STUDENT and task.state is TaskState.COMPLETE
        ]
        found.append((snapshot.best, [row.name for row in snapshot.comparison_rows], snapshot.verdict, students))
    assert found[0] == found[1]


def test_second_run_opens_nothing_and_more_seeds_are_a_further_test_evaluation_on_record() -> None:
    world = World()
    at_noon(with_test_split(), world)
    again = world.planner(with_test_split(), lambda: NOON + 60)
    assert again.is_over()
    assert "opened once, 2025-10-09 12:00 UTC for 4 students" in (
        cautions.opened_test_labels(snapshot_of(again.state)) or ""
    )
    snapshot = snapshot_of(again.state)
    reused = [replace(task, reused=True) if task.kind is TaskKind.TEST_EVALUATION else task for task in snapshot.tasks]
    words = cautions.opened_test_labels(replace(snapshot, tasks=tuple(reused))) or ""
    assert "had been opened before; their numbers came from the store on 2025-10-09 12:00 UTC for 4 students" in words
    world.log.clear()
    planner = world.planner(with_test_split({"seeds": [1001, 1002]}), lambda: NOON + 86_400)
    assert not planner.is_over()
    run_local(planner, world.execute)
    assert [label for label in world.log if label.endswith("-test")] == [
        f"{label}-test" for label in planner.state.ledger.test_evaluations[1]["students"]
    ]
    assert len(planner.state.ledger.test_evaluations[1]["students"]) == 4
    words = cautions.opened_test_labels(snapshot_of(planner.state)) or ""
    assert "opened 2 times: 2025-10-09 12:00 UTC for 4 students, then 2025-10-10 12:00 UTC for 4 students" in words


@pytest.mark.parametrize(
    ("study", "why"),
    [
        (with_test_split({"test_labels": "never"}), "The test labels were not opened (study.test_labels: never)."),
        (definition(), None),
        (with_test_split({"variants": {"a": {}}}, search={}), "The test labels were not opened."),
    ],
)
def test_labels_stay_closed_where_nobody_asked_for_them_or_nothing_was_chosen(
    study: Definition, why: str | None
) -> None:
    world = World()
    planner = at_noon(study, world)
    assert not [label for label in world.log if label.endswith("-test")]
    assert not planner.state.ledger.test_evaluations
    assert cautions.opened_test_labels(snapshot_of(planner.state)) == why


def test_labels_stay_closed_while_something_of_the_comparison_has_failed() -> None:
    world = World(failing=lambda task: TaskFailed("the disk was full") if "real-only" in task.label else None)
    planner = at_noon(with_test_split(), world)
    assert not planner.state.ledger.test_evaluations
    world.failing = lambda task: None
    planner = world.planner(with_test_split())
    run_local(planner, world.execute)
    assert len(planner.state.ledger.test_evaluations) == 1
    assert len(planner.state.ledger.test_evaluations[0]["students"]) == 4


def test_driver_killed_while_they_are_opened_opens_them_once() -> None:
    study, whole = with_test_split(), World()
    unhurt = KilledLedger(whole, study, 10_000)
    planner = Planner(StudyState(study, unhurt), lambda: NOON)
    run_local(planner, whole.execute)
    total, expected = 10_000 - unhurt.left, snapshot_of(planner.state).comparison_rows
    for at in range(total - 20, total):  # from the last control to the last test evaluation
        world = World()
        with pytest.raises(Killed):
            run_local(Planner(StudyState(study, KilledLedger(world, study, at)), lambda: NOON), world.execute)
        again = at_noon(study, world).state
        assert [len(evaluation["keys"]) for evaluation in again.ledger.test_evaluations] == [4], (
            f"killed before write {at}"
        )
        assert snapshot_of(again).comparison_rows == expected, f"killed before write {at}"
        assert again.is_over()

"""Generators of several lengths: one is trained at a time, the longest first, and it leaves the others on its way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from optuna.storages import InMemoryStorage

from tests.tune.world import DirectChannel, Killed, KilledLedger, World, definition, run, run_side_by_side, summary
from tune.engines.local import run_local
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.messages import TaskEnd
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task

LENGTH = "generation.target_images"
VARIANTS = {"short": {LENGTH: 1600}, "long": {LENGTH: 6400}, "middle": {LENGTH: 3200}}
IMAGES = 6400
"""Images of the longest generator, which is what all of them together are trained on."""


def lengths() -> Definition:
    """Build a study of three variants of one trajectory, the longest neither first nor last, with one seed each."""
    return definition({"variants": VARIANTS, "seeds": [1]}, search={})


def started(planner: Planner, world: World) -> tuple[Task, Iterator[TaskEnd | None]] | None:
    """Start the next task, if there is one, and return it with its steps."""
    task = planner.next_task(1)
    if not isinstance(task, Task):
        return None
    planner.on_start(task, "here")
    return task, world.steps(task, DirectChannel(planner, task.key))


def finished(planner: Planner, world: World) -> Task:
    """Run the next task to its end, and return it."""
    begun = started(planner, world)
    assert begun is not None
    planner.on_end(begun[0], next(end for end in begun[1] if end is not None))
    return begun[0]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_lengths_of_one_trajectory_are_trained_once(slots: int) -> None:
    world = World()
    planner = run(lengths(), world, slots)
    assert [list(row.params.values()) for row in planner.state.comparison_rows] == [[1600], [6400], [3200]]
    assert list(world.trained.values()) == [IMAGES]
    assert set(world.built.values()) == {1}
    assert all(
        planner.state.state_of(key) is TaskState.COMPLETE for row in planner.state.comparison_rows for key in row.keys
    )


def test_students_of_a_snapshot_start_while_the_longer_generator_is_trained() -> None:
    world = World()
    planner = world.planner(lengths())
    assert finished(planner, world).label == "collection-0"
    begun = started(planner, world)
    assert begun is not None
    longest, steps = begun
    assert (longest.spec.target_images, longest.snapshots_at_images) == (6400, (1600, 3200))
    assert started(planner, world) is None, "the others wait for their snapshots"
    next(steps)
    assert started(planner, world) is None
    next(steps)  # 1,600 images
    short = finished(planner, world)
    assert (short.spec.kind, short.spec.target_images) == (TaskKind.GENERATOR, 1600)
    student = finished(planner, world)
    assert student.key == next(row.keys[0] for row in planner.state.comparison_rows if row.name == "short")
    assert planner.state.state_of(longest.key) is TaskState.RUNNING
    assert started(planner, world) is None


def test_longer_generator_that_is_asked_for_later_goes_on_from_the_shorter_one() -> None:
    search = {LENGTH: {"type": "categorical", "choices": [1600, 6400]}}
    asked = {"num_students": 2, "points": [{LENGTH: 1600}, {LENGTH: 6400}]}
    world = World()
    planner = world.planner(definition(asked, search))
    run_local(planner, world.execute)
    trajectory = next(task.spec.trajectory for task in planner.state.tasks.values() if task.spec.trajectory)
    assert world.trained[trajectory] == IMAGES


def test_longer_generator_that_diverges_leaves_its_snapshots() -> None:
    world = World(diverged=lambda task: task.spec.kind.is_build and task.spec.target_images == 6400)
    planner = run(lengths(), world, 2)
    states = {row.name: planner.state.state_of(row.keys[0]) for row in planner.state.comparison_rows}
    assert states == {"long": TaskState.DIVERGED, "short": TaskState.COMPLETE, "middle": TaskState.COMPLETE}


def test_study_of_lengths_that_is_killed_before_any_write_equals_the_uninterrupted_one() -> None:
    expected = summary(run(lengths(), World(), 2))
    for at in range(1000):
        world = World(storage=InMemoryStorage())
        try:
            run_side_by_side(Planner(StudyState(lengths(), KilledLedger(world, lengths(), at)), lambda: 0.0), world, 2)
        except Killed:
            pass
        else:
            assert at > 20
            return
        run_side_by_side(world.planner(lengths()), world, 2)
        assert summary(world.planner(lengths())) == expected, at
        assert list(world.trained.values()) == [IMAGES], at


def test_ledger_of_a_version_without_snapshots_is_read() -> None:
    planner = World().planner(lengths())
    for task in planner.state.tasks.values():
        record = json.loads(json.dumps(task.record()))
        assert record.pop("snapshots_at_images") == []
        record["config"]["generation"].pop("snapshots_at_images")
        assert Task.restore(task.number, record, []) == task

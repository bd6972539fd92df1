"""The planner on a virtual clock: at scale, and killed at every ledger write."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.tune.world import TESTED, Killed, KilledLedger, World, definition
from tune.engines.simulation import Simulation
from tune.ledger.ledger import Ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.states import TaskState
from tune.study.task import Task


def simulate(
    study: Definition, world: World, slots: int, ledger: Callable[[], Ledger] | None = None, seconds: float = 10.0
) -> Planner:
    simulation = Simulation(world.steps, num_slots=slots, step_seconds=seconds)
    planner = world.planner(study, simulation.clock)
    if ledger is not None:
        planner = Planner(StudyState(study, ledger()), simulation.clock)
    simulation.run(planner)
    return planner


def unlucky(losses: dict[tuple[str, int], int]) -> World:
    """Build a world in which the given steps lose their worker, and one generator collapses."""

    def lose(task: Task, step: int) -> bool:
        left = losses.get((task.label, step), 0)
        losses[task.label, step] = left - 1
        return left > 0

    return World(collapsed=lambda task: task.label == "generator-1", lose=lose)


@pytest.mark.slow
def test_study_of_several_workers_survives_a_kill_at_every_ledger_write() -> None:
    limit = 2.0
    study = definition(
        {"num_students": 6, "concurrency": 3, "budget": {"cpu_hours": limit}, "controls": {"plain_kd": False}},
        data=TESTED,
    )
    at = 0
    while True:
        losses = {("generator-0", 3): 1, ("trial-4", 5): 1}
        world = unlucky(losses)
        try:
            simulate(study, world, 3, partial(KilledLedger, world, study, at))
            break
        except Killed:
            seen = Ledger(world.storage, study.name, study.study.objective)
            decided = {s.number: dict(s.rungs) for s in seen.search_trials()}
            finished = {w.number: w.outcome for w in seen.tasks() if w.outcome is not None}
        planner = simulate(study, world, 3)
        where, state = f"killed before write {at}", planner.state
        assert planner.is_over(), where
        assert len(state.search_trials) == 6, where
        assert all(search_trial.state.is_final for search_trial in state.search_trials), where
        assert set(world.built.values()) == {1}, f"{where}: an artifact was built twice"
        assert len({task.key for task in state.ledger.tasks()}) == len(state.ledger.tasks()), (
            f"{where}: a task is in the ledger twice"
        )
        for number, rungs in decided.items():
            assert rungs.items() <= state.search_trials[number].rungs.items(), f"{where}: a rung was decided anew"
        for number, outcome in finished.items():
            assert state.ledger.tasks()[number].outcome == outcome, f"{where}: a result was lost"
        assert all(trial.state.is_finished() for trial in state.ledger.history()), where
        rows = [state.state_of(key) for row in state.comparison_rows for key in row.keys]
        assert rows, where
        assert set(rows) == {TaskState.COMPLETE}, where
        assert [len(opening["keys"]) for opening in state.ledger.test_evaluations] == [3], (
            f"{where}: opened more than once"
        )
        assert planner.spent().cpu_seconds <= limit * 3600, where
        at += 1
    assert at > 100


@pytest.mark.slow
def test_four_thousand_trials_on_256_workers_take_seconds() -> None:
    study = definition({"num_students": 4_000, "sampler": "random", "concurrency": 256})
    world, started = World(), time.process_time()
    planner = simulate(study, world, 256)
    assert len(planner.state.search_trials) == 4_000
    assert set(world.built.values()) == {1}
    assert time.process_time() - started < 48, "3 ms of processor a trial, and room for a slow machine"


def test_workers_are_never_idle_while_something_could_start() -> None:
    """With students left to suggest, all slots are taken but at the start, when the collection runs alone."""
    study = definition({"num_students": 60, "sampler": "random", "concurrency": 8, "pruner": {"kind": "none"}})
    world = World()
    idle: list[float] = []
    simulation = Simulation(world.steps, num_slots=8, step_seconds=10.0)
    planner = world.planner(study, simulation.clock)

    def look() -> None:
        if len(planner.state.search_trials) < 60 and simulation.now > 10:
            idle.append(8 - len(planner.running))

    simulation.on_event = look
    simulation.run(planner)
    assert max(idle) <= 1, "the slot of the task that has just ended"

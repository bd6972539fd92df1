"""Budgets: what counts, when a study stops, and what is kept for the comparison at the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune.world import Silent, World, definition
from tune.engines.simulation import Simulation
from tune.ledger.ledger import Ledger
from tune.planner.budget import Account, Cost, exhausted
from tune.planner.planner import OBEY_SECONDS, STOP_SECONDS, Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.config import BudgetConfig
from tune.study.definition import Definition
from tune.study.messages import ProgressReport, TaskFailed, TaskLost, TaskStopped
from tune.study.states import TaskState
from tune.study.task import Attempt, Task


def attempt(started: float, ended: float, **resources: float) -> Attempt:
    return Attempt("node", {"cpus": 1.0, "gpus": 0.0, "workers": 1.0} | resources, started, ended, ended)


def run(study: Definition, world: World, slots: int = 1) -> Planner:
    simulation = Simulation(world.steps, num_slots=slots, step_seconds=10.0)
    planner = world.planner(study, simulation.clock)
    simulation.run(planner)
    return planner


def budget(**limits: Any) -> dict[str, Any]:
    return {"budget": limits, "pruner": {"kind": "none"}, "controls": {"synthetic_only": False, "plain_kd": False}}


def test_cost_is_resources_held_and_the_clock_counts_once_for_what_runs_side_by_side() -> None:
    account = Account([attempt(0, 10, cpus=2), attempt(5, 20, gpus=0.5), attempt(30, 40, workers=4, gpus=1)])
    assert account.spent(1000.0) == Cost(cpu_seconds=20 + 15 + 40, gpu_seconds=7.5 + 40, wall_seconds=30)


def test_running_attempts_cost_until_now() -> None:
    account = Account()
    first, second = attempt(0, 0), attempt(4, 4)
    account.open(first)
    account.open(second)
    assert account.spent(10.0) == Cost(cpu_seconds=10 + 6, wall_seconds=10)
    first.ended = 12.0
    account.close(first)
    second.ended = 20.0
    account.close(second)
    assert account.spent(100.0) == Cost(cpu_seconds=12 + 16, wall_seconds=20)


def test_money_is_hours_at_their_prices() -> None:
    prices = BudgetConfig(money=10, price_per_cpu_hour=0.5, price_per_gpu_hour=4)
    spent = Cost(cpu_seconds=3600 * 4, gpu_seconds=3600 * 2)
    assert spent.money(prices) == 10
    assert exhausted(spent, prices) == "study.budget.money: 10 of 10 EUR"


def test_money_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="price_per_cpu_hour"):
        BudgetConfig(money=10)


@pytest.mark.parametrize("slots", [1, 3])
def test_search_ends_early_so_that_the_comparison_fits_the_budget(slots: int) -> None:
    study = definition(budget(cpu_hours=900 / 3600) | {"num_students": 50, "concurrency": slots})
    planner = run(study, World(), slots)
    state = planner.state
    assert planner.is_over()
    assert "kept for the finalists" in (state.closed_reason or "")
    assert len(state.search_trials) < 50
    assert [row.name for row in state.comparison_rows] == ["hybrid", "real-only"]
    assert all(state.state_of(key) is TaskState.COMPLETE for row in state.comparison_rows for key in row.keys)
    assert 600 < planner.spent().cpu_seconds <= 900
    assert "raise study.budget" in (snapshot_of(state).undone or "")


def test_used_up_budget_saves_what_runs_and_a_raised_one_goes_on_from_there() -> None:
    world = World()
    limits = budget(wall_hours=200 / 3600) | {"num_students": 4}
    stopped = run(definition(limits), world)
    assert not stopped.is_over()
    assert stopped.spent().wall_seconds <= 200
    assert any(task.attempts and task.attempts[-1].end == "stopped" for task in stopped.state.tasks.values())
    raised = run(definition(limits | budget(wall_hours=10)), world)
    assert raised.is_over()
    assert raised.state.closed_reason is None
    assert len(raised.state.search_trials) == 4
    assert set(world.built.values()) == {1}, "nothing is built twice"
    undisturbed = run(definition(limits | budget()), World())
    assert [s.value for s in raised.state.search_trials] == [s.value for s in undisturbed.state.search_trials]


def test_search_that_ended_early_stays_so_until_the_budget_is_raised() -> None:
    world = World()
    limits = budget(cpu_hours=900 / 3600) | {"num_students": 50}
    first = run(definition(limits), world)
    again = run(definition(limits), world)
    assert again.is_over()
    assert again.state.closed_reason == first.state.closed_reason
    more = run(definition(limits | budget(cpu_hours=1800 / 3600)), world)
    assert len(more.state.search_trials) > len(first.state.search_trials)
    assert more.spent().cpu_seconds <= 1800


def test_budget_stops_early_enough_for_a_checkpoint() -> None:
    world = World()
    planner = run(definition(budget(cpu_hours=200 / 3600)), world)
    assert 200 - 10 - STOP_SECONDS <= planner.spent().cpu_seconds <= 200


def test_clock_that_goes_backwards_costs_nothing_and_breaks_nothing() -> None:
    times = iter([100.0, 50.0, 40.0, *range(110, 100_000)])
    world = World()
    planner = world.planner(definition(budget(cpu_hours=10)), lambda: float(next(times)))
    Simulation(world.steps, num_slots=1, step_seconds=10.0).run(planner)
    assert planner.is_over()
    assert all(a.ended is not None and a.ended >= a.started for w in planner.state.tasks.values() for a in w.attempts)


def test_tries_that_failed_count_like_any_other() -> None:
    world, study = World(), definition(budget(cpu_hours=10))
    finished = world._finished
    world._finished = (  # type: ignore[method-assign]
        lambda task, *, reused: (
            TaskFailed("out of memory at the end") if task.label == "trial-1" else finished(task, reused=reused)
        )
    )
    for _ in range(3):
        world.progress.clear()
        planner = run(study, world)
        attempts = [attempt for task in planner.state.ledger.tasks() for attempt in task.attempts]
        held = sum((attempt.ended or 0.0) - attempt.started for attempt in attempts)
        assert world.planner(study).spent().cpu_seconds == pytest.approx(held)
        assert snapshot_of(planner.state).spent["cpu_hours"] == pytest.approx(held / 3600)


def test_budget_that_ends_before_a_first_student_is_said() -> None:
    snapshot = snapshot_of(run(definition(budget(cpu_hours=0.02)), World()).state)
    assert not snapshot.finished
    assert snapshot.undone is not None
    assert snapshot.undone.startswith("the budget is used up (study.budget.cpu_hours: 0.0")
    assert snapshot.undone.endswith("0 of 6 students have ended; raise study.budget, and the same command goes on")


def test_budget_that_is_used_up_does_not_wait_for_what_cannot_stop_half_way() -> None:
    clock = [0.0]
    world, study = World(), definition(budget(cpu_hours=100 / 3600))
    planner = world.planner(study, lambda: clock[0])
    task = planner.next_task(1)
    assert isinstance(task, Task)
    planner.on_start(task, "here")
    clock[0] = 100.0 - STOP_SECONDS
    planner.tick()
    assert "the budget is used up" in (planner.verdict(task.key) or "")
    clock[0] += OBEY_SECONDS - 1.0
    assert not planner.must_kill(task.key), "it may only be saving"
    clock[0] += 1.0
    assert planner.must_kill(task.key)
    planner.on_end(task, TaskLost("it was killed"))
    assert task.attempts[-1].end == "stopped", "not its own fault, however often the budget is raised a little"
    assert run(definition(budget(cpu_hours=10)), world).is_over()


class Clocks:
    """A machine whose calendar may be set while its monotonic clock goes on."""

    def __init__(self) -> None:
        self.seconds, self.calendar = 0.0, 1_000_000_000.0

    def driver(self, study: Definition, world: World) -> Planner:
        """Return the planner of a new driver; its monotonic clock begins anew, as after a restart of the machine."""
        began = self.seconds
        ledger = Ledger(world.storage, study.name, study.study.objective)
        ledger.claim()
        return Planner(StudyState(study, ledger), lambda: self.seconds - began, lambda: self.calendar)

    def work(self, planner: Planner, jump: float, *, num_tasks: int) -> None:
        """Run tasks for 100 s each, in the middle of which the calendar jumps."""
        for _ in range(num_tasks):
            task = planner.next_task(1)
            assert isinstance(task, Task)
            planner.on_start(task, "here")
            for step in (0.0, jump):
                self.seconds += 50
                self.calendar += 50 + step
                planner.tick()
            planner.on_end(task, TaskStopped("for now"))


@pytest.mark.parametrize("jump", [86_400.0, -31_536_000.0, -70.0])
def test_jumps_of_the_clock_cost_nothing_and_hide_no_cost(jump: float) -> None:
    world, clocks = World(), Clocks()
    study = definition({"budget": {"wall_hours": 0.25}})
    for number in range(1, 4):
        planner = clocks.driver(study, world)
        clocks.work(planner, jump, num_tasks=2)
        assert planner.spent() == Cost(cpu_seconds=200 * number, wall_seconds=200 * number)
        assert planner.stopping is None
        clocks.calendar += jump
    found = snapshot_of(clocks.driver(study, world).state)
    assert found.spent["wall_hours"] == pytest.approx(600 / 3600)
    assert sum(task.seconds for task in found.tasks) == pytest.approx(600)
    planner = clocks.driver(study, world)
    clocks.work(planner, jump, num_tasks=3)
    assert "study.budget.wall_hours: 0.25" in (planner.stopping or "")


def test_work_side_by_side_counts_once_although_the_clock_was_set_between_its_starts() -> None:
    world, clocks = World(), Clocks()
    variants = {"a": {}, "b": {"generation.generator_learning_rate": 0.002}}
    planner = clocks.driver(definition({"variants": variants}, search={}), world)
    collection = planner.next_task(1)
    assert isinstance(collection, Task)
    planner.on_end(collection, world.execute(collection, Silent()))
    for _ in range(2):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_start(task, "here")
        clocks.seconds += 10
        clocks.calendar -= 5_000
        for key in planner.running:
            planner.on_report(key, ProgressReport("generation", 1, 2))
    spent = snapshot_of(planner.state).spent
    assert spent["wall_hours"] == pytest.approx(20 / 3600)
    assert planner.spent() == Cost(cpu_seconds=20 + 10, wall_seconds=20)

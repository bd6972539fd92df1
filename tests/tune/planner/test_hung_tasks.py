"""Tasks that report nothing are asked to stop, and if they do not their processes are killed."""

from __future__ import annotations

import pytest

from tests.tune.world import World, definition
from tune.planner.planner import LISTENS_SECONDS, OBEY_SECONDS, Planner
from tune.study.messages import ProgressReport, TaskLost, TaskStopped
from tune.study.states import TaskState
from tune.study.task import Task

LIMIT_SECONDS = 600.0


class Clock:
    """A clock of virtual seconds, with a driver that ticks every ten of them."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_(self, seconds: float, planner: Planner) -> None:
        for _ in range(round(seconds / 10)):
            self.now += 10.0
            planner.tick()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def planner(clock: Clock) -> Planner:
    return World().planner(definition({"hung_after_minutes": LIMIT_SECONDS / 60}), lambda: clock.now)


def start(planner: Planner) -> Task:
    task = planner.next_task(1)
    assert isinstance(task, Task)
    planner.on_start(task, "here")
    return task


def test_silent_task_is_asked_to_stop_with_one_note(planner: Planner, clock: Clock) -> None:
    task = start(planner)
    clock.pass_(LIMIT_SECONDS - 10, planner)
    assert planner.verdict(task.key) is None
    clock.pass_(60, planner)
    assert planner.verdict(task.key) == "hung: it told nothing for 10 min"
    (note,) = planner.notes
    assert note.startswith(f"{task.label}: hung: it told nothing for 10 min (study.hung_after_minutes)")


def test_every_report_is_a_sign_of_life(planner: Planner, clock: Clock) -> None:
    task = start(planner)
    for _ in range(5):
        clock.pass_(LIMIT_SECONDS - 10, planner)
        planner.on_report(task.key, ProgressReport(note="still here"))
    assert planner.verdict(task.key) is None


def test_task_that_obeys_goes_on_later(planner: Planner, clock: Clock) -> None:
    task = start(planner)
    clock.pass_(LIMIT_SECONDS, planner)
    assert not planner.must_kill(task.key), "it has some time to save"
    planner.on_end(task, TaskStopped("hung"))
    assert start(planner) is task
    assert planner.verdict(task.key) is None


def test_task_that_does_not_obey_is_given_up_and_three_times_at_one_point_is_its_failure(
    planner: Planner, clock: Clock
) -> None:
    for attempt in range(1, 4):
        task = start(planner)
        clock.pass_(LIMIT_SECONDS + OBEY_SECONDS - 10, planner)
        assert not planner.must_kill(task.key)
        clock.pass_(10, planner)
        assert planner.must_kill(task.key)
        planner.on_end(task, TaskLost("it was killed"))
        assert planner.state.state_of(task.key) is (TaskState.FAILED if attempt == 3 else TaskState.WAITING)


def test_driver_that_was_held_up_itself_blames_nobody(planner: Planner, clock: Clock) -> None:
    task = start(planner)
    clock.now += 10 * LIMIT_SECONDS  # its ledger was away, or the laptop slept
    planner.tick()
    assert planner.verdict(task.key) is None
    clock.pass_(LIMIT_SECONDS - LISTENS_SECONDS, planner)
    assert planner.verdict(task.key) is not None


def test_task_that_waits_for_its_resources_does_not_hang(planner: Planner, clock: Clock) -> None:
    task = planner.next_task(1)
    assert isinstance(task, Task)
    clock.pass_(10 * LIMIT_SECONDS, planner)
    assert planner.verdict(task.key) is None


def test_null_lets_task_be_silent_for_ever(clock: Clock) -> None:
    planner = World().planner(definition({"hung_after_minutes": None}), lambda: clock.now)
    task = start(planner)
    clock.pass_(100 * LIMIT_SECONDS, planner)
    assert planner.verdict(task.key) is None
    assert not planner.must_kill(task.key)


def test_task_that_obeys_but_gets_nowhere_is_not_tried_for_ever(planner: Planner, clock: Clock) -> None:
    for attempt in range(1, 4):
        task = start(planner)
        clock.pass_(LIMIT_SECONDS, planner)
        planner.on_end(task, TaskStopped("hung"))
        assert planner.state.state_of(task.key) is (TaskState.FAILED if attempt == 3 else TaskState.WAITING)
    assert task.outcome is not None
    assert task.outcome.reason == "lost 3 times at one point: hung: it told nothing for 10 min"

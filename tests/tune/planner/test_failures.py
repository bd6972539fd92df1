"""The planner when tasks collapse, diverge, fail or are lost, and when its driver dies."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from tests.tune.world import Killed, Silent, World, definition, is_killed, run, summary
from tune.engines.local import run_local
from tune.ledger.ledger import Ledger
from tune.planner.planner import LOST_IN_ALL, Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.asha import Decision
from tune.study.messages import (
    Channel,
    Done,
    ProgressReport,
    TaskBlocked,
    TaskDiverged,
    TaskEnd,
    TaskFailed,
    TaskFinished,
    TaskLost,
)
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task


def killed_at(label: str, task: Task) -> None:
    if task.label == label:
        raise Killed


def next_student(planner: Planner, world: World) -> Task:
    """Start the first student, after the builds that it needs have ended."""
    while True:
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_start(task, "here")
        if task.spec.kind is TaskKind.STUDENT:
            return task
        planner.on_end(task, world.execute(task, Silent()))


def test_collapsed_generator_prunes_its_students_and_opens_another() -> None:
    world = World(collapsed=lambda task: task.label == "generator-0")
    planner = run(definition(), world)
    first = planner.state.search_trials[0]
    assert first.state is TaskState.COLLAPSED
    assert "generator-0 collapsed" in (first.reason or "")
    assert planner.state.search_trials[1].group == 1  # nobody else gets the collapsed generator
    trial = planner.state.ledger.history()[0]
    assert (trial.state.name, trial.value) == ("PRUNED", None)
    assert trial.constraints["feasible"] > 0
    assert "trial-0" not in world.log


@pytest.mark.parametrize(("asked", "outcome"), [(3.0, TaskState.COMPLETE), (4.0, TaskState.COLLAPSED)])
def test_gate_asks_for_a_third_of_the_classes_that_a_generator_was_asked_for(asked: float, outcome: TaskState) -> None:
    planner = World().planner(definition())
    for _ in range(2):  # the collection, then the first generator
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_start(task, "here")
        planner.on_end(
            task, TaskFinished({"generator.effective_classes": 1.0, "generator.asked_classes": asked}, False, 1.0)
        )
    assert planner.state.state_of(task.key) is outcome


def test_gate_names_two_different_numbers_where_they_are_close() -> None:
    planner = World().planner(definition())
    for classes in (9.0, 3.29):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_start(task, "here")
        numbers = {"generator.effective_classes": classes, "generator.asked_classes": 10.0}
        planner.on_end(task, TaskFinished(numbers, False, 1.0))
    assert task.outcome is not None
    assert "is 3.29, below the gate of 3.333" in str(task.outcome.reason)


def test_diverged_generator_prunes_its_students() -> None:
    world = World(diverged=lambda task: task.label == "generator-0")
    planner = run(definition(), world, slots=2)
    doomed = [s for s in planner.state.search_trials if s.state is TaskState.DIVERGED]
    assert doomed
    assert all("not finite" in (search_trial.reason or "") for search_trial in doomed)
    assert planner.is_over()


def test_lost_worker_goes_on_from_its_checkpoint() -> None:
    losses = Counter({("generator-0", 3): 1, ("trial-1", 2): 2})

    def lose(task: Task, step: int) -> bool:
        losses[task.label, step] -= 1
        return losses[task.label, step] >= 0

    world = World(lose=lose)
    planner = run(definition(), world)
    tasks = {task.label: task for task in planner.state.tasks.values()}
    assert [attempt.end for attempt in tasks["generator-0"].attempts] == ["lost", "finished"]
    assert tasks["generator-0"].attempts[1].images_from == tasks["generator-0"].attempts[0].images_to > 0
    assert len(tasks["trial-1"].attempts) == 3
    undisturbed = run(definition(), World())
    assert summary(planner)["search_trials"] == summary(undisturbed)["search_trials"]


def test_three_losses_at_one_point_are_a_failure() -> None:
    world = World(lose=lambda task, step: task.label == "trial-0" and step == 2)
    planner = run(definition(), world)
    assert planner.state.search_trials[0].state is TaskState.FAILED
    assert planner.state.ledger.history()[0].state.name == "FAIL"
    assert planner.is_over()


def test_lost_nodes_never_count_against_the_task() -> None:
    left = Counter({"trial-0": 20})

    class Unlucky(World):
        def execute(self, task: Task, channel: Channel) -> TaskEnd:
            if left[task.label]:
                left[task.label] -= 1
                return TaskLost("its node is gone", node_is_gone=True)
            return super().execute(task, channel)

    planner = run(definition(), Unlucky())
    tasks = {task.label: task for task in planner.state.tasks.values()}
    assert [attempt.end for attempt in tasks["trial-0"].attempts] == ["node lost"] * 20 + ["finished"]
    assert planner.is_over()


def test_failure_of_one_student_leaves_the_others() -> None:
    world = World(failing=lambda task: TaskFailed("out of memory") if task.label == "trial-1" else None)
    planner = run(definition(), world)
    assert planner.state.search_trials[1].state is TaskState.FAILED
    assert planner.is_over()


def test_error_that_the_user_must_mend_stops_the_study_and_is_tried_again() -> None:
    world = World(failing=lambda task: TaskBlocked("the disk is full", 4) if task.label == "generator-1" else None)
    planner = run(definition(), world)
    assert planner.blocking_failure == TaskBlocked("the disk is full", 4)
    assert not planner.is_over()
    world.failing = lambda task: None
    mended = run(definition(), world)
    assert mended.is_over()
    assert summary(mended) == summary(run(definition(), World()))


def test_drained_study_goes_on_where_it_stopped() -> None:
    world = World()
    planner = world.planner(definition())
    seen: list[str] = []

    def drain_late() -> None:
        seen.append("change")
        if len(seen) == 25:
            planner.drain("asked by SIGINT")

    run_local(planner, world.execute, drain_late)
    assert planner.next_task(1) == Done("asked by SIGINT")
    assert not planner.is_over()
    stopped = [task for task in planner.state.tasks.values() if task.attempts and task.attempts[-1].end == "stopped"]
    assert len(stopped) == 1
    resumed = run(definition(), world)
    assert summary(resumed) == summary(run(definition(), World()))
    assert set(world.built.values()) == {1}


def test_study_killed_before_any_ledger_write_equals_the_uninterrupted_one() -> None:
    def world() -> World:
        return World(collapsed=lambda task: task.label == "generator-1", lose=lambda task, step: False)

    study = definition({"num_students": 5, "students_per_generator": 2})
    expected = summary(run(study, world()))
    at, broken = 0, world()
    while is_killed(study, broken, at):
        resumed = run(study, broken)
        assert summary(resumed) == expected, f"killed before write {at}"
        assert set(broken.built.values()) == {1}
        assert all(trial.state.is_finished() for trial in resumed.state.ledger.history())
        attempts = [attempt for task in resumed.state.tasks.values() for attempt in task.attempts]
        assert all(attempt.ended is not None for attempt in attempts), "what died with its driver costs no more"
        at, broken = at + 1, world()
    assert at > 50


def test_failed_variant_is_tried_again_by_the_next_run() -> None:
    study = definition({"variants": {"hybrid": {}}, "seeds": [1]}, search={})
    world = World(failing=lambda task: TaskFailed("out of memory") if task.label == "hybrid-seed1" else None)
    planner = run(study, world)
    assert planner.is_over()
    world.failing = lambda task: None
    world.log.clear()
    run(study, world)
    assert world.log == ["hybrid-seed1"]


def test_grid_goes_on_after_a_failed_student_without_leaving_a_combination_out() -> None:
    search = {
        "distillation.inflation": {"type": "categorical", "choices": [1.0, 5.0, 10.0]},
        "generation.width": {"type": "int", "low": 8, "high": 16, "step": 8},
    }
    study = definition({"sampler": "grid", "num_students": 50, "pruner": {"kind": "none"}}, search)
    world = World(failing=lambda task: TaskFailed("out of memory") if task.label == "trial-1" else None)
    planner = world.planner(study)
    with pytest.raises(Killed):
        run_local(planner, lambda task, channel: killed_at("trial-2", task) or world.execute(task, channel))
    world.failing = lambda task: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.claim()
    state = StudyState(study, ledger, tries_again=True)
    run_local(Planner(state, lambda: 0.0), world.execute)
    complete = [tuple(s.params.values()) for s in state.search_trials if s.state is TaskState.COMPLETE]
    assert sorted(complete) == sorted(tuple(params.values()) for params in study.space.grid())


def test_values_that_do_not_fit_together_end_that_search_trial_only() -> None:
    search = {
        "distillation.feature_weight": {"type": "categorical", "choices": [0.0, 1.0]},
        "distillation.kl_weight": {"type": "categorical", "choices": [0.0, 1.0]},
        "distillation.ce_weight": {"type": "categorical", "choices": [0.0, 1.0]},
    }
    study = definition(
        {"sampler": "grid", "pruner": {"kind": "none"}},
        search,
        distillation={
            "architecture": "resnet8",
            "target_images": 6400,
            "batch_images": 64,
            "kl_weight": 0.5,
            "ce_weight": 0.5,
        },
    )
    planner = run(study, World())
    first = planner.state.search_trials[0]
    assert first.state is TaskState.INFEASIBLE
    assert planner.state.ledger.history()[0].constraints["feasible"] == 1.0
    assert "would learn nothing" in (first.reason or "")
    assert planner.is_over()


def test_task_that_never_started_still_ends() -> None:
    planner = World().planner(definition())
    for _ in range(3):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_end(task, TaskLost("no actor"))
    assert task.outcome is not None
    assert task.outcome.state is TaskState.FAILED


def test_what_failed_in_an_earlier_run_is_tried_again_once_in_the_next() -> None:
    world, study = World(), definition()
    world.failing = lambda task: TaskFailed("the disk was full") if task.spec.kind is TaskKind.COLLECTION else None
    spoilt = run(study, world)
    assert {s.state for s in spoilt.state.search_trials} == {TaskState.FAILED}
    assert spoilt.is_over(), "one run does not try for ever"

    world.failing = lambda task: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.claim()
    state = StudyState(study, ledger, tries_again=True)
    planner = Planner(state, lambda: 0.0)
    assert not planner.is_over()
    run_local(planner, world.execute)

    wanted = [s.params for s in spoilt.state.search_trials]
    again = state.search_trials[len(wanted) :]
    assert [s.params for s in again] == wanted
    assert all(s.state in (TaskState.COMPLETE, TaskState.PRUNED) for s in again)
    assert state.comparison_rows, "the best of them is held against its controls"
    later = StudyState(study, ledger, tries_again=True)
    assert later.is_over(), "what is complete is not tried again"


def test_trial_that_failed_is_shown_as_failed_when_its_student_was_tried_again() -> None:
    world, study = (
        World(failing=lambda task: TaskFailed("out of memory") if task.label == "trial-1" else None),
        definition(),
    )
    run(study, world)
    world.failing = lambda task: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.claim()
    state = StudyState(study, ledger, tries_again=True)
    assert snapshot_of(state).trials[1].state is TaskState.FAILED
    run_local(Planner(state, lambda: 0.0), world.execute)
    trials = snapshot_of(state).trials
    again = next(trial for trial in trials[2:] if trial.params == trials[1].params)
    assert (trials[1].state, trials[1].value) == (TaskState.FAILED, None)
    assert again.state in (TaskState.COMPLETE, TaskState.PRUNED)


def test_student_that_diverged_is_not_taken_for_a_pruned_one() -> None:
    world = World()
    planner = world.planner(definition())
    task = next_student(planner, world)
    planner.state.search_trials[0].rungs[task.rungs[0]] = Decision(0.1, False, 1, 1, (0.9,))
    planner.on_end(task, TaskDiverged("distillation: a loss was not finite"))
    assert planner.state.state_of(task.key) is TaskState.DIVERGED


def test_task_that_is_lost_again_and_again_fails_however_far_it_came() -> None:
    world = World()
    planner = world.planner(definition())
    task = next_student(planner, world)
    for number in range(LOST_IN_ALL):
        planner.on_report(task.key, ProgressReport("distillation", 32 * (number + 1), 1_000))
        planner.on_end(task, TaskLost("out of memory"))
        if planner.state.state_of(task.key) is TaskState.WAITING:
            while (step := planner.next_task(1)) is not task:
                assert isinstance(step, Task)
            planner.on_start(task, "here")
    assert planner.state.state_of(task.key) is TaskState.FAILED
    assert f"lost {LOST_IN_ALL} times" in (task.outcome.reason or "" if task.outcome else "")


class NotANumber(World):
    """A world in which the objective of one student is not a number."""

    def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
        end = super()._finished(task, reused=reused)
        return TaskFinished({"agreement": math.nan}, reused, 1.5) if task.label == "trial-0" else end


def test_objective_that_is_not_a_number_fails_that_student_only() -> None:
    planner = run(definition(), NotANumber())
    failed = [task for task in planner.state.tasks.values() if planner.state.state_of(task.key) is TaskState.FAILED]
    assert {(task.label, task.outcome.reason) for task in failed if task.outcome} == {
        ("trial-0", "its agreement is not a number")
    }
    assert planner.is_over()
    optuna_trial = planner.state.ledger.history()[0]
    assert (optuna_trial.state.name, optuna_trial.values) == ("FAIL", None)
    champion = planner.best
    assert champion is not None
    assert champion.number != 0


TWO_VALUES = {"distillation.inflation": {"type": "categorical", "choices": [1.0, 10.0]}}


@pytest.mark.parametrize("sampler", ["random", "tpe", "stage-aware"])
def test_search_over_few_values_ends_where_all_of_them_fail(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = definition({"sampler": sampler, "pruner": {"kind": "none"}, "num_students": 4}, TWO_VALUES)
    world = World(failing=lambda task: TaskFailed("out of memory") if task.spec.kind is TaskKind.STUDENT else None)
    planner = world.planner(study)
    suggest = planner.state.suggest

    def suggest_in_bounds(*arguments: Any, **more: Any) -> None:
        assert len(planner.state.search_trials) < 10, "it suggests for ever"
        suggest(*arguments, **more)

    monkeypatch.setattr(planner.state, "suggest", suggest_in_bounds)
    run_local(planner, world.execute)
    assert planner.is_over()
    assert [search_trial.state for search_trial in planner.state.search_trials] == 4 * [TaskState.FAILED]


def test_equal_values_on_another_generator_do_not_stand_for_a_trial_that_failed() -> None:
    search = TWO_VALUES | {"seeds.generation": {"type": "fresh_seed"}}
    study = definition({"sampler": "random", "students_per_generator": 1, "pruner": {"kind": "none"}}, search)
    world = World(failing=lambda task: TaskFailed("out of memory") if task.label == "generator-0" else None)
    first, *others = run(study, world).state.search_trials
    assert first.params in [other.params for other in others]
    world.failing = lambda task: None
    again = world.planner(study).state.search_trials[len(others) + 1 :]
    assert [(search_trial.retries, search_trial.group) for search_trial in again] == [(first.number, first.group)]


def test_a_reader_sees_what_failed_as_failed() -> None:
    world = World(failing=lambda task: TaskFailed("out of memory") if "real-only" in task.label else None)
    driver = run(definition(), world)
    looked = snapshot_of(StudyState(definition(), driver.state.ledger))
    assert looked == snapshot_of(driver.state)
    (control,) = (task for task in looked.tasks if "real-only" in task.label)
    assert (control.state, control.reason) == (TaskState.FAILED, "out of memory")

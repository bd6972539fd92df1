"""The planner where work collapses, diverges, fails or is lost, and where its driver dies."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from tests.tune.world import Killed, KilledLedger, Silent, World, definition, run, summary
from tune.engines.local import run_local
from tune.ledger.ledger import Ledger
from tune.planner.planner import LOST_IN_ALL, Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.asha import Decision
from tune.study.messages import Channel, Diverged, Done, End, Failed, Finished, Lost, Report
from tune.study.states import WorkState
from tune.study.task import Work


def killed_at(label: str, work: Work) -> None:
    if work.label == label:
        raise Killed


def next_student(planner: Planner, world: World) -> Work:
    """The first student, begun; what it rests on is built."""
    while True:
        work = planner.next_work(1)
        assert isinstance(work, Work)
        planner.on_start(work, "here")
        if work.piece.kind == "student":
            return work
        planner.on_end(work, world.execute(work, Silent()))


def test_collapsed_generator_prunes_its_students_and_opens_another() -> None:
    world = World(collapsed=lambda work: work.label == "generator-0")
    planner = run(definition(), world)
    first = planner.state.suggestions[0]
    assert first.state is WorkState.COLLAPSED
    assert "generator-0 collapsed" in (first.reason or "")
    assert planner.state.suggestions[1].group == 1  # nobody else gets the collapsed generator
    trial = planner.state.ledger.history()[0]
    assert (trial.state.name, trial.value) == ("PRUNED", None)
    assert trial.constraints["feasible"] > 0
    assert "trial-0" not in world.log


@pytest.mark.parametrize(("asked", "outcome"), [(3.0, WorkState.COMPLETE), (4.0, WorkState.COLLAPSED)])
def test_gate_asks_for_a_third_of_the_classes_that_a_generator_was_asked_for(asked: float, outcome: WorkState) -> None:
    planner = World().planner(definition())
    for _ in range(2):  # the collection, then the first generator
        work = planner.next_work(1)
        assert isinstance(work, Work)
        planner.on_start(work, "here")
        planner.on_end(
            work, Finished({"generator.effective_classes": 1.0, "generator.asked_classes": asked}, False, 1.0)
        )
    assert planner.state.of(work.key) is outcome


def test_diverged_generator_prunes_its_students() -> None:
    world = World(diverged=lambda work: work.label == "generator-0")
    planner = run(definition(), world, slots=2)
    doomed = [s for s in planner.state.suggestions if s.state is WorkState.DIVERGED]
    assert doomed
    assert all("not finite" in (suggestion.reason or "") for suggestion in doomed)
    assert planner.is_over()


def test_lost_worker_goes_on_from_its_checkpoint() -> None:
    losses = Counter({("generator-0", 3): 1, ("trial-1", 2): 2})

    def lose(work: Work, step: int) -> bool:
        losses[work.label, step] -= 1
        return losses[work.label, step] >= 0

    world = World(lose=lose)
    planner = run(definition(), world)
    works = {work.label: work for work in planner.state.works.values()}
    assert [attempt.end for attempt in works["generator-0"].attempts] == ["lost", "finished"]
    assert works["generator-0"].attempts[1].images_from == works["generator-0"].attempts[0].images_to > 0
    assert len(works["trial-1"].attempts) == 3
    undisturbed = run(definition(), World())
    assert summary(planner)["suggestions"] == summary(undisturbed)["suggestions"]


def test_three_losses_at_one_point_are_a_failure() -> None:
    world = World(lose=lambda work, step: work.label == "trial-0" and step == 2)
    planner = run(definition(), world)
    assert planner.state.suggestions[0].state is WorkState.FAILED
    assert planner.state.ledger.history()[0].state.name == "FAIL"
    assert planner.is_over()


def test_lost_nodes_never_count_against_the_work() -> None:
    left = Counter({"trial-0": 20})

    class Unlucky(World):
        def execute(self, work: Work, channel: Channel) -> End:
            if left[work.label]:
                left[work.label] -= 1
                return Lost("its node is gone", node_is_gone=True)
            return super().execute(work, channel)

    planner = run(definition(), Unlucky())
    works = {work.label: work for work in planner.state.works.values()}
    assert [attempt.end for attempt in works["trial-0"].attempts] == ["node lost"] * 20 + ["finished"]
    assert planner.is_over()


def test_failure_of_one_student_leaves_the_others() -> None:
    world = World(failing=lambda work: Failed("out of memory") if work.label == "trial-1" else None)
    planner = run(definition(), world)
    assert planner.state.suggestions[1].state is WorkState.FAILED
    assert planner.is_over()


def test_error_that_the_user_must_mend_stops_the_study_and_is_tried_again() -> None:
    world = World(failing=lambda work: Failed("the disk is full", 4) if work.label == "generator-1" else None)
    planner = run(definition(), world)
    assert planner.broken is not None
    assert planner.broken.exit_code == 4
    assert not planner.is_over()
    world.failing = lambda work: None
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
    assert planner.next_work(1) == Done("asked by SIGINT")
    assert not planner.is_over()
    stopped = [work for work in planner.state.works.values() if work.attempts and work.attempts[-1].end == "stopped"]
    assert len(stopped) == 1
    resumed = run(definition(), world)
    assert summary(resumed) == summary(run(definition(), World()))
    assert set(world.built.values()) == {1}


def test_study_killed_before_any_ledger_write_equals_the_uninterrupted_one() -> None:
    def world() -> World:
        return World(collapsed=lambda work: work.label == "generator-1", lose=lambda work, step: False)

    study = definition({"num_students": 5, "students_per_generator": 2})
    expected = summary(run(study, world()))
    at = 0
    while True:
        broken = world()
        try:
            planner = Planner(StudyState(study, KilledLedger(broken, study, at)), lambda: 0.0)
            run_local(planner, broken.execute)
            break
        except Killed:
            resumed = run(study, broken)
        assert summary(resumed) == expected, f"killed before write {at}"
        assert set(broken.built.values()) == {1}
        assert all(trial.state.is_finished() for trial in resumed.state.ledger.history())
        attempts = [attempt for work in resumed.state.works.values() for attempt in work.attempts]
        assert all(attempt.ended is not None for attempt in attempts), "what died with its driver costs no more"
        at += 1
    assert at > 50


def test_failed_variant_is_tried_again_by_the_next_run() -> None:
    study = definition({"variants": {"hybrid": {}}, "seeds": [1]}, search={})
    world = World(failing=lambda work: Failed("out of memory") if work.label == "hybrid-seed1" else None)
    planner = run(study, world)
    assert planner.is_over()
    world.failing = lambda work: None
    world.log.clear()
    run(study, world)
    assert world.log == ["hybrid-seed1"]


def test_grid_goes_on_after_a_failed_student_without_leaving_a_combination_out() -> None:
    search = {
        "distillation.inflation": {"type": "categorical", "choices": [1.0, 5.0, 10.0]},
        "generation.width": {"type": "int", "low": 8, "high": 16, "step": 8},
    }
    study = definition({"sampler": "grid", "num_students": 50, "pruner": {"kind": "none"}}, search)
    world = World(failing=lambda work: Failed("out of memory") if work.label == "trial-1" else None)
    planner = world.planner(study)
    with pytest.raises(Killed):
        run_local(planner, lambda work, channel: killed_at("trial-2", work) or world.execute(work, channel))
    world.failing = lambda work: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.take()
    state = StudyState(study, ledger, tries_again=True)
    run_local(Planner(state, lambda: 0.0), world.execute)
    complete = [tuple(s.params.values()) for s in state.suggestions if s.state is WorkState.COMPLETE]
    assert sorted(complete) == sorted(tuple(params.values()) for params in study.space.grid())


def test_values_that_do_not_fit_together_fail_that_suggestion_only() -> None:
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
    first = planner.state.suggestions[0]
    assert first.state is WorkState.FAILED
    assert "would learn nothing" in (first.reason or "")
    assert planner.is_over()


def test_work_that_never_started_still_ends() -> None:
    planner = World().planner(definition())
    for _ in range(3):
        work = planner.next_work(1)
        assert isinstance(work, Work)
        planner.on_end(work, Lost("no actor"))
    assert work.outcome is not None
    assert work.outcome.state is WorkState.FAILED


def test_what_failed_in_an_earlier_run_is_tried_again_once_in_the_next() -> None:
    world, study = World(), definition()
    world.failing = lambda work: Failed("the disk was full") if work.piece.until == "collection" else None
    spoilt = run(study, world)
    assert {s.state for s in spoilt.state.suggestions} == {WorkState.FAILED}
    assert spoilt.is_over(), "one run does not try for ever"

    world.failing = lambda work: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.take()
    state = StudyState(study, ledger, tries_again=True)
    planner = Planner(state, lambda: 0.0)
    assert not planner.is_over()
    run_local(planner, world.execute)

    wanted = [s.params for s in spoilt.state.suggestions]
    again = state.suggestions[len(wanted) :]
    assert [s.params for s in again] == wanted
    assert all(s.state in (WorkState.COMPLETE, WorkState.PRUNED) for s in again)
    assert state.rows, "the best of them is held against its controls"
    later = StudyState(study, ledger, tries_again=True)
    assert later.is_over(), "what stands is not tried again"


def test_trial_that_failed_is_shown_as_failed_when_its_student_was_tried_again() -> None:
    world, study = (
        World(failing=lambda work: Failed("out of memory") if work.label == "trial-1" else None),
        definition(),
    )
    run(study, world)
    world.failing = lambda work: None
    ledger = Ledger(world.storage, study.name, study.study.objective)
    ledger.take()
    state = StudyState(study, ledger, tries_again=True)
    assert snapshot_of(state).trials[1].state is WorkState.FAILED
    run_local(Planner(state, lambda: 0.0), world.execute)
    trials = snapshot_of(state).trials
    again = next(trial for trial in trials[2:] if trial.params == trials[1].params)
    assert (trials[1].state, trials[1].value) == (WorkState.FAILED, None)
    assert again.state in (WorkState.COMPLETE, WorkState.PRUNED)


def test_student_that_diverged_is_not_taken_for_a_pruned_one() -> None:
    world = World()
    planner = world.planner(definition())
    work = next_student(planner, world)
    planner.state.suggestions[0].rungs[work.rungs[0]] = Decision(0.1, False, 1, 1, (0.9,))
    planner.on_end(work, Diverged("distillation: a loss was not finite"))
    assert planner.state.of(work.key) is WorkState.DIVERGED


def test_work_that_is_lost_again_and_again_fails_however_far_it_came() -> None:
    world = World()
    planner = world.planner(definition())
    work = next_student(planner, world)
    for number in range(LOST_IN_ALL):
        planner.on_report(work.key, Report("distillation", 32 * (number + 1), 1_000))
        planner.on_end(work, Lost("out of memory"))
        if planner.state.of(work.key) is WorkState.WAITING:
            while (step := planner.next_work(1)) is not work:
                assert isinstance(step, Work)
            planner.on_start(work, "here")
    assert planner.state.of(work.key) is WorkState.FAILED
    assert f"lost {LOST_IN_ALL} times" in (work.outcome.reason or "" if work.outcome else "")


class NotANumber(World):
    """One student's objective is none."""

    def _finished(self, work: Work, *, reused: bool) -> End:
        end = super()._finished(work, reused=reused)
        return Finished({"agreement": math.nan}, reused, 1.5) if work.label == "trial-0" else end


def test_objective_that_is_not_a_number_fails_that_student_only() -> None:
    planner = run(definition(), NotANumber())
    failed = [work for work in planner.state.works.values() if planner.state.of(work.key) is WorkState.FAILED]
    assert {(work.label, work.outcome.reason) for work in failed if work.outcome} == {
        ("trial-0", "its agreement is not a number")
    }
    assert planner.is_over()
    told = planner.state.ledger.history()[0]
    assert (told.state.name, told.values) == ("FAIL", None)
    champion = planner.best
    assert champion is not None
    assert champion.number != 0


TWO_VALUES = {"distillation.inflation": {"type": "categorical", "choices": [1.0, 10.0]}}


@pytest.mark.parametrize("sampler", ["random", "tpe", "stage-aware"])
def test_search_over_few_values_ends_where_all_of_them_fail(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = definition({"sampler": sampler, "pruner": {"kind": "none"}, "num_students": 4}, TWO_VALUES)
    world = World(failing=lambda work: Failed("out of memory") if work.piece.kind == "student" else None)
    planner = world.planner(study)
    suggest = planner.state.suggest

    def suggest_in_bounds(*arguments: Any, **more: Any) -> None:
        assert len(planner.state.suggestions) < 10, "it suggests for ever"
        suggest(*arguments, **more)

    monkeypatch.setattr(planner.state, "suggest", suggest_in_bounds)
    run_local(planner, world.execute)
    assert planner.is_over()
    assert [suggestion.state for suggestion in planner.state.suggestions] == 4 * [WorkState.FAILED]


def test_equal_values_on_another_generator_do_not_stand_for_a_trial_that_failed() -> None:
    search = TWO_VALUES | {"seeds.generation": {"type": "fresh_seed"}}
    study = definition({"sampler": "random", "students_per_generator": 1, "pruner": {"kind": "none"}}, search)
    world = World(failing=lambda work: Failed("out of memory") if work.label == "generator-0" else None)
    first, *others = run(study, world).state.suggestions
    assert first.params in [other.params for other in others]
    world.failing = lambda work: None
    again = world.planner(study).state.suggestions[len(others) + 1 :]
    assert [(suggestion.retries, suggestion.group) for suggestion in again] == [(first.number, first.group)]


def test_whoever_looks_on_sees_what_failed_as_failed() -> None:
    world = World(failing=lambda work: Failed("out of memory") if "real-only" in work.label else None)
    driver = run(definition(), world)
    looked = snapshot_of(StudyState(definition(), driver.state.ledger))
    assert looked == snapshot_of(driver.state)
    (control,) = (work for work in looked.works if "real-only" in work.label)
    assert (control.state, control.reason) == (WorkState.FAILED, "out of memory")

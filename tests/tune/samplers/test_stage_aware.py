"""The stage-aware sampler: which generator, which parameters, and why."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.tune.world import World, definition, is_killed, run, summary
from tune.samplers.stage_aware import NEW_GENERATOR_SHARE, Choice, choose
from tune.study.asha import Decision
from tune.study.definition import Definition
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState

TEMPERATURE, RATE, INFLATION = (
    "generation.smoothing.temperature",
    "generation.generator_learning_rate",
    "distillation.inflation",
)
SEARCH = {
    TEMPERATURE: {"type": "float", "low": 0.0 + 0.5, "high": 4.5},
    INFLATION: {"type": "float", "low": 0.0, "high": 1.0},
}
BUILD, STUDENT = 4e9, 1e9


class History:
    """The contents of a ledger, written by hand."""

    def __init__(self, search: Mapping[str, Any] = SEARCH, **study: Any) -> None:
        self.study: Definition = definition({"sampler": "stage-aware", "startup_students": 2} | study, dict(search))
        self.search_trials: list[SearchTrial] = []
        self.builds: dict[int, TaskState] = {}

    def generator(self, state: TaskState = TaskState.COMPLETE, **upstream: float) -> int:
        """Add a generator; its first student is the next that is added."""
        number = len(self.search_trials)
        self.builds[number] = state
        self._upstream = (
            number,
            {TEMPERATURE: upstream["temperature"]} | ({RATE: upstream["rate"]} if "rate" in upstream else {}),
        )
        return number

    def student(
        self, inflation: float, value: float | None, state: TaskState = TaskState.COMPLETE, violation: float = 0.0
    ) -> None:
        """Add a student on the newest generator."""
        group, upstream = self._upstream
        params = upstream | {INFLATION: inflation}
        self.search_trials.append(
            SearchTrial(len(self.search_trials), params, group, state=state, value=value, violation=violation)
        )

    def choose(self, build_cost: float = BUILD, **given: Any) -> Choice:
        def remaining(params: Mapping[str, Any], group: int | None) -> float:
            return STUDENT + (build_cost if group is None else 0.0)

        study = self.study
        return choose(study.study, study.space, self.search_trials, self.builds, remaining, given)


def two_generators() -> tuple[History, int, int]:
    """Return two generators of equal mean whose best students are at inflations 0.1 and 0.9."""
    history = History()
    numbers = []
    for temperature, best in ((1.0, 0.1), (4.0, 0.9)):
        numbers.append(history.generator(temperature=temperature))
        for inflation in (0.0, 0.25, 0.45, 0.6, 0.8, 1.0):
            history.student(inflation, 0.8 - 0.2 * (inflation - best) ** 2)
    return history, numbers[0], numbers[1]


def test_each_generator_is_offered_the_students_that_are_best_on_it() -> None:
    history, first, second = two_generators()
    for leader, best in ((first, 0.1), (second, 0.9)):
        held = {path: value for path, value in history.search_trials[leader].params.items() if path != INFLATION}
        choice = history.choose(**held)
        assert choice.leader == leader
        assert choice.params[INFLATION] == pytest.approx(best, abs=0.05)
        assert choice.params[TEMPERATURE] == held[TEMPERATURE]


def test_another_student_comes_before_another_generator_while_it_promises_as_much_for_less() -> None:
    history = History()
    for temperature in (1.0, 3.0):
        history.generator(temperature=temperature)
        for inflation in (0.9, 0.6):
            history.student(inflation, 0.7 - 0.1 * abs(temperature - 2.0) - 0.3 * inflation)
    choice = history.choose()
    assert choice.leader is not None
    assert choice.params[INFLATION] < 0.5
    assert f"on the generator of trial {choice.leader}, as number 3 of its students" in choice.why
    assert "better than a generator of its own, expected to improve" in choice.why


def test_generators_whose_students_have_nothing_left_to_gain_are_left() -> None:
    history = History()
    for temperature in (1.0, 1.5):
        history.generator(temperature=temperature)
        for inflation in (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0):
            history.student(inflation, 0.3 + 0.1 * temperature - 0.2 * (inflation - 0.3) ** 2)
    choice = history.choose()
    assert choice.leader is None
    assert choice.params[TEMPERATURE] > 2.0
    assert choice.params[INFLATION] == pytest.approx(0.3, abs=0.1)
    assert "a generator of its own" in choice.why


def test_price_of_a_generator_decides_whether_it_is_worth_one() -> None:
    history, _, _ = two_generators()
    history.generator(temperature=2.0)
    history.student(0.5, 0.79)
    assert history.choose(build_cost=0.0).leader is None
    assert history.choose(build_cost=1e13).leader is not None


def test_generator_is_drawn_at_random_where_the_model_promises_nothing_more() -> None:
    history = History()
    for temperature in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5):
        history.generator(temperature=temperature)
        for inflation in (0.0, 0.3, 0.5, 0.7, 1.0):
            history.student(inflation, 0.5 - 0.2 * (inflation - 0.5) ** 2 - 0.02 * (temperature - 2.5) ** 2)
    choice = history.choose()
    assert choice.leader is None
    assert choice.why.startswith("drawn at random, with a generator of its own: nothing promises more than")


def test_new_generator_is_due_when_students_have_cost_many_times_as_much() -> None:
    history = History()
    for temperature in (1.0, 4.0):
        history.generator(temperature=temperature)
        for number in range(3):
            history.student(number / 10, 0.5)
    due = round(BUILD / STUDENT / NEW_GENERATOR_SHARE)
    for number in range(due):
        history.student(0.3 + number / 100, 0.5 + number / 1000)
    choice = history.choose()
    assert choice.leader is None
    assert "it is time for one" in choice.why


def test_generator_that_collapsed_gets_no_student_and_its_neighbours_none_either() -> None:
    history = History()
    for number, temperature in enumerate((0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 3.0, 3.4, 3.8, 4.2)):
        collapsed = temperature > 2.4
        history.generator(TaskState.COLLAPSED if collapsed else TaskState.COMPLETE, temperature=temperature)
        if collapsed:
            history.student(0.5, None, TaskState.COLLAPSED)
        else:
            for inflation in (0.2, 0.5, 0.8):
                history.student(inflation, 0.5 + 0.1 * temperature + number / 1e4)
    choice = history.choose(build_cost=0.0)
    assert choice.leader is None
    assert choice.params[TEMPERATURE] < 2.7, "better and better until generators collapse"
    collapsed_ones = [n for n, state in history.builds.items() if state is TaskState.COLLAPSED]
    assert history.choose(build_cost=1e13).leader not in collapsed_ones


def test_student_settings_that_diverged_are_avoided() -> None:
    history = History()
    for temperature in (1.0, 2.0, 3.0):
        history.generator(temperature=temperature)
        for inflation in (0.1, 0.3, 0.5, 0.7, 0.9):
            fine = inflation < 0.6
            history.student(inflation, 0.5 + 0.2 * inflation if fine else None, *([] if fine else [TaskState.DIVERGED]))
    assert 0.4 < history.choose(build_cost=1e13).params[INFLATION] < 0.72


@pytest.mark.parametrize("is_any_feasible", [True, False])
def test_student_settings_that_miss_a_constraint_are_avoided_however_good_they_are(is_any_feasible: bool) -> None:
    history = History()
    for temperature in (1.0, 2.0, 3.0):
        history.generator(temperature=temperature)
        for inflation in (0.1, 0.3, 0.5, 0.7, 0.9) if is_any_feasible else (0.7, 0.9):
            history.student(inflation, 0.5 + 0.2 * inflation, violation=max(inflation - 0.6, 0.0))
    found = history.choose(build_cost=1e13).params[INFLATION]
    assert 0.4 < found < 0.72 if is_any_feasible else found < 0.6


def test_students_under_way_keep_others_from_looking_in_the_same_place() -> None:
    history = History()
    history.generator(temperature=1.0)
    for inflation in (0.0, 0.9, 1.0):
        history.student(inflation, 0.5 - 0.1 * inflation)
    chosen: list[float] = []
    for _ in range(3):
        choice = history.choose(build_cost=1e13)
        assert all(abs(choice.params[INFLATION] - other) > 0.02 for other in chosen)
        chosen.append(choice.params[INFLATION])
        history.search_trials.append(SearchTrial(len(history.search_trials), choice.params, 0, state=TaskState.RUNNING))


def test_nothing_is_suggested_twice_where_values_are_few() -> None:
    search = {
        TEMPERATURE: {"type": "float", "low": 1.0, "high": 2.0, "step": 0.5},
        INFLATION: {"type": "categorical", "choices": [1.0, 2.0, 4.0]},
    }
    study = definition(
        {"sampler": "stage-aware", "startup_students": 2, "num_students": 9, "pruner": {"kind": "none"}}, search
    )
    planner = run(study, World())
    tried = {(s.params[TEMPERATURE], s.params[INFLATION]) for s in planner.state.search_trials}
    assert len(tried) == 9
    assert len({s.group for s in planner.state.search_trials}) == 3


def test_pruned_student_counts_with_what_finished_ones_gained_after_its_rung() -> None:
    choices = []
    for pruned in (True, False):
        history = History()
        history.generator(temperature=1.0)
        for inflation, at_rung in ((0.0, 0.5), (0.5, 0.52), (1.0, 0.51)):
            history.student(inflation, at_rung + 0.2)
            history.search_trials[-1].rungs[100] = Decision(at_rung, True, 0, 0, ())
        history.generator(temperature=4.0)
        for inflation, at_rung in ((0.25, 0.45), (0.75, 0.4)):
            if pruned:
                history.student(inflation, None, TaskState.PRUNED)
                history.search_trials[-1].rungs[100] = Decision(at_rung, False, 0, 0, ())
            else:
                history.student(inflation, at_rung + 0.2)
        choices.append(history.choose())
    assert choices[0] == choices[1]


def test_given_values_are_kept_and_the_rest_is_suggested() -> None:
    history, first, _ = two_generators()
    choice = history.choose(**{TEMPERATURE: 1.0})
    assert choice.leader == first
    elsewhere = history.choose(**{TEMPERATURE: 2.5, INFLATION: 0.33})
    assert elsewhere.leader is None
    assert (elsewhere.params[TEMPERATURE], elsewhere.params[INFLATION]) == (2.5, 0.33)


@pytest.mark.parametrize("slots", [1, 4])
def test_study_starts_at_random_and_then_says_what_it_weighed(slots: int) -> None:
    study = definition({"sampler": "stage-aware", "num_students": 12, "startup_students": 4, "concurrency": slots})
    world = World()
    planner = run(study, world, slots)
    assert planner.is_over()
    assert set(world.built.values()) == {1}
    whys = [search_trial.why for search_trial in planner.state.search_trials]
    assert "drawn at random" in whys[0]
    assert "operations" in whys[-1]
    for search_trial in planner.state.search_trials:
        leader = planner.state.search_trials[search_trial.group]
        assert all(search_trial.params[path] == leader.params[path] for path in study.space.upstream)
        assert search_trial.task_keys[:-1] == leader.task_keys[:-1]


def test_conditional_parameters_are_suggested_only_where_they_are_searched() -> None:
    search = {
        "generation.smoothing.mode": {"type": "categorical", "choices": ["inverse", "off"]},
        TEMPERATURE: {"type": "float", "low": 0.5, "high": 4.0, "when": {"generation.smoothing.mode": "inverse"}},
        INFLATION: {"type": "int", "low": 1, "high": 16, "log": True},
    }
    study = definition({"sampler": "stage-aware", "startup_students": 4, "num_students": 16}, search)
    planner = run(study, World())
    assert planner.is_over()
    for search_trial in planner.state.search_trials:
        assert (TEMPERATURE in search_trial.params) == (search_trial.params["generation.smoothing.mode"] == "inverse")
        assert search_trial.params[INFLATION] in range(1, 17)


def test_fresh_seeds_make_another_generator_of_equal_parameters() -> None:
    search = {INFLATION: {"type": "float", "low": 1.0, "high": 20.0}, "seeds.generation": {"type": "fresh_seed"}}
    study = definition({"sampler": "stage-aware", "startup_students": 6, "num_students": 8}, search)
    planner = run(study, World())
    assert planner.is_over()
    assert len({search_trial.group for search_trial in planner.state.search_trials}) >= 2


def test_search_of_one_stage_only_works_too() -> None:
    downstream = definition({"sampler": "stage-aware", "num_students": 8}, {INFLATION: SEARCH[INFLATION]})
    assert {s.group for s in run(downstream, World()).state.search_trials} == {0}
    upstream = definition({"sampler": "stage-aware", "num_students": 8}, {TEMPERATURE: SEARCH[TEMPERATURE]})
    assert len({s.group for s in run(upstream, World()).state.search_trials}) == 8


def test_stage_aware_study_killed_before_any_ledger_write_equals_the_uninterrupted_one() -> None:
    def world() -> World:
        return World(collapsed=lambda task: task.label == "generator-1")

    study = definition({"sampler": "stage-aware", "num_students": 5, "startup_students": 3})
    expected = summary(run(study, world()))
    at, broken = 0, world()
    while is_killed(study, broken, at):
        assert summary(run(study, broken)) == expected, f"killed before write {at}"
        assert set(broken.built.values()) == {1}
        at, broken = at + 5, world()
    assert at > 50


def test_search_trial_after_300_students_takes_a_fraction_of_a_second() -> None:
    history = History(SEARCH | {RATE: {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}})
    for number in range(60):
        history.generator(temperature=0.5 + 4.0 * (number * 0.618 % 1), rate=10 ** -(2 + 2 * (number * 0.755 % 1)))
        for student in range(5):
            inflation = (number * 5 + student) * 0.4142 % 1
            history.student(inflation, 0.8 - 0.1 * (inflation - 0.5) ** 2 - 0.01 * (number % 7))
    history.choose()
    started = time.process_time()
    history.choose()
    assert time.process_time() - started < 0.6

"""Forecasts count what the study will build, never less and nothing that is built already, and what that costs."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from hidfd.pipeline.costs import GPU_RATE, MANY, UNMEASURED, Range, bank_bytes, checkpoint_bytes, expected_bytes
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from tests.tune.world import SEARCH, Silent, World, definition, run
from tune.engines.local import run_local
from tune.planner.forecast import Forecast, forecast_of
from tune.planner.state import StudyState
from tune.study.definition import Definition
from tune.study.states import TaskKind
from tune.study.task import Task

GRID = {
    "distillation.inflation": {"type": "categorical", "choices": [1.0, 2.0]},
    "generation.width": {"type": "int", "low": 8, "high": 40, "step": 8},
}
COLLECTIONS = {**SEARCH, "collection.num_images": {"type": "int", "low": 50, "high": 100}}
NO_PRUNER = {"kind": "none"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def counts(state: StudyState, store: Store) -> dict[str, int]:
    return {row.what: row.count for row in forecast_of(state, store).rows}


def near(low: float, expected: float, high: float) -> Range:
    """Return a range that equals this one but for rounding."""
    return Range(*(cast("float", pytest.approx(value)) for value in (low, expected, high)))


def left(forecast: Forecast) -> dict[str, float]:
    return {row.what: row.left.high for row in forecast.rows}


def built(state: StudyState) -> dict[str, int]:
    """Count the distinct artifacts of all tasks that the study asked for."""
    stages = {(stage.name, stage.digest) for task in state.tasks.values() for stage in plan(task.spec.config).values()}
    names = ("teacher", "collection", "generation", "distillation")
    return {name: sum(stage == name for stage, _ in stages) for name in names}


@pytest.mark.parametrize(
    ("study", "search", "expected"),
    [
        # Six students, three on each generator, and four in the comparison on a generator of their own.
        ({"pruner": NO_PRUNER}, SEARCH, {"teacher": 1, "collection": 1, "generation": 3, "distillation": 10}),
        # A grid shares only where upstream parameters are equal: ten students on five generators.
        (
            {"sampler": "grid", "num_students": 50, "students_per_generator": 10, "pruner": NO_PRUNER},
            GRID,
            {"teacher": 1, "collection": 1, "generation": 6, "distillation": 14},
        ),
        (
            {"sampler": "grid", "num_students": 3, "students_per_generator": 10, "pruner": NO_PRUNER},
            GRID,
            {"teacher": 1, "collection": 1, "generation": 3, "distillation": 7},
        ),
        # Three finalists that were found on two generators need two on each fresh seed; the best has its controls.
        (
            {"pruner": NO_PRUNER, "num_finalists": 3, "seeds": [1, 2]},
            SEARCH,
            {"teacher": 1, "collection": 1, "generation": 6, "distillation": 18},
        ),
        # Each generator has a collection of its own.
        ({"pruner": NO_PRUNER}, COLLECTIONS, {"teacher": 1, "collection": 2, "generation": 3, "distillation": 10}),
        (
            {"variants": {"a": {}, "b": {"synthesis.num_images": 0}}, "seeds": [1, 2]},
            {},
            {"teacher": 1, "collection": 1, "generation": 2, "distillation": 4},
        ),
    ],
)
def test_plan_counts_what_is_then_built(
    study: dict[str, Any], search: dict[str, Any], expected: dict[str, int], store: Store
) -> None:
    asked: Definition = definition(study, search)
    world = World()
    assert counts(world.planner(asked).state, store) == expected
    planner = world.planner(asked)
    run_local(planner, world.execute)
    assert counts(planner.state, store) == expected
    assert built(planner.state) == expected


def test_what_is_in_the_store_is_not_built_again(store: Store) -> None:
    state = World().planner(definition({"variants": {"a": {}}}, search={})).state
    (row,) = state.comparison_rows
    digest = plan(row.configs[0])["collection"].digest
    with store.writer("collection", digest, {}) as attempt:
        attempt.path("images.parquet").write_text("")
        attempt.commit({})
    found = {row.what: (row.count, row.built) for row in forecast_of(state, store).rows}
    assert found == {"teacher": (1, 0), "collection": (1, 1), "generation": (1, 0), "distillation": (1, 0)}


def test_teacher_and_collection_that_stand_are_counted_before_the_search_has_suggested_anything(store: Store) -> None:
    asked = definition()
    with store.writer("collection", plan(asked.base)["collection"].digest, {}) as attempt:
        attempt.path("images.parquet").write_text("")
        attempt.commit({})
    found = {row.what: (row.count, row.built) for row in forecast_of(World().planner(asked).state, store).rows}
    assert (found["teacher"], found["collection"]) == ((1, 0), (1, 1))


def test_what_is_left_shrinks_to_nothing_as_the_study_goes_on(store: Store) -> None:
    world = World()
    planner = world.planner(definition())
    seen = [left(forecast_of(planner.state, store))]
    run_local(planner, world.execute, lambda: seen.append(left(forecast_of(planner.state, store))))
    assert seen[0] == {"teacher": 1, "collection": 1, "generation": 3, "distillation": 10}
    for earlier, later in itertools.pairwise(seen):
        assert all(later[name] <= earlier[name] + 1e-9 for name in earlier)
    assert any(0 < step["generation"] % 1 < 1 for step in seen), "parts of a generator under way count as parts"
    assert set(seen[-1].values()) == {0}, "pruned students are not left either"


def test_pruning_is_expected_at_the_low_end_only(store: Store) -> None:
    (pruned,) = (r for r in forecast_of(World().planner(definition()).state, store).rows if r.what == "distillation")
    # Half of each of six students, and the other half of half of them; four more without rungs.
    assert (pruned.left.low, pruned.left.expected, pruned.left.high) == (6 * 0.75 + 4, 6 * 0.75 + 4, 10)
    state = World().planner(definition({"pruner": NO_PRUNER})).state
    (whole,) = (r for r in forecast_of(state, store).rows if r.what == "distillation")
    assert whole.left.low == whole.left.high == 10


def test_seconds_rest_on_what_the_studys_own_task_took_as_soon_as_some_has_ended(store: Store) -> None:
    now = [0.0]
    world = World()
    study = definition({"pruner": NO_PRUNER, "concurrency": 2})
    planner = world.planner(study, lambda: now[0])
    before = forecast_of(planner.state, store)
    assert "about one CPU core" in before.basis
    assert before.seconds.high > 50 * before.seconds.low, "nothing is known yet"
    students = iter([30.0, 50.0, 40.0])
    for _ in range(5):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        planner.on_start(task, "here")
        now[0] += {TaskKind.COLLECTION: 1.0, TaskKind.GENERATOR: 100.0}.get(task.spec.kind) or next(students)
        planner.on_end(task, world.execute(task, Silent()))
    after = forecast_of(planner.state, store)
    each = {row.what: row.each for row in after.rows}
    assert after.basis == "as this study's own tasks took"
    assert each["distillation"] == near(30.0, 40.0, 50.0)
    assert each["generation"] == near(100 / 1.5, 100.0, 150.0)
    assert after.seconds == near(7 * 30 + 2 * 100 / 1.5, 7 * 40 + 200, 7 * 50 + 300)
    assert after.clock_seconds.expected == pytest.approx(max((7 * 40 + 200) / 2, 2 * 140))
    assert after.num_users == 9, "the real-only control rests on no generator"
    assert after.num_generators == 3
    assert after.saved_seconds == pytest.approx(6 * 100)


def test_gpus_are_not_timed_by_what_a_processor_took(store: Store) -> None:
    study = definition()
    stage = plan(study.base)["distillation"]
    with store.writer("distillation", "1" * 64, {}) as attempt:
        attempt.path("student").write_text("")
        attempt.commit({"seconds": 100.0, "operations": stage.operations}, device="cpu, 1 threads, fp32")
    on_cpu = forecast_of(World().planner(study).state, store)
    gpus = replace(study, resources={"cpus": 2.0, "gpus": 1.0, "workers": 2.0})
    on_gpu = forecast_of(World().planner(gpus).state, store)
    assert {row.what: row.each for row in on_cpu.rows}["distillation"] == near(100 / 1.5, 100.0, 150.0)
    expected = stage.operations / GPU_RATE
    assert {row.what: row.each for row in on_gpu.rows}["distillation"] == near(
        expected / UNMEASURED, expected, expected * UNMEASURED
    )
    assert (on_gpu.cpus, on_gpu.gpus) == (4.0, 2.0), "two workers at once"


def test_budget_that_will_not_do_is_said_before_anything_starts(store: Store) -> None:
    stage = plan(definition().base)["distillation"]
    for number in range(MANY):
        with store.writer("distillation", f"{number}" * 64, {}) as attempt:
            attempt.path("student").write_text("")
            attempt.commit({"seconds": 3600.0 + number, "operations": stage.operations})

    def short_of(**budget: float) -> tuple[str, ...]:
        prices = {"price_per_cpu_hour": 0.5}
        return forecast_of(World().planner(definition({"budget": budget | prices})).state, store).short_of

    assert short_of(cpu_hours=1000.0, money=500.0) == ()
    (line,) = short_of(money=4.0)
    assert line.startswith("study.budget.money: 4 will not suffice: 0 spent, and 4.")
    (line,) = short_of(cpu_hours=12.0)
    assert line.startswith("study.budget.cpu_hours: 12 may not suffice")


def test_store_grows_by_what_artifacts_of_the_study_take_or_by_their_settings(store: Store) -> None:
    study = definition(synthesis={"num_images": 1000})
    state = World().planner(study).state
    expected = {row.what: row.bytes_each for row in forecast_of(state, store).rows}
    generator = expected_bytes(study.base)["generation"]
    assert expected["generation"] == 1000 * 28 * 28 + generator + checkpoint_bytes(study.base)
    assert checkpoint_bytes(study.base) > 4 * generator  # which stays for longer generators to go on from
    assert expected["distillation"] == pytest.approx(4 * 0.08e6)
    planner = run(study, World())
    (student, *_) = (w for w in planner.state.tasks.values() if w.spec.kind is TaskKind.STUDENT and w.outcome)
    with store.writer("distillation", plan(student.spec.config)["distillation"].digest, {}) as attempt:
        attempt.path("student.safetensors").write_bytes(b"0" * 123_456)
        attempt.commit({})
    measured = {row.what: row.bytes_each for row in forecast_of(planner.state, store).rows}
    assert measured["distillation"] == 123_456


def test_students_that_share_their_images_and_seed_fill_the_cache_once(store: Store) -> None:
    assert forecast_of(World().planner(definition()).state, store).cache_bytes_left == 0
    worth = {"worth": [20, 40], "seeds": [1001, 1002]}
    study = definition(worth, {}, distillation={"view_bank": 160})
    planner = World().planner(study)
    # Two generators and, of each seed, the collection alone: four banks of 160 views, for ten students.
    assert forecast_of(planner.state, store).cache_bytes_left == 4 * bank_bytes(study.base)
    assert forecast_of(run(study, World()).state, store).cache_bytes_left == 0
    searched = definition({"seeds": [1001, 1002]}, distillation={"view_bank": 160})
    forecast = forecast_of(World().planner(searched).state, store)
    banks = forecast.num_generators + 2  # and of each fresh seed, the collection alone
    assert forecast.cache_bytes_left == banks * bank_bytes(searched.base), "of students that are not suggested yet"


def test_what_is_no_longer_asked_for_is_not_left_to_do(store: Store) -> None:
    world, study = World(), definition()
    run(study, world)
    world.planner(definition({"seeds": [1001, 1002, 1003]})).drain("Ctrl-C")
    planner = world.planner(study)
    assert planner.is_over()
    assert all(row.left.high == 0 for row in forecast_of(planner.state, store).rows)

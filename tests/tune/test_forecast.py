"""A plan counts what the study will build: never less, and nothing that stands already."""

from pathlib import Path
from typing import Any

import pytest

from hidfd.costs import Costs
from hidfd.stages import plan
from hidfd.store import Store
from tests.tune.world import SEARCH, World, definition
from tune.definition import Definition
from tune.forecast import forecast_of
from tune.local import run_local
from tune.state import StudyState

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
    return {row.what: row.count for row in forecast_of(state, store, Costs.of(store))}


def built(state: StudyState) -> dict[str, int]:
    """Distinct artifacts of what the study asked for."""
    stages = {(stage.name, stage.digest) for work in state.works.values() for stage in plan(work.piece.config).values()}
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


def test_what_stands_in_the_store_is_not_built_again(store: Store) -> None:
    state = World().planner(definition({"variants": {"a": {}}}, search={})).state
    (row,) = state.rows
    digest = plan(row.configs[0])["collection"].digest
    with store.attempt("collection", digest, {}) as attempt:
        attempt.path("images.parquet").write_text("")
        attempt.commit({})
    found = {row.what: (row.count, row.built) for row in forecast_of(state, store, Costs.of(store))}
    assert found == {"teacher": (1, 0), "collection": (1, 1), "generation": (1, 0), "distillation": (1, 0)}

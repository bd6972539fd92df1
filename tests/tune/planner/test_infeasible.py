"""Values that cannot be built: they end their own trial, and the study goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hidfd.errors import ConfigError
from hidfd.store.store import Store
from tests.tune.world import SEARCH, World, definition, run
from tune.planner.buildable import check_buildable
from tune.planner.snapshots import snapshot_of
from tune.study.definition import Definition
from tune.study.messages import TaskBlocked, TaskInfeasible
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task

SIZES = {"collection.num_images": {"type": "int", "low": 10, "high": 400}}


def too_many(task: Task) -> TaskInfeasible | None:
    asked = task.config.collection.num_images
    return TaskInfeasible(f"60 images, {asked} asked", 3) if asked > 200 else None


@pytest.mark.parametrize("sampler", ["tpe", "random", "stage-aware", "grid"])
def test_value_that_cannot_be_built_ends_its_trial_only_and_is_never_tried_again(sampler: str) -> None:
    search: dict[str, Any] = SIZES | {"distillation.inflation": SEARCH["distillation.inflation"]}
    if sampler == "grid":
        search = {"collection.num_images": {"type": "categorical", "choices": [50, 150, 250, 350]}}
    points = [{"collection.num_images": 50}, {"collection.num_images": 350}]
    given = {} if sampler == "grid" else {"points": points}
    study = definition({"sampler": sampler, "students_per_generator": 1} | given, search)
    world = World(failing=too_many)
    planner = run(study, world)
    trials = planner.state.search_trials
    assert planner.is_over()
    assert planner.blocking_failure is None
    assert len(trials) == study.limit
    ended = {s.number for s in trials if s.state is TaskState.INFEASIBLE}
    assert ended == {s.number for s in trials if s.params["collection.num_images"] > 200} > set()
    for number in ended:
        told = planner.state.ledger.history()[number]
        assert (told.state.name, told.value, told.constraints["feasible"]) == ("PRUNED", None, 1.0)
        assert "60 images" in (trials[number].reason or "")
    world.log.clear()
    assert run(study, world).is_over()
    assert world.log == [], "a second run tries nothing again"
    assert snapshot_of(planner.state).verdict is not None


def test_collection_that_all_students_need_still_blocks_the_study() -> None:
    world = World(failing=lambda task: TaskInfeasible("too few images", 3) if task.label == "collection-0" else None)
    planner = run(definition(), world)
    assert planner.blocking_failure == TaskBlocked("too few images", 3, None)
    assert run(definition(), World(storage=world.storage)).is_over(), "more images mend it"


def test_variant_that_cannot_be_built_is_a_row_without_numbers() -> None:
    variants = {"small": {}, "large": {"collection.num_images": 300}}
    planner = run(definition({"variants": variants, "seeds": [1, 2]}, search={}), World(failing=too_many))
    rows = {row.name: row for row in snapshot_of(planner.state).comparison_rows}
    assert planner.is_over()
    assert (rows["small"].num_complete, rows["large"].num_complete, rows["large"].means) == (2, 0, {})


def verdict_without(control: str, world: World, study: Definition) -> None:
    planner = run(study, world)
    snapshot = snapshot_of(planner.state)
    rows = {row.name: row for row in snapshot.comparison_rows}
    assert planner.is_over()
    assert (rows[control].num_complete, rows[control].means) == (0, {})
    assert snapshot.verdict is not None
    assert control not in snapshot.verdict


def test_control_that_cannot_be_built_is_a_row_without_numbers() -> None:
    def failing(task: Task) -> TaskInfeasible | None:
        is_control = task.label.endswith("real-only-seed1001")
        return TaskInfeasible("no images", 3) if is_control and task.spec.kind is TaskKind.STUDENT else None

    verdict_without("real-only", World(failing=failing), definition({"seeds": [1001]}))


def test_control_whose_settings_do_not_fit_together_is_a_row_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from tune.planner import comparison

    real = comparison.controls_of

    def controls_of(*arguments: Any) -> dict[str, dict[str, Any]]:
        return real(*arguments) | {"plain-kd": {"distillation.head": "own", "distillation.feature_weight": 1.0}}

    monkeypatch.setattr(comparison, "controls_of", controls_of)
    verdict_without("plain-kd", World(), definition({"seeds": [1001], "budget": {"wall_hours": 100}}))


def with_pool(folder: Path, count: int, study: dict[str, Any], search: dict[str, Any] | None) -> Definition:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((28, 28), number, np.uint8)).save(folder / f"{number}.png")
    data = {"candidates": {"path": str(folder), "sha256": "a" * 64}, "channels": 1, "image_size_pixels": 28}
    return definition(study, search, data=data, collection={"num_images": 10, "holdout_images": 20})


@pytest.mark.parametrize(
    ("count", "study", "search", "refused"),
    [
        (40, {}, {"collection.num_images": {"type": "int", "low": 5, "high": 20}}, None),
        (
            40,
            {},
            {"collection.num_images": {"type": "int", "low": 5, "high": 21}},
            r"num_images: 21: needs 41 .* has 40",
        ),
        (40, {}, {"collection.num_images": {"type": "categorical", "choices": [30, 5]}}, r"num_images: 30: needs 50"),
        (29, {}, None, r"^trial\.collection: needs 30 .* has 29"),
        (30, {}, None, None),
    ],
)
def test_plan_refuses_what_the_files_cannot_give(
    tmp_path: Path, count: int, study: dict[str, Any], search: dict[str, Any] | None, refused: str | None
) -> None:
    asked = with_pool(tmp_path / "photos", count, study, search)
    if refused is None:
        check_buildable(asked, Store.open(str(tmp_path / "store")))
        return
    with pytest.raises(ConfigError, match=refused):
        check_buildable(asked, Store.open(str(tmp_path / "store")))

"""The planner over a world without torch or time."""

from __future__ import annotations

import pytest

from hidfd.errors import ConfigError
from tests.tune.world import Silent, World, definition, run, summary
from tune.planner.snapshots import snapshot_of
from tune.study.definition import Definition
from tune.study.messages import ProgressReport, TaskFinished
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_study_builds_each_artifact_once(slots: int) -> None:
    world = World()
    planner = run(definition(), world, slots)
    assert planner.is_over()
    assert set(world.built.values()) == {1}
    assert len(planner.state.search_trials) == 6


def test_students_of_a_group_share_its_generator() -> None:
    world = World()
    planner = run(definition(), world)
    groups = [search_trial.group for search_trial in planner.state.search_trials]
    assert groups == [0, 0, 0, 3, 3, 3]
    upstream = planner.state.definition.space.upstream
    assert list(upstream) == ["generation.smoothing.temperature", "generation.generator_learning_rate"]
    for search_trial in planner.state.search_trials:
        leader = planner.state.search_trials[search_trial.group]
        assert all(search_trial.params[path] == leader.params[path] for path in upstream)
        assert search_trial.task_keys[:-1] == leader.task_keys[:-1]
    assert sum(label.startswith("generator") for label in world.log) == 3  # two for the search, one on a fresh seed


def test_student_waits_for_its_generator_and_other_task_goes_first() -> None:
    world = World()
    planner = world.planner(definition())
    first = planner.next_task(2)
    assert isinstance(first, Task)
    assert first.label == "collection-0"
    assert not isinstance(planner.next_task(1), Task)  # everything needs the collection
    assert len(planner.state.search_trials) == 1  # and nothing was suggested without knowing more
    planner.on_end(first, TaskFinished({}))
    labels = []
    for _ in range(2):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        labels.append(task.label)
    assert labels == ["generator-0", "generator-1"]


def test_best_is_run_again_on_a_fresh_seed_beside_its_controls() -> None:
    planner = run(definition({"controls": {"plain_kd_learning_rate": 0.2}}), World())
    assert [row.name for row in planner.state.comparison_rows] == ["hybrid", "real-only", "synthetic-only", "plain-kd"]
    best = planner.best
    assert best is not None
    configs = {row.name: row.configs[0] for row in planner.state.comparison_rows}
    for config in configs.values():
        assert config.seeds.generation == config.seeds.synthesis == config.seeds.distillation == 1001
        assert (config.seeds.teacher, config.seeds.collection) == (0, 0)
        assert config.distillation.target_images == 6400
    assert configs["hybrid"].distillation.inflation == best.params["distillation.inflation"]
    assert not configs["real-only"].uses_generator
    assert not configs["synthetic-only"].uses_real_images
    plain = configs["plain-kd"].distillation
    assert (plain.head, plain.feature_weight, plain.learning_rate) == ("own", 0.0, 0.2)
    students = [planner.state.tasks[key] for row in planner.state.comparison_rows for key in row.keys]
    assert all(task.rungs == () for task in students)
    assert all(task.outcome is not None and task.outcome.state is TaskState.COMPLETE for task in students)


def test_second_run_finds_everything_in_the_ledger() -> None:
    world = World()
    first = run(definition(), world)
    world.log.clear()
    second = world.planner(definition())
    assert second.is_over()
    assert summary(second) == summary(first)
    assert world.log == []


def test_more_seeds_add_only_what_is_new() -> None:
    world = World()
    run(definition(), world)
    world.log.clear()
    study = definition()
    more = definition({"seeds": study.study.with_num_seeds(2).seeds})
    planner = run(more, world)
    assert [len(row.keys) for row in planner.state.comparison_rows] == [2, 2, 2, 2]
    assert len(world.log) == 5  # one generator and four students
    assert all("1002" in label or label.startswith("generator") for label in world.log)


def test_pruned_student_stops_at_the_rung_and_says_against_whom() -> None:
    planner = run(definition(), World())
    pruned = [s for s in planner.state.search_trials if s.state is TaskState.PRUNED]
    assert pruned
    for search_trial in pruned:
        ((images, decision),) = search_trial.rungs.items()
        assert images == 3200
        assert not decision.kept
        assert 0 < decision.num_better <= decision.num_others
        task = planner.state.tasks[search_trial.task_keys[-1]]
        assert task.attempts[-1].images_to == 3200
        trial = planner.state.ledger.history()[search_trial.number]
        assert trial.intermediate_values == {3200: decision.value}


def test_report_told_twice_is_decided_once() -> None:
    world = World()
    planner = world.planner(definition())
    for label in ("collection-0", "generator-0"):
        task = planner.next_task(1)
        assert isinstance(task, Task)
        assert task.label == label
        planner.on_end(task, world.execute(task, Silent()))
    student = planner.next_task(1)
    assert isinstance(student, Task)
    planner.on_start(student, "here")
    report = ProgressReport("distillation", 3200, 6400, {"agreement": 0.5}, measured=True)
    assert planner.on_report(student.key, report) is None
    rungs = dict(planner.state.search_trials[0].rungs)
    assert (
        planner.on_report(student.key, ProgressReport("distillation", 3200, 6400, {"agreement": 0.1}, measured=True))
        is None
    )
    assert planner.state.search_trials[0].rungs == rungs


def test_changed_file_is_refused_with_the_difference() -> None:
    world = World()
    run(definition(), world)
    changed = definition(collection={"num_images": 50, "holdout_images": 200})
    with pytest.raises(ConfigError, match=r"trial\.collection\.num_images: 100 -> 50"):
        world.planner(changed)


def test_variants_are_refused_where_their_settings_have_changed() -> None:
    world, variants = World(), {"variants": {"a": {}, "b": {"distillation.inflation": 5.0}}}
    run(definition(variants, search={}), world)
    with pytest.raises(ConfigError, match=r"trial\.collection\.num_images: 100 -> 50"):
        world.planner(definition(variants, search={}, collection={"num_images": 50, "holdout_images": 200}))
    with pytest.raises(ConfigError, match=r"study\.variants\.b\.distillation\.inflation: 5\.0 -> 6\.0"):
        world.planner(definition({"variants": {"a": {}, "b": {"distillation.inflation": 6.0}}}, search={}))


def test_search_that_was_taken_out_of_the_file_is_refused_with_what_it_was() -> None:
    world = World()
    run(definition(), world)
    with pytest.raises(ConfigError, match=r"search\.distillation\.inflation: \{.* -> null"):
        world.planner(definition({"variants": {"a": {}}}, search={}))


def test_other_points_to_try_first_are_refused() -> None:
    world = World()
    run(definition({"points": [{"distillation.inflation": 5.0}]}), world)
    with pytest.raises(ConfigError, match=r"study\.points"):
        world.planner(definition({"points": [{"distillation.inflation": 6.0}]}))


def test_other_seeds_and_controls_go_on_with_the_same_search() -> None:
    world = World()
    before = summary(run(definition(), world))
    planner = run(definition({"seeds": [7, 8], "controls": {"plain_kd": False}}), world)
    assert summary(planner)["search_trials"] == before["search_trials"]
    assert {row.name for row in planner.state.comparison_rows} == {"hybrid", "real-only", "synthetic-only"}


def test_more_students_go_on_with_the_same_search() -> None:
    world = World()
    before = summary(run(definition(), world))
    planner = run(definition({"num_students": 9}), world)
    assert summary(planner)["search_trials"][:6] == before["search_trials"]
    assert len(planner.state.search_trials) == 9


def test_variants_run_in_full_on_every_seed() -> None:
    variants = {"hybrid": {}, "real-only": {"synthesis.num_images": 0}, "n50": {"collection.num_images": 50}}
    study = definition({"variants": variants, "seeds": [1, 2, 3]}, search={})
    world = World()
    planner = run(study, world, slots=2)
    assert planner.is_over()
    assert planner.state.search_trials == []
    assert [len(row.keys) for row in planner.state.comparison_rows] == [3, 3, 3]
    students = [task for task in planner.state.tasks.values() if task.spec.kind is TaskKind.STUDENT]
    assert {task.label for task in students} == {f"{name}-seed{seed}" for name in variants for seed in (1, 2, 3)}
    assert sum(label.startswith("generator") for label in world.log) == 6
    assert sum(label.startswith("collection") for label in world.log) == 2  # n50 has a collection of its own
    first_seed = [label for label in world.log if "seed" in label][:3]
    assert all(label.endswith("seed1") for label in first_seed)


def test_equal_search_trials_share_one_student() -> None:
    search = {"distillation.inflation": {"type": "categorical", "choices": [1.0, 10.0]}}
    world = World()
    planner = run(definition({"sampler": "random", "pruner": {"kind": "none"}}, search), world)
    assert len(planner.state.search_trials) == 6
    assert sum(label in ("trial-0", "trial-1", "trial-2", "trial-3") for label in world.log) <= 2
    by_value: dict[float, set[float | None]] = {}
    for search_trial in planner.state.search_trials:
        by_value.setdefault(search_trial.params["distillation.inflation"], set()).add(search_trial.value)
    assert all(len(values) == 1 for values in by_value.values())


def test_grid_walks_downstream_first_and_ends_when_it_is_used_up() -> None:
    search = {
        "distillation.inflation": {"type": "categorical", "choices": [1.0, 5.0, 10.0]},
        "generation.width": {"type": "int", "low": 8, "high": 16, "step": 8},
    }
    planner = run(definition({"sampler": "grid", "num_students": 50, "pruner": {"kind": "none"}}, search), World())
    assert len(planner.state.search_trials) == 6
    assert [search_trial.group for search_trial in planner.state.search_trials] == [0, 0, 0, 3, 3, 3]
    assert planner.is_over()


def test_equal_search_trials_count_once_at_a_rung() -> None:
    search = {"distillation.inflation": {"type": "categorical", "choices": [4.0, 5.0, 9.0]}}
    planner = run(definition({"sampler": "random", "num_students": 6, "seed": 4}, search), World())
    assert [s.params["distillation.inflation"] for s in planner.state.search_trials] == [9.0, 9.0, 9.0, 4.0, 5.0, 5.0]
    for search_trial in planner.state.search_trials:
        for decision in search_trial.rungs.values():
            assert decision.num_others <= 2
            assert len(set(decision.best)) == len(decision.best)


def test_given_points_are_tried_first_and_completed_by_the_sampler() -> None:
    points = [
        {"distillation.inflation": 7.0, "generation.smoothing.temperature": 2.0},
        {"distillation.inflation": 3.0},
        {"generation.smoothing.temperature": 1.0},
    ]
    planner = run(definition({"points": points}), World())
    first, second, third, fourth = planner.state.search_trials[:4]
    assert first.params["distillation.inflation"] == 7.0
    assert first.params["generation.smoothing.temperature"] == second.params["generation.smoothing.temperature"] == 2.0
    assert (second.params["distillation.inflation"], second.group) == (3.0, 0)
    assert (third.params["generation.smoothing.temperature"], third.group) == (1.0, 2)
    assert [s.point for s in planner.state.search_trials] == [0, 1, 2, None, None, None]
    assert "study.points[1]; shares the generator of trial 0" in second.why
    assert "suggested by TPE from 3 students" in fourth.why


def test_fresh_seed_gives_every_generator_a_seed_of_its_own() -> None:
    search = {"distillation.inflation": {"type": "float", "low": 1.0, "high": 20.0}}
    study = definition({"num_students": 6}, search | {"seeds.generation": {"type": "fresh_seed"}})
    planner = run(study, World())
    seeds = [planner.state.tasks[s.task_keys[-1]].spec.config.seeds.generation for s in planner.state.search_trials]
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4] == seeds[5]
    assert all("seeds.generation" not in search_trial.params for search_trial in planner.state.search_trials)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_conditional_parameter_is_left_out_where_it_is_off(sampler: str) -> None:
    search = {
        "generation.smoothing.mode": {"type": "categorical", "choices": ["inverse", "off"]},
        "generation.smoothing.temperature": {
            "type": "float",
            "low": 0.5,
            "high": 4.0,
            "when": {"generation.smoothing.mode": "inverse"},
        },
    }
    planner = run(definition({"sampler": sampler, "num_students": 12, "students_per_generator": 1}, search), World())
    assert planner.is_over()
    modes = {s.params["generation.smoothing.mode"] for s in planner.state.search_trials}
    assert modes == {"inverse", "off"}
    for search_trial in planner.state.search_trials:
        is_on = search_trial.params["generation.smoothing.mode"] == "inverse"
        assert ("generation.smoothing.temperature" in search_trial.params) == is_on


def finalists(count: int, seeds: tuple[int, ...] = (1001, 1002)) -> Definition:
    study = {"num_finalists": count, "seeds": seeds, "num_students": 8, "pruner": {"kind": "none"}}
    return definition(study | {"controls": {"synthetic_only": False, "plain_kd": False}})


def test_several_finalists_are_run_again_and_the_best_of_them_meets_its_controls() -> None:
    planner = run(finalists(3), World())
    roles = [row.role for row in planner.state.comparison_rows]
    assert roles == ["finalist", "finalist", "finalist", "control"]
    ranked = sorted(planner.state.search_trials, key=lambda s: -(s.value or 0))[:3]
    assert [row.name for row in planner.state.comparison_rows[:3]] == [f"trial-{s.number}" for s in ranked]
    snapshot = snapshot_of(planner.state)
    champion = max(snapshot.comparison_rows[:3], key=lambda row: row.means["agreement"])
    control = planner.state.comparison_rows[3]
    assert control.params["distillation.inflation"] == champion.params["distillation.inflation"]
    assert (snapshot.verdict or "").startswith(f"{champion.name} +")
    assert snapshot.finished


def test_controls_of_several_finalists_wait_until_the_best_is_known() -> None:
    world = World()
    run(finalists(2), world, slots=3)
    first_control = next(n for n, label in enumerate(world.log) if "real-only" in label)
    finalist_runs = [n for n, label in enumerate(world.log) if "seed100" in label and "real-only" not in label]
    assert len(finalist_runs) == 4
    assert max(finalist_runs) < first_control

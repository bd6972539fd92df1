"""Several objectives and constraints: which trial is best, a finalist, or champion, and what Optuna is told."""

from pathlib import Path
from typing import Any

import pytest

from hidfd.config import study_file as studyfile
from hidfd.errors import ConfigError
from tests.tune.sized import ARCHITECTURE, SIZES, TRADED_OFF, SizedWorld, sized
from tests.tune.world import World, definition, is_killed, run, summary
from tune.ledger.opening import open_ledger
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.report.champion import champion_of
from tune.study.config import StudyConfig
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState

SMALL = {"constraints": {"deployed_parameters": {"max": 200_000}}}


def section(tmp_path: Path, text: str) -> StudyConfig:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: s\nstudy:\n{text}\n")
    return studyfile.load(str(path)).section("study", StudyConfig)


def surpasses(one: SearchTrial, other: SearchTrial) -> bool:
    """Whether one student dominates another: nowhere worse, somewhere better."""
    assert one.value is not None
    assert other.value is not None
    pairs = [(one.value, other.value), (-one.further["deployed_parameters"], -other.further["deployed_parameters"])]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  further_objectives: {deployed_parameter: minimise}", "did you mean 'deployed_parameters'"),
        ("  further_objectives: {agreement: maximise}", "agreement is the objective already"),
        ("  further_objectives: {deployed_parameters: maximise}", "would look for the worst; expected minimise"),
        ("  further_objectives: {kl_to_teacher: minimize}", "did you mean 'minimise'"),
        ("  constraints: {latency: {max: 5}}", "study.constraints.latency"),
        ("  constraints: {latency_milliseconds: {}}", "study.constraints.latency_milliseconds: bounds nothing; give"),
        ("  constraints: {latency_milliseconds: {max: .nan}}", "expected a finite number|should be a finite number"),
        ("  constraints: {agreement: {min: 0.9, max: 0.8}}", r"min \(0.9\) must not be above max \(0.8\)"),
        ("  sampler: stage-aware\n  further_objectives: {deployed_parameters: minimise}", "follows one objective"),
        (
            "  further_objectives: {deployed_parameters: minimise, deployed_parameters: minimise}",
            "deployed_parameters: is given twice",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        section(tmp_path, text)
    assert "study.yaml:" in str(error.value)


def test_accuracy_needs_labels_wherever_it_decides() -> None:
    data = {"candidates": {"sha256": "a" * 64}, "channels": 1, "image_size_pixels": 28}
    with pytest.raises(ConfigError, match=r"study.constraints.validation_accuracy: needs labelled images"):
        definition({"constraints": {"validation_accuracy": {"min": 0.8}}}, data=data)


def test_sampler_that_is_not_named_is_one_that_can_follow_the_objectives(tmp_path: Path) -> None:
    assert section(tmp_path, "  objective: agreement").sampler == "stage-aware"
    assert section(tmp_path, "  further_objectives: {deployed_parameters: minimise}").sampler == "tpe"
    assert section(tmp_path, "  further_objectives: {}").sampler == "stage-aware"


def test_a_study_of_one_objective_is_what_it_was() -> None:
    """Ledgers of an older version go on only under an equal identity."""
    known = {"objective", "sampler", "seed", "startup_students", "students_per_generator", "pruner"}
    assert definition().identity()["study"].keys() == known


def test_other_objectives_and_constraints_are_another_search() -> None:
    world = SizedWorld()
    run(sized(3), world)
    for changed, difference in ((TRADED_OFF, "study.further_objectives"), (SMALL, "study.constraints")):
        with pytest.raises(ConfigError, match=difference):
            world.planner(sized(3, **changed))


def test_objectives_that_optuna_was_not_told_of_are_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.db")
    with open_ledger(place, "s", "agreement"):
        pass
    study = sized(**TRADED_OFF)
    with (
        open_ledger(place, "s", "agreement", further=study.study.further_objectives) as ledger,
        pytest.raises(ConfigError, match="was made for other objectives"),
    ):
        StudyState(study, ledger)


def test_the_best_is_the_best_of_those_that_keep_the_constraints() -> None:
    planner = run(sized(**SMALL), SizedWorld())
    state = planner.state
    kept = [s for s in state.search_trials if SIZES[s.params[ARCHITECTURE]] <= 200_000]
    assert 0 < len(kept) < len(state.search_trials)
    best = max(kept, key=lambda s: s.value or 0.0)
    assert best.value != max(s.value or 0.0 for s in state.search_trials), "else the constraint decides nothing"
    assert state.best is best
    assert state.comparison_rows[0].params == best.params
    for optuna_trial, search_trial in zip(state.ledger.history(), state.search_trials, strict=True):
        over = SIZES[search_trial.params[ARCHITECTURE]] / 200_000 - 1
        assert (optuna_trial.state.name, optuna_trial.value) == ("COMPLETE", search_trial.value)
        assert optuna_trial.constraints["feasible"] == pytest.approx(max(over, 0.0))


def test_tpe_learns_what_is_infeasible() -> None:
    study = sized(40, startup_students=8, constraints={"deployed_parameters": {"max": 100_000}})
    suggested = [s.params[ARCHITECTURE] for s in run(study, SizedWorld()).state.search_trials]
    free = [s.params[ARCHITECTURE] for s in run(sized(40, startup_students=8), SizedWorld()).state.search_trials]
    assert suggested[20:].count("resnet8") > 10 > free[20:].count("resnet8")


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_finalists_stand_on_the_pareto_front_best_first(sampler: str) -> None:
    state = run(sized(20, sampler=sampler, num_finalists=2, **TRADED_OFF), SizedWorld()).state
    distinct = list({s.task_keys[-1]: s for s in reversed(state.search_trials)}.values())  # equal ones share a student
    front = [s for s in distinct if not any(surpasses(other, s) for other in distinct)]
    assert len({s.params[ARCHITECTURE] for s in front}) == 3, "each size is worth something"
    snapshot = snapshot_of(state)
    assert snapshot.front == tuple(s.number for s in sorted(front, key=lambda s: -(s.value or 0.0)))
    assert snapshot.best == snapshot.front[0]
    named = [row.name for row in snapshot.comparison_rows if row.role == "finalist"]
    assert named == [f"trial-{number}" for number in snapshot.front[:2]]
    champion = champion_of(snapshot)
    assert champion is not None
    assert champion.row.means["agreement"] == max(
        row.means["agreement"] for row in snapshot.comparison_rows if row.role == "finalist"
    )


def test_optuna_knows_every_objective_and_no_value_on_the_way() -> None:
    """Values on the way would crash its TPE where there are several objectives; the rungs keep them."""
    study = sized(20, pruner={"kind": "asha"}, startup_students=4, **TRADED_OFF, **SMALL)
    state = run(study, SizedWorld()).state
    pruned = [s for s in state.search_trials if s.state is TaskState.PRUNED]
    assert pruned
    for optuna_trial, search_trial in zip(state.ledger.history(), state.search_trials, strict=True):
        assert not optuna_trial.intermediate_values
        if search_trial.state is TaskState.COMPLETE:
            assert optuna_trial.values == [search_trial.value, SIZES[search_trial.params[ARCHITECTURE]]]
        else:
            assert (optuna_trial.state.name, optuna_trial.values) == ("PRUNED", None)
    assert all(search_trial.rungs for search_trial in pruned)


def test_study_of_several_objectives_killed_before_any_ledger_write_equals_the_uninterrupted_one() -> None:
    study = sized(6, pruner={"kind": "asha"}, startup_students=3, num_finalists=2, **TRADED_OFF, **SMALL)
    expected = summary(run(study, SizedWorld()))
    at, broken = 0, SizedWorld()
    while is_killed(study, broken, at):
        again = run(study, broken)
        assert summary(again) == expected, f"killed before write {at}"
        assert set(broken.built.values()) == {1}
        assert [s.violation for s in again.state.search_trials if s.value is not None]
        at, broken = at + 5, SizedWorld()
    assert at > 50


def test_without_a_feasible_student_there_is_no_champion() -> None:
    planner = run(sized(4, constraints={"deployed_parameters": {"max": 10}}), SizedWorld())
    assert planner.is_over()
    snapshot = snapshot_of(planner.state)
    assert (snapshot.best, snapshot.comparison_rows, champion_of(snapshot)) == (None, (), None)
    assert {trial.state for trial in snapshot.trials} == {TaskState.COMPLETE}


def test_finalist_that_misses_a_constraint_on_fresh_seeds_is_no_champion() -> None:
    class Slow(SizedWorld):
        """A world in which trials of the search are fast, and the better finalist is slow."""

        def _finished(self, task: Any, *, reused: bool) -> Any:
            end = super()._finished(task, reused=reused)
            if task.role == "finalist" and task.label.startswith(f"trial-{first}-"):
                end.metrics["latency_milliseconds"] = 9.0
            return end

    bounded: dict[str, Any] = {"constraints": {"latency_milliseconds": {"max": 5}}, "num_finalists": 2}
    first, second = (
        int(row.name.removeprefix("trial-")) for row in run(sized(**bounded), SizedWorld()).state.comparison_rows[:2]
    )
    planner = run(sized(**bounded), Slow())
    champion = champion_of(snapshot_of(planner.state))
    assert champion is not None
    assert champion.row.name == f"trial-{second}"
    assert all(f"trial-{second}-" in label for row in planner.state.comparison_rows[2:] for label in row.labels), (
        "its controls"
    )
    alone = bounded | {"num_finalists": 1}
    assert champion_of(snapshot_of(run(sized(**alone), Slow()).state)) is None


def test_student_whose_latency_nobody_took_has_failed() -> None:
    planner = run(definition({"num_students": 1, "constraints": {"latency_milliseconds": {"max": 5}}}), World())
    (search_trial,) = planner.state.search_trials
    assert (search_trial.state, search_trial.reason) == (TaskState.FAILED, "its latency_milliseconds is not a number")

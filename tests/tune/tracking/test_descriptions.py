"""Notes on MLflow's pages: what a run is, its result, and the command that goes on."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune.snapshots import VARIANTS, study_snapshot
from tune.report.cautions import choice_in_words
from tune.report.champion import champion_of, numbers_in_words
from tune.report.commands import verb_command
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.descriptions import study_note, task_note


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("study"), study={"seeds": [1001, 1002]})


def test_note_of_a_finished_study_leads_from_the_verdict_to_the_promotion(whole: StudySnapshot) -> None:
    note, champion = study_note(whole), champion_of(whole)
    assert champion is not None
    assert note.startswith(f"**{whole.verdict}**")
    assert f"run `{champion.student.label}`: {numbers_in_words(champion)}" in note
    assert f"* **In the search and on fresh seeds**: {choice_in_words(whole)}" in note
    assert "one for each would have taken" in note
    assert f"τ = {whole.rank_agreement:.2f}" in note
    assert note.splitlines()[2] == "* **Next**: `python -m tune promote studies/fashion-small.yaml`"


def test_note_of_a_beaten_champion_does_not_lead_to_the_promotion(whole: StudySnapshot) -> None:
    gains = tuple(replace(gain, standing="lost", low=-0.3, high=-0.2, gain=-0.25) for gain in whole.gains)
    assert "* **Next**: `python -m tune report " in study_note(replace(whole, gains=gains))


def test_note_of_a_study_under_way_names_the_command_that_goes_on(tmp_path: Path) -> None:
    part = study_snapshot(tmp_path, rounds=22, folders=False)
    note = study_note(part)
    assert note.startswith("**Under way")
    assert f"`trial-{part.best}`" in note
    assert note.splitlines()[2] == f"* **Next**: `{part.command}`"


def test_note_of_variants_promises_no_champion(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, folders=False, study={"variants": VARIANTS, "seeds": [1, 2]}, search={})
    assert "promote" not in study_note(snapshot)
    assert "hybrid, real-only, synthetic-only" in study_note(snapshot)


def test_note_of_a_student_says_where_it_comes_from_and_how_it_ended(whole: StudySnapshot) -> None:
    pruned = next(task for task in whole.tasks if task.state is TaskState.PRUNED)
    note = task_note(pruned, whole)
    assert note.startswith(f"**{pruned.label}: pruned at {pruned.rungs[-1].images:,} images")
    assert f"suggested by the search as trial {pruned.trial}" in note
    assert "`distillation.inflation`" in note
    assert "stopped here" in note
    assert f"`python -m tune show studies/fashion-small.yaml {pruned.label}`" in note
    build = next(task for task in whole.tasks if task.kind is TaskKind.GENERATOR)
    assert "* **What**: A generator and its synthetic images.\n" in task_note(build, whole)
    control = next(task for task in whole.tasks if task.role == "control")
    assert "a control: it is compared with the best trial" in task_note(control, whole)


def test_another_verb_keeps_what_the_study_was_given_and_drops_what_only_run_takes(whole: StudySnapshot) -> None:
    command = "python -m tune run a.yaml study.num_students=3 --seeds 2 --store x --engine local --device cpu"
    given = replace(whole, command=command)
    assert verb_command("promote", given) == "python -m tune promote a.yaml study.num_students=3 --seeds 2 --store x"
    assert verb_command("show", given, "3").startswith("python -m tune show a.yaml 3 study.num_students=3")

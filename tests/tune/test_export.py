"""A study's champion, or a student that is named, is exported with the study's numbers, n and spread."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune.export
from hidfd.errors import ConfigError
from hidfd.formatting import percent_with_error
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from tests.tune.snapshots import VARIANTS, study_snapshot
from tests.tune.students import keep_student, keep_validation
from tests.tune.test_promote import SnapshotStudy, beaten
from tune.errors import StudyError
from tune.export import export, origin_of
from tune.inspection import words_of
from tune.report.champion import champion_of, config_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskState

Ask = Callable[..., argparse.Namespace]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("whole"), folders=False, study={"seeds": [1001, 1002, 1003]})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, whole: StudySnapshot) -> Store:
    """A store with the champion, and a student of the search."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    champion = champion_of(whole)
    assert champion is not None
    first = whole.task(finished_trial(whole)[1])
    assert first is not None
    for task in (champion.student, first):
        keep_student(store, config_of(task, whole))
    keep_validation(store, config_of(champion.student, whole))
    return store


def finished_trial(snapshot: StudySnapshot) -> tuple[str, str]:
    """Return number and key of a search trial with a finished student."""
    return next((str(t.number), str(t.key)) for t in snapshot.trials if t.state is TaskState.COMPLETE)


def digest_of(task: TaskSnapshot, snapshot: StudySnapshot) -> str:
    """Return the digest of a student's weights."""
    return plan(config_of(task, snapshot))["distillation"].digest


@pytest.fixture
def ask(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """A function that returns the options of `export` for a snapshot, and has the verb open it."""

    def options_for(snapshot: StudySnapshot, **given: Any) -> argparse.Namespace:
        definition: Any = SimpleNamespace(name=snapshot.name)
        file: Any = SimpleNamespace()
        study = SnapshotStudy(file, store, definition, kept=snapshot)
        monkeypatch.setattr(tune.export, "open_study_of", lambda options: study)
        to = str(tmp_path / "out")
        values = {"to": to, "format": "safetensors", "trial": None, "json": False} | given
        return argparse.Namespace(**values)

    return options_for


def test_champion_is_exported_with_mean_deviation_n_and_verdict(
    whole: StudySnapshot, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ask(whole))
    champion = champion_of(whole)
    assert champion is not None
    row, card = champion.row, (tmp_path / "out" / "README.md").read_text()
    over_seeds = percent_with_error(row.means["agreement"], row.deviations["agreement"])
    assert f"| agreement with the teacher | {over_seeds} | 3 |" in card
    assert f"**{whole.verdict}**" in card
    assert f"the student of seed {champion.student.seed}, whose value is the nearest to their mean" in card
    bundle = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert (bundle["study"], bundle["student"]) == (whole.name, champion.student.label)
    assert bundle["digest"] == digest_of(champion.student, whole)
    out = capsys.readouterr().out
    assert "checked: 9 validation images" in out
    assert "(tolerance " in out
    assert f"next: python -m hidfd predict {tmp_path}/out IMAGES" in out


def test_trial_that_is_named_is_exported_as_such(
    whole: StudySnapshot, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number, key = finished_trial(whole)
    task = whole.task(key)
    assert task is not None
    export(ask(whole, trial=number, json=True))
    assert json.loads(capsys.readouterr().out)["digest"] == digest_of(task, whole)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "which was picked by hand" in card
    assert "| agreement with the teacher | – | 1 |" in card
    assert str(whole.verdict) not in card


def test_finalist_that_is_named_has_the_numbers_of_its_seeds(whole: StudySnapshot) -> None:
    row = whole.comparison_rows[0]
    student = whole.task(row.keys[0])
    assert student is not None
    origin = origin_of(student, None, whole)
    assert (origin.num_seeds, origin.means) == (3, row.means)
    assert f"one of 3 of `{row.name}` on fresh seeds, which was picked by hand" in origin.remarks[0]


def test_champion_that_a_control_has_beaten_is_exported_and_that_is_said(
    whole: StudySnapshot, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ask(beaten(whole, "real-only")))
    assert "note: hybrid lost to real-only by 23.0 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("study", "search", "rounds", "words"),
    [
        ({}, None, 12, "it has not ended; it goes on with: python -m tune run"),
        ({"variants": VARIANTS, "seeds": [1, 2]}, {}, None, "it compares variants, and chooses none"),
    ],
)
def test_study_without_a_champion_names_the_students_that_it_has(
    study: dict[str, Any], search: Any, rounds: int | None, words: str, ask: Ask, tmp_path: Path
) -> None:
    snapshot = study_snapshot(tmp_path / "study", folders=False, study=study, search=search, rounds=rounds)
    with pytest.raises(StudyError, match=words) as refused:
        export(ask(snapshot))
    assert refused.value.exit_code == 9
    assert "--trial N; finished ones: " in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_student_is_refused(whole: StudySnapshot, ask: Ask) -> None:
    generator = next(task for task in whole.tasks if task.label.startswith("generator"))
    with pytest.raises(StudyError, match=f"{generator.label}: is no student; study .* has these: "):
        export(ask(whole, trial=generator.label))
    number, key = finished_trial(whole)
    tasks = tuple(replace(task, state=TaskState.PRUNED) if task.key == key else task for task in whole.tasks)
    with pytest.raises(StudyError, match="is no finished student"):
        export(ask(replace(whole, tasks=tasks), trial=number))
    with pytest.raises(ConfigError, match="has no such trial"):
        export(ask(whole, trial="999"))


def test_words_of_its_command_line_are_those_that_were_typed() -> None:
    typed = argparse.Namespace(
        verb_name="export", file="s.yaml", overrides=[], seeds=None, store=None, to="out", format="torch", trial="3"
    )
    program, file, rest = words_of(typed)
    assert (program[-1], file) == ("export", "s.yaml")
    assert rest == ["--to", "out", "--format", "torch", "--trial", "3"]
    typed.trial, typed.format = None, "onnx"
    assert words_of(typed)[2] == ["--to", "out"]

"""Verbs that read a study show it as it was last run, and need not be given the overrides of that run again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import tests.tune.world
import tune.inspection
import tune.opened_study
from tests.loading import loaded_by
from tests.tune.small_study import OTHER_TRIAL, READING, RUN, small_study, status
from tests.tune.world import World
from tune.__main__ import main
from tune.ledger.ledger import Ledger
from tune.study.messages import TaskBlocked

READING_LIGHTLY = tuple(verb for verb in READING if verb != ("report",))

HEAVY = ("matplotlib", "plotly", "psycopg", "torch", "torchvision", "ray", "mlflow")
"""Packages of which no verb needs one that reads an SQLite ledger and draws nothing."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def study_file(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    return small_study(world, tmp_path, monkeypatch, controls=controls)


@pytest.mark.parametrize("verb", READING, ids=lambda verb: verb[0])
def test_study_that_ran_with_overrides_is_read_without_them(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, *OTHER_TRIAL]) == 0
    capsys.readouterr()
    code = main([verb[0], "study.yaml", *verb[1:]])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "not started" not in said.out


@pytest.mark.parametrize("verb", [*READING_LIGHTLY, ("plan",)], ids=lambda verb: verb[0])
def test_verb_that_draws_nothing_loads_no_library_of_figures_servers_or_training(verb: tuple[str, ...]) -> None:
    assert main(list(RUN)) == 0
    words = [verb[0], "study.yaml", *verb[1:]]
    program = (
        "import contextlib, io\n"
        "from tune.__main__ import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()): assert main({words}) == 0"
    )
    assert loaded_by(program, *HEAVY) == set()


def test_what_is_shown_is_the_last_run_and_its_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, *OTHER_TRIAL]) == 0
    first = status(capsys)
    assert (first["finished"], first["num_students"]) == (True, 3)
    assert first == status(capsys, *OTHER_TRIAL)
    assert first["command"] == f"python -m tune run study.yaml {' '.join(OTHER_TRIAL)}"
    more = ("study.num_students=4", OTHER_TRIAL[1])
    assert main([*RUN, *more]) == 0
    assert status(capsys) == status(capsys, *more)


def test_seeds_of_the_last_run_are_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--seeds", "2"]) == 0
    found = status(capsys)
    assert [len(row["keys"]) for row in found["rows"]] == [2]
    assert found["command"] == "python -m tune run study.yaml --seeds 2"
    assert len(status(capsys, "--seeds", "1")["rows"][0]["keys"]) == 1, "where some are given, these count"


def test_watcher_follows_the_run_that_begins_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[int] = []

    class Clock:
        """A double of `time` by which somebody runs the study while the watcher sleeps."""

        def sleep(self, seconds: float) -> None:
            runs.append(main([*RUN, *OTHER_TRIAL]))

    monkeypatch.setattr(tune.inspection, "time", Clock())
    assert main(["status", "study.yaml", "--watch"]) == 0
    assert runs == [0]
    assert "3 of 3 students of the search" in capsys.readouterr().out


def test_overrides_that_are_given_count_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "study.num_students=3"]) == 0
    found = status(capsys, "study.concurrency=2")
    assert found["num_students"] == 2, "as the file has it"


def test_override_that_says_where_the_ledger_is_leaves_the_others_remembered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*RUN, "storage.ledger=other.db", *OTHER_TRIAL]) == 0
    found = status(capsys, "storage.ledger=other.db")
    assert (found["finished"], found["num_students"]) == (True, 3)
    assert found["command"] == f"python -m tune run study.yaml {' '.join(OTHER_TRIAL)} storage.ledger=other.db"
    assert status(capsys)["trials"] == [], "the file's own ledger knows nothing of it"


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_run_and_its_plan_keep_to_what_they_are_given(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, *OTHER_TRIAL]) == 0
    assert main([verb, "study.yaml"]) == 2
    said = capsys.readouterr().err
    assert "was begun with other settings" in said
    assert "trial.distillation.momentum" in said


def test_ledger_that_does_not_say_how_it_was_run_is_read_by_the_file_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ledger, "set_run_arguments", lambda *given: None)
    assert main([*RUN, "study.num_students=3"]) == 0
    assert status(capsys)["num_students"] == 2
    assert status(capsys, "study.num_students=3")["num_students"] == 3


def test_file_that_the_remembered_overrides_do_not_fit_any_more_leaves_the_ledger_readable(
    study_file: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "search.distillation.inflation.high=30"]) == 0
    tree = yaml.safe_load(study_file.read_text())
    tree["search"]["distillation.inflation"] = {"type": "categorical", "choices": [1, 2]}
    study_file.write_text(yaml.safe_dump(tree))
    assert status(capsys)["config"]["search"]["distillation.inflation"]["high"] == 30
    (said,) = caplog.messages
    assert "the study file differs now (search.distillation.inflation" in said


def test_error_that_the_user_has_to_mend_keeps_its_exit_code_and_message(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.failing = lambda task: TaskBlocked("the disk is full", 4)
    assert main(RUN) == 4
    said = capsys.readouterr()
    assert said.err.endswith("error: the disk is full\n")
    event = json.loads(said.out.splitlines()[-1])
    assert (event["event"], event["error"], event["exit_code"]) == ("error", "the disk is full", 4)


def test_overrides_of_pods_stay_out_of_the_ledger() -> None:
    assert main([*RUN, "cluster.environment.TOKEN=hunter2"]) == 0
    assert b"hunter2" not in Path(".hidfd/ledger.db").read_bytes()


def test_mistake_in_the_file_is_said_before_a_ledger_that_cannot_be_opened(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(study_file.read_text())
    tree["trial"]["generation"] = {"width": -1}
    study_file.write_text(yaml.safe_dump(tree))
    Path("broken.db").write_text("no database")
    assert main(["status", "study.yaml", "storage.ledger=broken.db"]) == 2
    assert "trial.generation.width" in capsys.readouterr().err


def test_material_of_the_last_run_that_is_not_here_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) == 0
    gone = {"overrides": ["trial.data.candidates={path: gone}"], "seeds": None}
    monkeypatch.setattr(tune.opened_study, "run_arguments_of", lambda *given: gone)
    assert status(capsys)["num_students"] == 2
    assert "do not fit any more" in caplog.text
    assert "path: gone" in caplog.text


def test_one_of_anything_is_one_in_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    one = ("study.num_students=1", "study.students_per_generator=1", "resources.cpus_per_worker=99999")
    for words in (
        ("plan", "study.yaml", *one),
        ("run", "study.yaml", "--engine", "local", *one),
        ("forget", "study.yaml"),
    ):
        assert main(list(words)) == 0
    for verb in READING:
        assert main([verb[0], "study.yaml", *verb[1:]]) == 0
    printed = "".join(capsys.readouterr())
    assert "1 student" in printed
    many = r"students|trials|tasks|generators|others|artifacts|runs|CPUs|GPUs|parameters|seeds|teachers|collections"
    assert not re.findall(rf"(?<![\d.,])1 (?:[a-z]+ )?(?:{many})\b.*", printed)
    assert not re.findall(r"(?<![\d.,])1 [a-z]+ (?:are|have|were|use|ask|go)\b.*", printed)


def test_run_whose_champion_lost_to_a_control_leads_to_the_control_and_not_to_the_promotion(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tests.tune.world.quality
    monkeypatch.setattr(
        tests.tune.world, "quality", lambda task: real(task) + (0.0 if task.spec.config.uses_generator else 0.2)
    )
    assert main(["run", "study.yaml", "--engine", "local", "--seeds", "2", "study.controls.real_only=true"]) == 0
    said = capsys.readouterr().out
    assert "verdict: hybrid lost to real-only by " in said
    assert "next: python -m tune show study.yaml trial-0-real-only-seed1001 " in said
    assert main(["promote", "study.yaml"]) == 9
    assert "hybrid lost to real-only by " in capsys.readouterr().err
    assert [gain["standing"] for gain in status(capsys)["gains"]] == ["lost"]

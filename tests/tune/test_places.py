"""Where a study lies (its ledger, its store, its results) is said, remembered and found again, and never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tune.driver
import tune.inspection
import tune.opened_study
from hidfd.store import locks
from tests.tune.small_study import READING, RUN, small_study, status
from tests.tune.world import World
from tune.__main__ import main


@pytest.fixture(autouse=True)
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    return small_study(World(), tmp_path, monkeypatch, controls=controls)


@pytest.mark.parametrize("change", ["deleted", "moved", "replaced"])
def test_watcher_whose_ledger_goes_away_says_so_and_ends(
    change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "storage.ledger=other.db", "storage.results=elsewhere", "--adopt"]) == 0
    assert main([*RUN, "--adopt"]) == 0
    ledger = Path(".hidfd/ledger.db")
    changes = {
        "deleted": ledger.unlink,
        "moved": lambda: ledger.rename("away.db"),
        "replaced": lambda: Path("other.db").replace(ledger),
    }

    class Clock:
        """A double of `time` by which the ledger goes away while the watcher sleeps."""

        def sleep(self, seconds: float) -> None:
            changes[change]()

    monkeypatch.setattr(tune.inspection, "time", Clock())
    monkeypatch.setattr(tune.opened_study.Study, "holder", lambda study: "process 7 on elsewhere")
    assert main(["status", "study.yaml", "--watch"]) == 7
    assert "does not have the study any more" in capsys.readouterr().err


def test_ledger_that_is_gone_while_a_driver_runs_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) == 0
    Path(".hidfd/ledger.db").unlink()
    monkeypatch.setattr(locks, "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(tune.opened_study.Study, "holder", lambda study: "process 7 on elsewhere")
    assert main(["status", "study.yaml"]) == 7
    assert "the ledger is not there, although process 7 on elsewhere runs the study" in capsys.readouterr().err


def test_places_of_the_last_run_are_remembered_but_for_its_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "storage.results=elsewhere", "--store", "mystore"]) == 0
    found = status(capsys)
    assert found["folder"] == "elsewhere/s"
    assert found["command"] == "python -m tune run study.yaml storage.results=elsewhere --store mystore"


@pytest.mark.parametrize("verb", [*READING, ("open",), ("promote",), ("forget",)], ids=lambda verb: verb[0])
@pytest.mark.parametrize("here", ["..", "below"])
def test_verb_given_in_another_folder_says_where_the_study_was_run(
    verb: tuple[str, ...],
    here: str,
    study_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(list(RUN)) == 0
    folder, file = study_file.parent, "../study.yaml"
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / here)
    if here == "..":
        file = f"{folder.name}/study.yaml"
    capsys.readouterr()
    assert main([verb[0], file, *verb[1:]]) == 7
    said = capsys.readouterr().err
    assert f"but in {folder}/.hidfd/ledger.db" in said
    assert f"cd {folder} && python -m tune {' '.join([verb[0], 'study.yaml', *verb[1:]])}" in said


def test_study_that_was_run_above_its_file_is_found_from_beside_it(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (study_file.parent / "studies").mkdir()
    study_file.rename(study_file.parent / "studies" / "study.yaml")
    assert main(["run", "studies/study.yaml", *RUN[2:]]) == 0
    monkeypatch.chdir(study_file.parent / "studies")
    assert main(["status", "study.yaml"]) == 7
    assert f"cd {study_file.parent} && python -m tune status studies/study.yaml" in capsys.readouterr().err


def run_and_go_below(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the study beside its file, then go into a folder below."""
    assert main(list(RUN)) == 0
    (study_file.parent / "below").mkdir()
    monkeypatch.chdir(study_file.parent / "below")


def test_run_in_another_folder_begins_nothing_anew_unless_the_ledger_is_named(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_go_below(study_file, monkeypatch)
    capsys.readouterr()
    assert main(["run", "../study.yaml", "--engine", "local", "--seeds", "2"]) == 7
    said = capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []
    assert f"cd {study_file.parent} && python -m tune run study.yaml --seeds 2 --engine local" in said
    anew = said.rpartition("to begin it anew here: python -m tune ")[2].split()
    assert main([*anew, "--json"]) == 0
    assert Path(".hidfd/ledger.db").is_file()


def test_plan_in_another_folder_says_that_it_would_begin_anew(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_go_below(study_file, monkeypatch)
    capsys.readouterr()
    assert main(["plan", "../study.yaml"]) == 0
    assert "this would begin anew: study 's' is not in the ledger" in capsys.readouterr().out


def test_study_of_another_name_in_a_ledger_above_is_not_taken_for_this_one(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "name=another"]) == 0
    (study_file.parent / "below").mkdir()
    monkeypatch.chdir(study_file.parent / "below")
    assert main(["status", "../study.yaml"]) == 0
    assert "not started" in capsys.readouterr().out


def test_plan_and_run_print_where_everything_lies(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study_file.parent / ".hidfd"
    assert main(["plan", "study.yaml"]) == 0
    planned = capsys.readouterr().out
    assert main(["run", "study.yaml", "--engine", "local", "--seeds", "1"]) == 0
    ran = capsys.readouterr().err
    places = {
        "store": f"{folder}/store",
        "ledger": f"{folder}/ledger.db",
        "tracking": f"sqlite:///{folder}/mlflow.db",
        "results": f"{folder}/results",
        "cache": f"{folder}/store/cache",
    }
    for name, place in places.items():
        assert f"{name}: {place}\n" in planned
        assert f"{name} {place}" in ran


def test_plan_names_every_path_that_is_missing_or_not_writable_at_once(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("trial.data.candidates={path: no-photos}", "trial.teacher.checkpoint={path: no-teacher.pt}")
    places = ("storage.store=study.yaml/store", "storage.results=study.yaml", "storage.ledger=study.yaml/ledger.db")
    assert main(["plan", "study.yaml", *wrong, *places]) == 3
    said = capsys.readouterr().err
    for words in ("no-photos", "no-teacher.pt", "storage.store", "storage.results", "storage.ledger"):
        assert words in said
    assert main(["plan", "study.yaml", "storage.results=study.yaml"]) == 4
    assert list(study_file.parent.iterdir()) == [study_file]


def test_ledger_that_is_gone_after_its_last_write_is_not_called_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tune.driver._run

    def run_and_lose(*given: Any) -> None:
        real(*given)
        Path(".hidfd/ledger.db").unlink()

    monkeypatch.setattr(tune.driver, "_run", run_and_lose)
    assert main(RUN) == 7
    said = capsys.readouterr()
    assert "the ledger was deleted" in said.err
    assert '"finished"' not in said.out.splitlines()[-1]
    assert not Path(".hidfd/results/s/index.html").exists()

"""Verbs that read a study show it as it was last run, and need not be given the overrides of that run again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

import tests.tune.world
import tune.driver
import tune.inspection
import tune.opened_study
import tune.report.search_figures
from hidfd.store import locks
from tests.loading import loaded_by
from tests.tune.world import SEARCH, World, trial
from tune.__main__ import main
from tune.ledger.ledger import Ledger
from tune.study.messages import Channel, TaskBlocked, TaskEnd
from tune.study.task import Task

RUN = ("run", "study.yaml", "--engine", "local", "--json")

OTHER_TRIAL = ("study.num_students=3", "trial.distillation.momentum=0.5")
"""Overrides of which the second makes another study of it."""

READING = (("status",), ("show", "0"), ("explain", "0"), ("report",), ("stop",))

READING_LIGHTLY = tuple(verb for verb in READING if verb != ("report",))

HEAVY = ("matplotlib", "plotly", "psycopg", "torch", "torchvision", "ray", "mlflow")
"""Packages of which no verb needs one that reads an SQLite ledger and draws nothing."""


class NoTracking:
    """A projection to no MLflow."""

    error = None

    def __init__(self, tracker: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def offer(self, snapshot: Any) -> None:
        pass

    def finish(self, snapshot: Any, store: Any) -> None:
        pass


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def study_file(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`study.yaml` over a world without torch, in the working folder."""
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    tree = {
        "name": "s",
        "trial": trial().model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "study": {"num_students": 2, "startup_students": 2, "sampler": "random", "controls": controls},
        "search": SEARCH,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))

    def perform(task: Task, context: Any, channel: Channel) -> TaskEnd:
        return world.execute(task, channel)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune.driver, "perform", perform)
    monkeypatch.setattr(tune.driver, "_import_materials", lambda *given: None)
    monkeypatch.setattr(tune.driver, "BackgroundTracker", NoTracking)
    monkeypatch.setattr(tune.report.search_figures, "write_study_figures", lambda *given: None)
    return tmp_path / "study.yaml"


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", "study.yaml", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


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


def test_places_of_the_last_run_are_remembered_but_for_its_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "storage.results=elsewhere", "--store", "mystore"]) == 0
    found = status(capsys)
    assert found["folder"] == "elsewhere/s"
    assert found["command"] == "python -m tune run study.yaml storage.results=elsewhere --store mystore"


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


@pytest.mark.parametrize("verb", [*READING, ("promote",), ("forget",)], ids=lambda verb: verb[0])
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


def test_run_in_another_folder_begins_nothing_anew_unless_the_ledger_is_named(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(RUN)) == 0
    (study_file.parent / "below").mkdir()
    monkeypatch.chdir(study_file.parent / "below")
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
    assert main(list(RUN)) == 0
    (study_file.parent / "below").mkdir()
    monkeypatch.chdir(study_file.parent / "below")
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

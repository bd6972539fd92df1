"""A whole study by its command line: both engines, Ctrl-C, kills, and the verbs that look at it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

import hidfd.trial
import tune.inspection
from hidfd.config.schema import TrialConfig
from hidfd.errors import InputError
from hidfd.store.store import Store
from hidfd.trial import import_all
from tests.integration.conftest import Outcome, Workplace, tiny_study
from tune.ledger.opening import database_at
from tune.opened_study import open_study

LOCAL = ("run", "study.yaml", "--engine", "local")


@pytest.fixture
def study(tiny: Workplace) -> Workplace:
    """A study of three students over two generators, then the best one beside its controls."""
    tree = tiny_study()
    tree["study"] = {
        "sampler": "tpe",
        "num_students": 3,
        "students_per_generator": 2,
        "startup_students": 2,
        "concurrency": 2,
    }
    tree["search"] = {
        "distillation.inflation": {"type": "float", "low": 1, "high": 10},
        "generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4},
    }
    tiny.write(tree)
    return tiny


@pytest.fixture
def short(study: Workplace) -> None:
    """Makes it a study of two students, with nothing beside the best one: a third of the time."""
    tree = yaml.safe_load((study.folder / "study.yaml").read_text())
    tree["study"] |= {"num_students": 2, "controls": {"real_only": False, "synthetic_only": False, "plain_kd": False}}
    study.write(tree)


def results(study: Workplace) -> dict[str, Any]:
    """Return all that a study found, from `status --json`, without times."""
    snapshot = json.loads(study.run("tune", "status", "study.yaml", "--json").stdout)
    return {
        "finished": snapshot["finished"],
        "verdict": snapshot["verdict"],
        "trials": [(trial["params"], trial["state"], trial["value"]) for trial in snapshot["trials"]],
        "works": {task["label"]: (task["key"], task["state"], task["metrics"]) for task in snapshot["works"]},
    }


def started(study: Workplace, *arguments: str) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tune", *arguments],
        cwd=study.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(study: Workplace, artifact: str, process: subprocess.Popen[str]) -> None:
    """Wait until the store has an artifact of a stage."""
    until = time.monotonic() + 120
    while not list((study.folder / ".hidfd" / "store" / artifact).glob("*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_study_runs_on_ray_and_once_more_from_the_store_alone(study: Workplace) -> None:
    first = study.run_process("tune", "run", "study.yaml")
    assert first.returncode == 0, first.stderr
    for words in ("over real-only", "CPU-seconds: ", "report: .hidfd/results/tiny/report.html", "MLflow: "):
        assert words in first.stdout, first.stdout
    assert "generator-0: started" in first.stderr
    found = results(study)
    assert found["finished"]
    assert len(found["trials"]) == 3

    again = study.run_process("tune", "run", "study.yaml", RAY_ADDRESS="127.0.0.1:1")  # where no Ray can be had
    assert again.returncode == 0, again.stderr
    assert "everything was there already; nothing was run" in again.stdout
    assert results(study) == found

    client = mlflow.MlflowClient(f"sqlite:///{study.folder}/.hidfd/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + len(found["works"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if run.data.tags["kind"] == "study")
    artifacts = [file.path for file in client.list_artifacts(parent.info.run_id)]
    assert artifacts == ["figures", "figures.html", "report.html"]


@pytest.mark.slow
def test_watcher_reads_lines_and_at_the_end_the_test_labels_were_opened_once(study: Workplace) -> None:
    test_split = "trial.data.test.path=tested"
    shutil.copytree(study.folder / "held", study.folder / "tested")
    run = study.run("tune", *LOCAL, test_split, "--json")
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("study_started", "study_ended")
    assert [len(line["students"]) for line in lines if line["event"] == "test_labels_opened"] == [4]
    document = lines[-1]["document"]
    assert all(0 <= row["means"]["test_accuracy"] <= 1 for row in document["rows"])
    store = study.folder / ".hidfd" / "store"
    label = f"{document['openings'][0]['students'][0]}-test"
    opened = study.run("tune", "show", "study.yaml", label, test_split)
    assert "test_accuracy" in opened.stdout
    assert "report:" not in opened.stdout, "a test evaluation has no folder"
    assert len(list(store.glob("opening/*/manifest.json"))) == 4
    again = study.run("tune", *LOCAL, test_split)
    assert "test accuracy" in again.stdout
    assert "The test labels were opened once" in again.stdout
    assert len(list(store.glob("opening/*/manifest.json"))) == 4
    shutil.rmtree(study.folder / ".hidfd" / "results")
    assert study.run("tune", "report", "study.yaml", test_split).returncode == 0
    refused = study.run("tune", *LOCAL, "study.budget.money=1", "--json")
    (line,) = map(json.loads, refused.stdout.splitlines())
    assert (line["event"], line["exit_code"], refused.returncode) == ("error", 2, 2)


@pytest.mark.slow
def test_best_student_is_promoted_under_a_name(study: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert study.run("tune", *LOCAL).returncode == 0
    promoted = json.loads(study.run("tune", "promote", "study.yaml", "--json").stdout)
    assert (promoted["name"], promoted["version"], promoted["is_new"]) == ("tiny", "1", True)
    again = study.run("tune", "promote", "study.yaml").stdout
    assert "tiny version 1 already was" in again
    assert 'mlflow.pytorch.load_model("models:/tiny@champion")' in again
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/.hidfd/mlflow.db")
    assert mlflow.pytorch.load_model("models:/tiny@champion")(torch.rand(5, 1, 28, 28)).shape == (5, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_study_killed_at_any_stage_ends_as_the_uninterrupted_one(study: Workplace, tmp_path: Path) -> None:
    for stage in ("collection", "synthesis", "distillation", "evaluation"):
        process = started(study, *LOCAL)
        wait_for(study, stage, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert study.run("tune", *LOCAL).returncode == 0
    interrupted = results(study)
    elsewhere = ("storage.results=other/results", f"storage.tracking=sqlite:///{tmp_path}/other/mlflow.db")
    places = {"HIDFD_STORE": str(tmp_path / "other"), "HIDFD_LEDGER": str(tmp_path / "other.db")}
    whole = study.run("tune", *LOCAL, *elsewhere, **places)
    assert whole.returncode == 0, whole.stderr
    os.environ["HIDFD_LEDGER"] = str(tmp_path / "other.db")
    try:
        assert results(study) == interrupted
    finally:
        del os.environ["HIDFD_LEDGER"]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "name"), [("local", "SIGTERM"), ("ray", "Ctrl-C")])
@pytest.mark.usefixtures("short")
def test_first_ctrl_c_saves_says_so_and_names_the_command(study: Workplace, engine: str, name: str) -> None:
    process = started(study, "run", "study.yaml", "--engine", engine)
    wait_for(study, "collection", process)
    if name == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and all that it started
    else:
        process.terminate()  # as Kubernetes does
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert f"{name}: saving, then stopping" in errors
    assert "nothing is lost" in errors
    assert f"goes on with: python -m tune run study.yaml --engine {engine}" in errors
    client = mlflow.MlflowClient(f"sqlite:///{study.folder}/.hidfd/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    stopped = client.search_runs([experiment.experiment_id])
    assert "KILLED" in {run.info.status for run in stopped} <= {"FINISHED", "KILLED"}, "none seems to run"
    assert study.run("tune", *LOCAL).returncode == 0
    assert results(study)["finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_stop_from_another_terminal_saves_what_runs_and_is_forgotten_by_the_next_run(study: Workplace) -> None:
    process = started(study, "run", "study.yaml", "--engine", "local")
    wait_for(study, "collection", process)
    asked = study.run("tune", "stop", "study.yaml")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "stop` by" in output + errors
    assert "nothing is lost" in errors
    assert asked.returncode == 0, asked.stderr
    assert f"asked process {process.pid} on" in asked.stdout
    assert "nobody runs it" in asked.stdout
    assert study.run("tune", *LOCAL).returncode == 0
    assert results(study)["finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_stop_now_ends_the_driver_at_once_and_the_same_command_goes_on(study: Workplace) -> None:
    process = started(study, "run", "study.yaml", "--engine", "local")
    wait_for(study, "collection", process)
    assert study.run("tune", "stop", "study.yaml", "--now").returncode == 0
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGTERM
    assert study.run("tune", *LOCAL).returncode == 0
    assert results(study)["finished"]


def test_stop_is_heard_during_an_import(study: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_meanwhile(*given: Any) -> TrialConfig:
        opened = open_study("study.yaml")
        holder = opened.holder()
        assert holder is not None
        opened.ask_to_stop(holder, now=False)
        return import_all(*given)

    monkeypatch.setattr(hidfd.trial, "import_all", asked_meanwhile)
    done = study.run("tune", *LOCAL)
    assert done.returncode == 130, done.stderr
    assert "`tune stop` by" in done.stderr
    assert not list((study.folder / ".hidfd" / "store" / "import").glob("*/manifest.json")), "it ended there and then"


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_forgotten_study_leaves_what_others_need_and_can_be_run_anew(study: Workplace) -> None:
    tracking = f"storage.tracking=sqlite:///{study.folder}/mlflow.db"  # MLflow keeps what it opened by a relative path
    assert study.run("tune", *LOCAL, tracking).returncode == 0
    assert study.run("hidfd", "run", "study.yaml", "--until", "collection").returncode == 0
    before = results(study)
    counted = study.run("tune", "forget", "study.yaml", tracking)
    assert counted.returncode == 0, counted.stderr
    assert "nothing is deleted yet" in counted.stdout
    assert f"next: python -m tune forget study.yaml {tracking} --yes" in counted.stdout
    assert results(study) == before
    forgotten = json.loads(study.run("tune", "forget", "study.yaml", "--yes", "--json", tracking).stdout)
    assert forgotten["num_works"] == len(before["works"])
    assert forgotten["num_runs"] == len(before["works"]) + 1
    assert "not started" in study.run("tune", "status", "study.yaml").stdout
    left = {path.parent.parent.name for path in (study.folder / ".hidfd" / "store").glob("*/*/manifest.json")}
    assert left == {"import", "teacher", "teacher_check", "collection"}, "what another trial refers to"
    assert json.loads(study.run("tune", "forget", "study.yaml", "--yes", "--json", tracking).stdout)["num_works"] == 0
    assert study.run("tune", *LOCAL, tracking).returncode == 0
    assert results(study)["trials"] == before["trials"]


def test_second_driver_is_told_who_runs_the_study_and_how_to_watch_it(
    study: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[Outcome] = []

    def meanwhile(*given: Any) -> TrialConfig:
        second.append(study.run("tune", *LOCAL, "study.concurrency=1"))
        raise KeyboardInterrupt

    monkeypatch.setattr(hidfd.trial, "import_all", meanwhile)
    with contextlib.suppress(KeyboardInterrupt):
        study.run("tune", *LOCAL)
    (refused,) = second
    assert refused.returncode == 8
    assert f"study 'tiny' is run by process {os.getpid()} on " in refused.stderr
    assert "watch it with: python -m tune status study.yaml study.concurrency=1 --watch" in refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_watch_waits_for_a_study_that_nobody_has_started(study: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Outcome] = []

    class Clock:
        """A double of `time` by which somebody runs the study while the watcher sleeps."""

        def sleep(self, seconds: float) -> None:
            runs.append(study.run("tune", *LOCAL))

    monkeypatch.setattr(tune.inspection, "time", Clock())
    watched = study.run("tune", "status", "study.yaml", "--watch")
    assert watched.returncode == 0
    assert [run.returncode for run in runs] == [0]
    assert "tiny: not started; waiting until somebody runs: python -m tune run study.yaml" in watched.stderr
    assert "2 of 2 students of the search" in watched.stdout


def test_driver_may_wait_for_the_end_of_the_one_that_it_replaces(
    study: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_study(str(study.folder / "study.yaml"))
    held = ExitStack()
    held.enter_context(database_at(str(study.folder / ".hidfd" / "ledger.db")).lock(opened.definition.name))
    real = time.sleep

    def sleep(seconds: float) -> None:
        held.close()
        real(seconds)

    monkeypatch.setattr(hidfd.trial, "import_all", lambda *given: (_ for _ in ()).throw(InputError("it has begun")))
    assert study.run("tune", *LOCAL).returncode == 8, "without --wait"
    monkeypatch.setattr("time.sleep", sleep)
    done = study.run("tune", *LOCAL, "--wait")
    assert done.returncode == InputError.exit_code, done.stderr
    assert f"waiting for the end of process {os.getpid()} on" in done.stderr
    assert "it has begun" in done.stderr


def test_local_engine_refuses_several_processes(study: Workplace) -> None:
    done = study.run("tune", *LOCAL, "resources.num_workers=2")
    assert done.returncode == 2
    assert "resources.num_workers: 2, but --engine local runs every task in this one process" in done.stderr


def test_stop_of_a_study_that_nobody_runs_says_so(study: Workplace) -> None:
    done = study.run("tune", "stop", "study.yaml")
    assert done.returncode == 0, done.stderr
    assert "nobody runs it" in done.stdout
    assert "next: python -m tune run study.yaml" in done.stdout


@pytest.mark.slow
def test_ray_cluster_that_does_not_answer_is_one_clear_message(study: Workplace) -> None:
    done = study.run_process("tune", "run", "study.yaml", RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 10, done.stderr
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_study_is_told_before_while_and_after_it_runs(study: Workplace) -> None:
    plan = study.run("tune", "plan", "study.yaml")
    assert plan.returncode == 0, plan.stderr
    planned = json.loads(study.run("tune", "plan", "study.yaml", "--json").stdout)
    assert planned["concurrency"] == 2
    assert planned["seconds"] > 0
    assert planned["command"] == "python -m tune run study.yaml"
    counts = {row["what"]: (row["count"], row["built"]) for row in planned["stages"]}
    assert counts == {"teacher": (1, 0), "collection": (1, 0), "generation": (3, 0), "distillation": (7, 0)}
    assert "not started" in study.run("tune", "status", "study.yaml").stdout
    assert not (study.folder / ".hidfd" / "ledger.db").exists()

    assert study.run("tune", *LOCAL).returncode == 0

    counts = {
        row["what"]: row["count"] - row["built"]
        for row in json.loads(study.run("tune", "plan", "study.yaml", "--json").stdout)["stages"]
    }
    assert set(counts.values()) == {0}, "what was planned was built, unless it was pruned"
    status = study.run("tune", "status", "study.yaml", "--seeds", "1", "study.concurrency=1").stdout
    assert "3 of 3 students of the search" in status
    assert "next: python -m tune show study.yaml TRIAL study.concurrency=1 --seeds 1\n" in status
    shown = study.run("tune", "show", "study.yaml", "0").stdout
    assert shown.startswith("trial-0: agreement ")
    assert "trial.distillation.inflation" in shown
    assert "generator-0" in shown
    assert "alone: python -m hidfd run .hidfd/results/tiny/trial-0/config.yaml\n" in shown
    assert "next: python -m tune status study.yaml\n" in shown
    assert "next: python -m tune promote study.yaml" in study.run("tune", *LOCAL).stdout
    missing = study.run("tune", "show", "study.yaml", "17")
    assert missing.returncode == 2
    assert "no such trial; it has: collection-0, generator-0, trial-0" in missing.stderr
    shutil.rmtree(study.folder / ".hidfd" / "results")
    again = study.run("tune", "report", "study.yaml")
    page, following = again.stdout.splitlines()
    assert (study.folder / page.removeprefix("report: ")).is_file()
    assert following == "next: python -m tune show study.yaml TRIAL"
    assert (study.folder / ".hidfd" / "results" / "tiny" / "trial-0" / "report.html").is_file()


@pytest.mark.slow
def test_more_seeds_add_to_what_is_there(study: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert study.run("tune", *LOCAL).returncode == 0
    before = results(study)["works"]
    referred = Store.open(study.folder / ".hidfd" / "store").references()["tiny"]
    written: list[set[str]] = []
    write = Store.write_references
    monkeypatch.setattr(Store, "write_references", lambda *given: (written.append(set(given[2])), write(*given)))
    more = study.run("tune", *LOCAL, "--seeds", "2")
    assert more.returncode == 0, more.stderr
    assert "(n = 2)" in more.stdout
    snapshot = json.loads(study.run("tune", "status", "study.yaml", "--seeds", "2", "--json").stdout)
    tasks = {task["label"]: task for task in snapshot["works"]}
    assert before.keys() < tasks.keys()
    assert all(len(task["attempts"]) == 1 for task in tasks.values()), "nothing was run twice"
    assert all(digests >= referred for digests in written), "`store remove` beside it takes nothing away"
    assert written


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nowhere.yaml"), 2, "nowhere.yaml: no such study file"),
        (("run", "study.yaml", "study.num_student=3"), 2, "did you mean `num_students`?"),
        (("run", "study.yaml", "study.sampler=tpee"), 2, "did you mean 'tpe'?"),
        (("run", "study.yaml", "--seeds", "0"), 2, "expected a number of seeds from 1 to 1000, found '0'"),
        (("run", "study.yaml", "--enginee", "local"), 2, "unknown arguments: --enginee; did you mean --engine?"),
        (("pln", "study.yaml"), 2, "did you mean plan?"),
        (("run", "study.yaml", "storage.ledger=mysql://a/b"), 7, "mysql is not supported; give the path"),
        (("run", "study.yaml", "storage.results=/dev/null/x"), 4, "/dev/null/x"),
        (("report", "study.yaml", "storage.results=/dev/null/x"), 4, "/dev/null/x"),
        (("promote", "study.yaml"), 9, "has no champion yet"),
        (("promote", "study.yaml", "--alias", "v1"), 2, "--alias: 'v1'"),
        (("run", "study.yaml", "override"), 2, "'override' is no override; expected key=value"),
        (("plan", "study.yaml", "study.samplr=1", "trial.preset=quik"), 2, "did you mean 'quick'?"),
        (
            ("plan", "study.yaml", "search.distilation.inflation.high=9"),
            2,
            "did you mean `distillation.inflation.high`?",
        ),
        (("plan", "study.yaml", "search.distillation.inflation.low=-1"), 2, "search.distillation.inflation"),
        (("run", "study.yaml", "trial.data.validation.path=nothing"), 3, "nothing"),
    ],
)
def test_wrong_word_gets_one_clear_message(study: Workplace, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = study.run("tune", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_trial_whose_values_do_not_fit_together_says_so(tiny: Workplace) -> None:
    tree = tiny_study()
    zero_or_one = {"type": "categorical", "choices": [0.0, 1.0]}
    tree["study"] = {"sampler": "grid", "controls": {"real_only": False, "synthetic_only": False, "plain_kd": False}}
    tree["search"] = {f"distillation.{name}": zero_or_one for name in ("feature_weight", "kl_weight", "ce_weight")}
    tree["trial"]["distillation"] |= {"target_images": 16, "kl_weight": 0.5, "ce_weight": 0.5}
    tiny.write(tree)
    done = tiny.run("tune", "run", "study.yaml", "--engine", "local")
    assert done.returncode == 0, done.stderr
    for verb in ("show", "explain"):
        said = tiny.run("tune", verb, "study.yaml", "0")
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith("trial-0: infeasible: these values do not fit together: ")
        assert "why: the next point of the grid" in said.stdout

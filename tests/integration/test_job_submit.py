"""Runs of `ray job submit --working-dir . -- python -m tune run studies/x.yaml` against a head, as on a cluster."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.ray_jobs import JobServer, job_server
from tune.opened_study import open_study

pytestmark = pytest.mark.integration

RUN = ("--working-dir", ".", "--", "python", "-m", "tune", "run", "studies/x.yaml")


@pytest.fixture
def study(tiny: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder with `studies/x.yaml` and its material, whose storage is outside of the folder that is submitted."""
    lasting = tmp_path_factory.mktemp("lasting")
    tree = tiny_study()
    tree["trial"]["data"]["candidates"]["path"] = "../photos"
    tree["trial"]["data"]["validation"]["path"] = "../held"
    tree["trial"]["teacher"]["checkpoint"]["path"] = "../teacher.safetensors"
    tree["study"] = {"num_students": 2, "concurrency": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tree["storage"] = {
        "store": str(lasting / "store"),
        "ledger": str(lasting / "ledger.db"),
        "tracking": f"sqlite:///{lasting}/mlflow.db",
        "results": str(lasting / "results"),
    }
    (tiny.folder / "studies").mkdir()
    tiny.write(tree, file="studies/x.yaml")
    return tiny


def snapshot(study: Workplace) -> dict[str, Any]:
    looked = study.run("tune", "status", "studies/x.yaml", "--json")
    assert looked.returncode == 0, looked.stdout + looked.stderr
    found: dict[str, Any] = json.loads(looked.stdout)
    return found


def wait_until(what: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.3)


def is_under_way(study: Workplace) -> bool:
    """Whether a student has begun to train."""
    return any(task["kind"] == "student" and task["attempts"] for task in snapshot(study)["works"])


def check_finished_without_loss(study: Workplace) -> None:
    found = snapshot(study)
    assert found["finished"], found
    assert len(found["trials"]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study.folder)
        keys = [task.key for task in open_study("studies/x.yaml").state().ledger.tasks()]
    assert len(set(keys)) == len(keys)
    ends = [[attempt["end"] for attempt in task["attempts"]] for task in found["works"]]
    assert all(task.count("finished") <= 1 for task in ends), ends


def submit(server: JobServer, study: Workplace, *arguments: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study.folder)
        return server.job("submit", *arguments)


def test_study_that_was_stopped_goes_on_when_it_is_submitted_again(study: Workplace) -> None:
    with job_server({"RAY_AUTH_MODE": "disabled"}) as server:

        def logs(job: str) -> str:
            return server.job("logs", job).stdout

        begun = submit(server, study, "--submission-id", "first", "--no-wait", *RUN)
        assert begun.returncode == 0, begun.stderr
        wait_until(lambda: is_under_way(study), lambda: logs("first"))
        stopped = server.job("stop", "first")
        assert stopped.returncode == 0, stopped.stderr
        assert not snapshot(study)["finished"]

        begun = submit(server, study, "--submission-id", "second", "--no-wait", *RUN)
        assert begun.returncode == 0, begun.stderr
        wait_until(lambda: "starting Ray" in logs("second"), lambda: logs("second"))
        asked = study.run("tune", "stop", "studies/x.yaml")  # from a terminal, through the ledger
        assert asked.returncode == 0, asked.stderr
        assert "asked process" in asked.stdout

        last = submit(server, study, "--submission-id", "third", *RUN)
        assert last.returncode == 0, last.stdout + last.stderr
        assert "over real-only" in last.stdout
        check_finished_without_loss(study)


def test_study_in_the_folder_of_a_job_is_refused(study: Workplace) -> None:
    with job_server({"RAY_AUTH_MODE": "disabled"}) as server:
        done = submit(server, study, *RUN, "storage.ledger=.hidfd/ledger.db")
    assert done.returncode != 0
    assert "storage.ledger: would lie in" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout

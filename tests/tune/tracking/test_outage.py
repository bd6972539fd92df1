"""A real MLflow server, killed while a study is written into it: what it missed comes later, and comes once."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from hidfd.store.store import Store
from tests.tune.snapshots import study_snapshot
from tests.tune.students import keep_student
from tune.report.champion import champion_of, config_of
from tune.study.snapshot import StudySnapshot
from tune.tracking.background import BackgroundTracker
from tune.tracking.tracker import Tracker


class Server:
    """`mlflow server` over one database, as often as it is started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._process = subprocess.Popen(
                words, stdout=log, stderr=log, start_new_session=True, env=environment, cwd=self._folder
            )
        wait_for(self._answers, "the server does not come up")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Interrupted(Tracker):
    """Has its server killed before the n-th task is written."""

    def __init__(self, server: Server, at: int) -> None:
        super().__init__(server.uri, "outage")
        self._server, self._left = server, at

    def _write_task(self, *arguments: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._server.kill()
        super()._write_task(*arguments)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def wait_for(what: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


def content_of(uri: str, name: str) -> dict[str, Any]:
    """Run -> everything that it shows."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.run_name not in found, "two runs of one task"
        run_id = run.info.run_id
        metrics = {metric: client.get_metric_history(run_id, metric) for metric in run.data.metrics}
        found[run.info.run_name] = {
            "metrics": {name: [(p.step, p.value) for p in points] for name, points in metrics.items()},
            "params": run.data.params,
            "tags": {
                tag: value
                for tag, value in run.data.tags.items()
                if tag.startswith(("hidfd.", "kind", "role")) and tag not in ("hidfd.study", "hidfd.model")
            },
            "status": run.info.status,
            "artifacts": sorted(file.path for file in client.list_artifacts(run_id)),
        }
    return found


@pytest.mark.slow
def test_a_server_killed_in_the_middle_gets_everything_once_when_it_is_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = study_snapshot(tmp_path / "study", rounds=22)
    whole: StudySnapshot = study_snapshot(tmp_path / "study")
    champion, store = champion_of(whole), Store.open(tmp_path / "store")
    assert champion is not None
    keep_student(store, config_of(champion.student, whole))
    with BackgroundTracker(Interrupted(server, at=3)) as shown:
        shown.offer(part)
        wait_for(lambda: shown.error is not None, "nobody noticed that the server is gone")
        server.start()
        shown.finish(whole, store)
        assert shown.error is None
    assert capsys.readouterr().out == "", "standard output belongs to --json"
    straight = Tracker(f"sqlite:///{tmp_path}/straight.db", "straight")
    straight.sync(whole)
    assert content_of(server.uri, "outage") == content_of(straight.uri, "straight")

    registered = Tracker(server.uri, "outage").register(champion, whole, store, "small", "champion")
    assert (registered.version, registered.is_new) == ("1", True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    student = mlflow.pytorch.load_model("models:/small@champion")
    assert student(torch.rand(3, 1, 28, 28)).shape == (3, 10)

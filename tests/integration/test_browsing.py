"""A study on a real MLflow server, seen with a real browser."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.integration.browsing import browser
from tests.integration.conftest import Workplace, tiny_study
from tests.integration.running_study import RunningStudy
from tests.tune.tracking.test_outage import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def test_person_comes_from_the_first_page_to_the_sample_grid_of_the_champion(tiny: Workplace, server: Server) -> None:
    tree = tiny_study()
    tree["storage"] = {"tracking": server.uri}
    tree["study"] = {"num_students": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    with browser() as window:
        done = tiny.run("tune", "run", "study.yaml", "--engine", "local")
        assert done.returncode == 0, done.stderr
        link = re.search(r"^MLflow: (http\S+)$", done.stdout, re.MULTILINE)
        assert link is not None, done.stdout
        columns = window.to_the_view(link[1])
        assert {"agreement", "validation_accuracy", "role", "generator", "distillation.inflation"} <= set(columns)
        grid = window.to_the_samples_of_the_champion()
        assert (grid.rect["width"], grid.rect["height"]) == (8 * 28, 3 * 28)
        window.to_the_study(server.uri, "tiny")
        champion = window.to_its_champion()
        picture = window.to_the_samples()
        assert (picture.rect["width"], picture.rect["height"]) == (8 * 28, 3 * 28)
    best = json.loads(tiny.run("tune", "status", "study.yaml", "--json").stdout)["best"]
    assert champion == f"trial-{best}-seed1001"


def test_curves_of_a_running_generator_grow_between_two_looks(tmp_path: Path, server: Server) -> None:
    running = RunningStudy(
        tmp_path / "live", None, [f"storage.tracking={server.uri}", "trial.generation.target_images=200000"]
    )
    client = MlflowClient(server.uri)

    def generator() -> Run | None:
        experiment = client.get_experiment_by_name("live")
        wanted = "tags.generator = 'generator-0' and tags.kind = 'build'"
        found = [] if experiment is None else client.search_runs([experiment.experiment_id], wanted)
        return next((run for run in found if "generation/hinge_d" in run.data.metrics), None)

    with browser() as window:
        running.start("--engine", "local")
        try:
            run = running.until(generator)
            assert run.info.status == "RUNNING"
            window.to_the_curves(server.uri, run.info.experiment_id, run.info.run_id)
            first = running.until(window.num_points)

            def has_grown() -> bool:
                window.to_the_curves(server.uri, run.info.experiment_id, run.info.run_id)
                return running.until(window.num_points) > first

            running.until(has_grown)
        finally:
            running.kill()


def test_open_shows_the_pages_of_a_study_without_a_server_and_leaves_none_behind(tiny: Workplace) -> None:
    tree = tiny_study()
    tree["study"] = {"num_students": 1, "controls": {"real_only": False, "plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    nothing = tiny.run_process("tune", "open", "study.yaml")
    assert nothing.returncode != 0
    assert tiny.run("tune", "run", "study.yaml", "--engine", "local").returncode == 0
    command = [sys.executable, "-m", "tune", "open", "study.yaml", "--json"]
    with subprocess.Popen(command, cwd=tiny.folder, stdout=subprocess.PIPE, text=True) as opened:
        assert opened.stdout is not None
        pages = json.loads(opened.stdout.readline())
        address = pages["champion"].partition("/#/")[0]
        assert urllib.request.urlopen(f"{address}/health").status == 200
        again = tiny.run_process("tune", "open", "study.yaml")
        assert f"champion: {pages['champion']}" in again.stdout, "the same server"
        assert "the server ran already, as process" in again.stderr
        opened.send_signal(signal.SIGTERM)
        assert opened.wait(60) == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{address}/health")

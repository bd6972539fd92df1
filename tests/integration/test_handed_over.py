"""A champion in a real MLflow server is used, as a function and served, in processes that have not got this project."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hidfd.export import DeployedStudent, deployed_student
from hidfd.store.store import Store
from tests.integration.conftest import Workplace, tiny_study, tiny_workplace
from tests.tune.snapshots import study_snapshot
from tests.tune.students import keep_student
from tests.tune.tracking.test_outage import Server, wait_for
from tune.report.champion import champion_of, config_of
from tune.tracking.connection import connect
from tune.tracking.tracker import Tracker

pytestmark = pytest.mark.integration

COUNTS = (1, 1000)

PREDICTING = """
import sys
try:
    import hidfd
except ImportError:
    print("without this project")
import mlflow, numpy, pandas
student = mlflow.pyfunc.load_model(sys.argv[1])
images = numpy.load(sys.argv[2])
for count in map(int, sys.argv[4:]):
    part = images[:count]
    numpy.save(f"{sys.argv[3]}/array-{count}.npy", student.predict(part))
    numpy.save(f"{sys.argv[3]}/frame-{count}.npy", student.predict(pandas.DataFrame({"image": list(part)})))
    flat = pandas.DataFrame({"image": [image.ravel() for image in part]})
    numpy.save(f"{sys.argv[3]}/flat-{count}.npy", student.predict(flat))
"""


@dataclass(frozen=True)
class HandedOver:
    """A champion `small` in a server, the network that it is, and an environment without this project."""

    folder: Path
    network: DeployedStudent
    environment: dict[str, str]

    def logits(self, images_unit: np.ndarray) -> np.ndarray:
        return self.network(torch.from_numpy(images_unit)).numpy()


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandedOver]:
    folder = tmp_path_factory.mktemp("handed-over")
    (folder / "server").mkdir()
    server = Server(folder / "server")
    server.start()
    try:
        whole = study_snapshot(folder / "study", folders=False, study={"seeds": [1001]})
        champion, store = champion_of(whole), Store.open(folder / "store")
        assert champion is not None
        config = config_of(champion.student, whole)
        keep_student(store, config)
        tracker = Tracker(server.uri, "handed-over")
        tracker.sync(whole)
        tracker.register(champion, whole, store, "small", "champion")
        hidden = folder / "hidden"
        hidden.mkdir()
        for package in ("hidfd", "tune", "k8s"):
            (hidden / f"{package}.py").write_text("raise ImportError('not installed here')\n")
        environment = os.environ | {"PYTHONPATH": str(hidden), "MLFLOW_TRACKING_URI": server.uri}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        yield HandedOver(folder, deployed_student(config, store), environment)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def images_unit() -> np.ndarray:
    return np.random.default_rng(0).random((max(COUNTS), 1, 28, 28), np.float32)


def test_a_fresh_process_predicts_on_arrays_and_frames(
    handed_over: HandedOver, images_unit: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images_unit)
    told = subprocess.run(
        [
            *(sys.executable, "-c", PREDICTING, "models:/small@champion"),
            *(str(tmp_path / "images.npy"), str(tmp_path), *map(str, COUNTS)),
        ],
        cwd=tmp_path,
        env=handed_over.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "without this project" in told.stdout
    for count in COUNTS:
        expected = handed_over.logits(images_unit[:count])
        for kind in ("array", "frame", "flat"):
            logits = np.load(tmp_path / f"{kind}-{count}.npy")
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def address(handed_over: HandedOver) -> Iterator[str]:
    """The address of `mlflow models serve` with the champion, started elsewhere."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    elsewhere = handed_over.folder / "elsewhere"
    elsewhere.mkdir()
    with (elsewhere / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
                *("--model-uri", "models:/small@champion", "--port", str(port)),
            ],
            cwd=elsewhere,
            env=handed_over.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert serving.poll() is None, (elsewhere / "serve.log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_for(answers, "the champion is not served")
        yield address
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait()


def ask(address: str, payload: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", ["inputs", "instances", "dataframe_split"])
def test_the_champion_is_served(
    shape: str, count: int, address: str, handed_over: HandedOver, images_unit: np.ndarray
) -> None:
    images = images_unit[:count]
    payload: dict[str, Any] = {shape: images.tolist()}
    if shape == "dataframe_split":
        payload = {shape: {"columns": ["image"], "data": [[image.ravel().tolist()] for image in images]}}
    predictions = ask(address, payload)
    np.testing.assert_allclose(predictions, handed_over.logits(images), rtol=1e-4, atol=1e-5)


def test_wrong_images_are_refused_by_the_server(address: str, images_unit: np.ndarray) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, {"inputs": (255 * images_unit[:2]).tolist()})
    assert refused.value.code == 400
    assert "divide uint8 ones by 255" in refused.value.read().decode()


def test_a_project_folder_is_renamed_and_its_study_promoted_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "before").mkdir()
    before = tiny_workplace(tmp_path / "before")
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    study = {"num_students": 1, "seeds": [1001], "pruner": {"kind": "none"}, "controls": controls}
    search = {"distillation.inflation": {"type": "float", "low": 1.0, "high": 4.0}}
    before.write(tiny_study() | {"study": study, "search": search})
    run = ("tune", "run", "study.yaml", "--engine", "local")
    assert before.run(*run).returncode == 0
    after = Workplace(before.folder.rename(tmp_path / "after 100% ?"))
    again = after.run(*run, "study.num_students=2")
    assert again.returncode == 0, again.stderr
    assert caplog.text.count("was moved here") == 1
    promoted = after.run("tune", "promote", "study.yaml", "study.num_students=2")
    assert promoted.returncode == 0, promoted.stderr
    assert caplog.text.count("was moved here") == 1, "it is said once"
    assert "in eval mode already; do not call `.eval()`" in promoted.stdout.splitlines()[0]
    assert not before.folder.exists()
    client = connect(f"sqlite:///{after.folder}/.hidfd/mlflow.db")
    (version,) = client.search_model_versions("name = 'tiny'")
    assert client.get_run(version.run_id).info.artifact_uri.startswith(after.folder.as_uri())


def test_a_database_is_mended_while_a_server_runs_on_it(tmp_path: Path) -> None:
    whole = study_snapshot(tmp_path / "study", study={"seeds": [1001]})
    tracker = Tracker(f"sqlite:///{tmp_path}/former/mlflow.db", "moved")
    tracker.sync(whole)
    champion = champion_of(whole)
    assert champion is not None
    run = tracker.run_id(champion.student.key)
    assert run is not None
    (tmp_path / "former").rename(tmp_path / "now")
    (tmp_path / "now" / "mlflow.db").rename(tmp_path / "now" / "server.db")  # what the server calls it
    server = Server(tmp_path / "now")
    server.start()
    try:
        served = connect(server.uri)
        assert served.list_artifacts(run) == []
        connect(f"sqlite:///{tmp_path}/now/server.db")
        assert served.get_run(run).info.artifact_uri.startswith((tmp_path / "now").as_uri())
        assert "config.yaml" in [file.path for file in connect(server.uri).list_artifacts(run)]
        served.set_tag(run, "still", "written")
        assert not (tmp_path / "former").exists()
    finally:
        server.kill()

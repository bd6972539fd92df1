"""A real Ray cluster in which one node does not see a folder that the others see."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlflow
import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.ray_nodes import HIDING, ray_nodes

pytestmark = pytest.mark.integration

ENGINE = 10


@pytest.fixture(autouse=True)
def hiding(tmp_path: Path) -> None:
    """Skip where no folder can be hidden from a node."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    try:
        hides = subprocess.run([*HIDING, str(folder), "true"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here; get it: apt-get install util-linux")
    if hides.returncode != 0:
        pytest.skip(f"no folder can be hidden here: {hides.stderr[-200:]}")


def test_local_store_that_a_node_does_not_see_is_refused_before_anything_runs(tiny: Workplace) -> None:
    store = tiny.folder / "store"
    store.mkdir()
    tree = tiny_study()
    tree["storage"] = {"store": str(store)}
    tree["study"] = {"variants": {"hybrid": {}}}
    tiny.write(tree)
    with ray_nodes() as nodes:
        nodes.add(cpus=1)
        nodes.add(cpus=1, without=store)
        done = tiny.run_process("tune", "run", "study.yaml", RAY_ADDRESS=nodes.address, RAY_AUTH_MODE="disabled")
    assert done.returncode == ENGINE, done.stdout + done.stderr
    assert f"error: storage.store: {store} is not the same folder on " in done.stderr
    assert "s3://" in done.stderr
    assert not list(store.glob("collection/*"))


def test_files_on_a_nodes_own_disk_are_uploaded_to_the_driver_and_into_mlflow(tiny: Workplace) -> None:
    results, tracking = tiny.folder / "results", f"sqlite:///{tiny.folder}/mlflow.db"
    results.mkdir()
    tree = tiny_study()
    tree["storage"] = {"results": str(results), "tracking": tracking}
    tree["study"] = {"variants": {"hybrid": {}}}
    tree["resources"] = {"cpus_per_worker": 1}
    tiny.write(tree)
    with ray_nodes() as nodes:
        nodes.add(cpus=1, without=results)
        done = tiny.run_process("tune", "run", "study.yaml", RAY_ADDRESS=nodes.address, RAY_AUTH_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    client = mlflow.MlflowClient(tracking)
    (experiment,) = client.search_experiments(filter_string="name LIKE '%tiny%'")
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    (student,) = [name for name in runs if name.startswith("hybrid")]
    files = {file.path for name in ("", "pictures") for file in client.list_artifacts(runs[student], name)}
    assert {"report.html", "result.json", "pictures/real.png", "pictures/synthetic.png"} <= files
    assert len(client.get_metric_history(runs[student], "distillation/total")) > 1
    assert "Confusion" in (results / "tiny" / student / "report.html").read_text()

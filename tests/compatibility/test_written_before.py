"""What an older version wrote is opened by today's: its ledger, store and mlflow.db are read, and its study goes on.

Each archive in this folder is a study of one commit, interrupted in the middle of a generator (see `write_study`).
"""

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from hidfd.store.store import Store
from tests.integration.conftest import Workplace

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.xz"))
WITHOUT_RESULTS = {"folder": None, "picture": None}
"""What depends on the folder of results, which the archive leaves out."""

MORE = "study.num_students=5"


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Workplace:
    """Unpack an older version's study folder, elsewhere than it was written."""
    with tarfile.open(request.param) as packed:
        packed.extractall(tmp_path, filter="data")
    return Workplace(tmp_path)


def snapshot(study: Workplace, *overrides: str) -> dict[str, Any]:
    """What `status --json` says."""
    done = study.run("tune", "status", "study.yaml", *overrides, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tasks(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["label"]: task for task in found["works"]}


def test_keys_and_values_of_an_older_study_are_those_of_today(older: Workplace) -> None:
    then = json.loads((older.folder / "status.json").read_text())
    now = snapshot(older, MORE)
    assert now.keys() >= then.keys()
    ended = {label: task for label, task in tasks(now).items() if task["state"] in ("complete", "pruned")}
    assert len(ended) >= 6
    for label, task in ended.items():
        assert task | WITHOUT_RESULTS == tasks(then)[label] | WITHOUT_RESULTS
    assert now["config"] | {"trial": None} == then["config"] | {"trial": None}
    assert now["config"]["trial"]["collection"]["leaves_out_validation"] is False  # one hold-out for the whole study


@pytest.mark.slow
def test_an_older_study_is_read_without_its_images_and_with_a_file_that_has_changed(older: Workplace) -> None:
    before = tasks(snapshot(older))
    shutil.rmtree(older.folder / "photos")
    (older.folder / "teacher.safetensors").unlink()
    tree = yaml.safe_load((older.folder / "study.yaml").read_text())
    tree["trial"]["distillation"]["momentum"] = 0.5
    tree["search"].popitem()
    older.write(tree)
    done = older.run("tune", "run", "study.yaml", "--engine", "local")
    assert done.returncode == 3, "its images are not there"
    assert tasks(snapshot(older)) == before
    done = older.run("tune", "promote", "study.yaml")
    assert (done.returncode, "has no champion yet" in done.stderr) == (9, True), "its fifth student is under way"
    for verb in (["status"], ["show", "0"], ["explain", "0"], ["report"], ["stop"], ["forget", "--yes"]):
        done = older.run("tune", verb[0], "study.yaml", *verb[1:])
        assert done.returncode == 0, (verb, done.stderr)


@pytest.mark.integration
def test_an_interrupted_study_of_an_older_version_goes_on_to_its_end(older: Workplace) -> None:
    then = tasks(json.loads((older.folder / "status.json").read_text()))
    before = tasks(snapshot(older, MORE))
    (halfway,) = (label for label, task in before.items() if task["state"] == "waiting" and task["attempts"])
    stored = {(entry.stage, entry.digest) for entry in Store.open(older.folder / ".hidfd" / "store").list()}

    done = older.run("tune", "run", "study.yaml", "--engine", "local", MORE, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"resuming at [1-9]\d* of 800 images", done.stderr)

    found = snapshot(older, MORE)
    after = tasks(found)
    assert found["finished"]
    assert len(found["trials"]) == 5
    for label, task in before.items():
        assert after[label]["key"] == then[label]["key"] == task["key"]
        if task["state"] in ("complete", "pruned"):
            assert len(after[label]["attempts"]) == len(task["attempts"]), f"{label} was built again"
    assert after[halfway]["state"] == "complete"
    measured = {name: after[halfway]["metrics"][name] for name in then[halfway]["metrics"]}  # today there may be more
    assert measured == pytest.approx(then[halfway]["metrics"], rel=0.2, nan_ok=True)
    assert stored <= {(entry.stage, entry.digest) for entry in Store.open(older.folder / ".hidfd" / "store").list()}

    client = mlflow.MlflowClient(f"sqlite:///{older.folder}/.hidfd/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    labels = [run.info.run_name for run in client.search_runs([experiment.experiment_id], max_results=1000)]
    assert len(labels) == len(set(labels)), "a run was written twice"
    shown = {label for label, task in after.items() if task["kind"] != "opening"}
    assert set(labels) == {found["name"], *shown}

"""What an older version wrote is opened by today's: its ledger, store and mlflow.db are read.

A study goes on only with the stages that it was begun with; the archived one's generator is of another version.

Each archive in this folder is a study of one commit, interrupted in the middle of a generator (see `write_study`).
"""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

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


def known_then(now: Any, then: Any) -> Any:
    """Return what is now without the keys that came later, at every level."""
    if isinstance(then, dict):
        return {name: known_then(now[name], value) for name, value in then.items()}
    if isinstance(then, list):
        return [known_then(one, other) for one, other in zip(now, then, strict=True)]
    return now


def test_keys_and_values_of_an_older_study_are_those_of_today(older: Workplace) -> None:
    then = json.loads((older.folder / "status.json").read_text())
    now = snapshot(older, MORE)
    assert now.keys() >= then.keys()
    ended = {label: task for label, task in tasks(now).items() if task["state"] in ("complete", "pruned")}
    assert len(ended) >= 6
    for label, task in ended.items():
        before = tasks(then)[label]
        assert known_then(task, before) | WITHOUT_RESULTS == before | WITHOUT_RESULTS
    then["config"]["study"]["num_students"] = 4  # of the ledger: today's quick preset makes the file another one
    assert known_then(now["config"], then["config"]) | {"trial": None} == then["config"] | {"trial": None}
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


@pytest.mark.slow
def test_an_interrupted_study_of_an_older_version_is_refused_by_name_and_loses_nothing(older: Workplace) -> None:
    before = tasks(snapshot(older, MORE))
    stored = {(entry.stage, entry.digest) for entry in Store.open(older.folder / ".hidfd" / "store").list()}
    done = older.run("tune", "run", "study.yaml", "--engine", "local", MORE, OMP_NUM_THREADS="1")
    assert done.returncode == 2
    assert "stage_versions.generation: 2 -> 3" in done.stderr
    assert stored <= {(entry.stage, entry.digest) for entry in Store.open(older.folder / ".hidfd" / "store").list()}
    after = tasks(snapshot(older, MORE))
    assert {label: task["attempts"] for label, task in after.items()} == {
        label: task["attempts"] for label, task in before.items()
    }

"""Two people whose studies have one name share a store and MLflow, and neither loses anything."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from hidfd.store.store import Store
from tests.integration.conftest import Workplace, tiny_study, tiny_workplace
from tune.ledger.opening import mark_forgotten

pytestmark = pytest.mark.integration


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    return {"store": f"{tmp_path}/store", "tracking": f"sqlite:///{tmp_path}/mlflow.db"}


def person(folder: Path, shared: dict[str, Any], low: float) -> Workplace:
    folder.mkdir()
    place = tiny_workplace(folder)
    search = {"distillation.inflation": {"type": "float", "low": low, "high": 4 * low, "log": True}}
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    study = {"num_students": 1, "seeds": [1001], "pruner": {"kind": "none"}, "controls": controls}
    place.write(tiny_study() | {"storage": shared, "study": study, "search": search})
    return place


def students(store: Store) -> set[str]:
    return {entry.digest for entry in store.list() if entry.kind == "artifact" and entry.stage == "distillation"}


def active_runs(shared: dict[str, Any], experiment: str) -> set[str]:
    client = MlflowClient(shared["tracking"])
    found = client.get_experiment_by_name(experiment)
    return set() if found is None else {run.info.run_id for run in client.search_runs([found.experiment_id])}


def test_a_name_that_is_taken_is_refused_and_forgetting_takes_only_ones_own(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    anna, ben = person(tmp_path / "anna", shared, 1.0), person(tmp_path / "ben", shared, 8.0)
    run = ("tune", "run", "study.yaml", "--engine", "local")
    assert anna.run(*run).returncode == 0
    store = Store.open(shared["store"])
    of_anna, runs_of_anna = students(store), active_runs(shared, "tiny")
    assert of_anna
    assert runs_of_anna

    refused = ben.run(*run)
    assert refused.returncode == 7
    assert "anna" in refused.stderr
    assert "--adopt" in refused.stderr
    assert students(store) == of_anna
    assert ben.run("tune", "forget", "study.yaml", "--yes").returncode == 0
    assert students(store) == of_anna
    assert active_runs(shared, "tiny") == runs_of_anna

    assert ben.run(*run, "name=bens").returncode == 0
    both = students(store)
    assert both > of_anna
    assert anna.run("tune", "forget", "study.yaml", "--yes").returncode == 0
    assert students(store) == both - of_anna
    assert not active_runs(shared, "tiny")
    assert active_runs(shared, "bens")
    assert anna.run(*run).returncode == 0, "a forgotten name is free again"


def test_a_lost_ledger_is_taken_over_and_nothing_is_built_twice(tmp_path: Path, shared: dict[str, Any]) -> None:
    anna = person(tmp_path / "anna", shared, 1.0)
    run = ("tune", "run", "study.yaml", "--engine", "local")
    assert anna.run(*run).returncode == 0
    store = Store.open(shared["store"])
    before, runs = students(store), active_runs(shared, "tiny")
    for file in (anna.folder / ".hidfd").glob("ledger.db*"):
        file.unlink()
    assert anna.run(*run).returncode == 7
    adopted = anna.run(*run, "--adopt")
    assert adopted.returncode == 0, adopted.stderr
    assert "taking over" in adopted.stderr
    assert students(store) == before
    assert active_runs(shared, "tiny") == runs
    assert anna.run(*run).returncode == 0


def test_a_study_that_was_forgotten_half_way_is_said_and_forgotten_to_the_end(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    anna = person(tmp_path / "anna", shared, 1.0)
    run = ("tune", "run", "study.yaml", "--engine", "local")
    assert anna.run(*run).returncode == 0
    mark_forgotten(str(anna.folder / ".hidfd" / "ledger.db"), "tiny")  # as one that is killed now leaves it
    for verb in (run, ("tune", "status", "study.yaml")):
        refused = anna.run(*verb)
        assert refused.returncode == 7
        assert "forget FILE --yes" in refused.stderr
    assert anna.run("tune", "forget", "study.yaml", "--yes").returncode == 0
    assert not students(Store.open(shared["store"]))
    assert not active_runs(shared, "tiny")
    assert "not started" in anna.run("tune", "status", "study.yaml").stdout

"""A real study through `python -m k8s`: submitted, watched, killed, retried, suspended, deleted, purged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.local_cluster import LocalCluster
from tests.cluster.submitted_study import SubmittedStudy, submitted_study
from tests.integration.conftest import Workplace

ENDS_SECONDS = 420.0
"""A study of this size takes a minute on two quiet cores, and some more for every new Ray cluster."""

SEARCH = {"generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4}}


@pytest.fixture
def study(cluster: LocalCluster, namespace: str, tmp_path: Path) -> SubmittedStudy:
    """Two students over two generators, then the best one beside real images alone."""
    controls = {"real_only": True, "synthetic_only": False, "plain_kd": False}
    asked = {"num_students": 2, "students_per_generator": 1, "startup_students": 2, "controls": controls}
    return submitted_study(cluster, namespace, tmp_path, study=asked, search=SEARCH)


def views_of(watch: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What a watcher has printed, once it has ended."""
    out, err = watch.communicate(timeout=ENDS_SECONDS)
    assert watch.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


def uninterrupted(study: SubmittedStudy, folder: Path) -> dict[str, Any]:
    """The same study on this machine, without a cluster; called before it is submitted, while its store is empty."""
    shutil.copytree(study.data / "store", folder / "store")
    shutil.copy(study.folder / "study.yaml", folder)
    places = {"store": "store", "ledger": "ledger.db", "results": "results", "tracking": "sqlite:///mlflow.db"}
    overrides = [f"storage.{name}={place}" for name, place in places.items()]
    alone = Workplace(folder)
    done = alone.run("tune", "run", "study.yaml", "--engine", "local", *overrides)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(alone.run("tune", "status", "study.yaml", "--json", *overrides).stdout)
    return found


def found_by(document: dict[str, Any]) -> dict[str, Any]:
    """What a study found: all but times, attempts and places."""
    return {
        "trials": [(trial["params"], trial["state"], trial["value"]) for trial in document["trials"]],
        "works": {work["label"]: (work["key"], work["state"], work["metrics"]) for work in document["works"]},
        "verdict": document["verdict"],
    }


def test_study_whose_driver_is_killed_is_retried_and_ends_as_the_uninterrupted_one(
    study: SubmittedStudy, tmp_path: Path
) -> None:
    """In a `restricted` namespace, with Ray's tokens; the API server dies while somebody watches."""
    expected = found_by(uninterrupted(study, tmp_path / "alone"))
    submitted = study.run("submit")
    assert submitted.code == 0, submitted.stderr
    assert "was submitted before" in study.run("submit").stdout
    watch = study.watch()
    study.cluster.wait("the driver", lambda: study.driver() is not None)
    study.cluster.wait("a finished student", lambda: any((study.data / "store").glob("evaluation/*/manifest.json")))
    os.kill(study.driver() or 0, signal.SIGKILL)
    study.cluster.restart_api_server()  # whether the watcher looks in these two seconds is chance; it has to go on
    views = views_of(watch)
    last = views[-1]
    assert (last["succeeded"], last["tries"], last["num_trials_ended"]) == (True, 2, 2)
    assert len({view["ray_cluster"] for view in views if view["ray_cluster"]}) == 2
    assert last["verdict"]
    document = study.status()
    attempts = [attempt["end"] for work in document["works"] for attempt in work["attempts"]]
    assert set(attempts) <= {"finished", "interrupted", "stopped"}
    assert found_by(document) == expected
    deleted = study.run("delete", "--purge")
    assert deleted.code == 0, deleted.stderr
    assert "is forgotten" in deleted.stdout
    assert study.pods() == []
    assert study.status()["trials"] == []
    assert not list((study.data / "store").glob("evaluation/*/manifest.json"))


def test_suspended_study_gives_its_pods_back_and_goes_on_afterwards(study: SubmittedStudy) -> None:
    assert study.run("submit", "study.num_students=1").code == 0
    watch = study.watch()
    study.cluster.wait("the driver", lambda: study.driver() is not None)
    study.patch_job({"suspend": True})
    study.cluster.wait("no pods", lambda: study.pods() == [])
    assert study.driver() is None
    study.patch_job({"suspend": False})
    views = views_of(watch)
    assert "Suspended" in {view["deployment_status"] for view in views}
    assert (views[-1]["succeeded"], views[-1]["tries"]) == (True, 1), "a suspension is no failure"


def test_study_that_somebody_deletes_ends_its_watchers_and_keeps_its_data(study: SubmittedStudy) -> None:
    assert study.run("submit").code == 0
    watch = study.watch("--logs")
    study.cluster.wait("a generator", lambda: any((study.data / "store").glob("generation/*/manifest.json")))
    deleted = study.run("delete")
    assert deleted.code == 0, deleted.stderr
    out, err = watch.communicate(timeout=ENDS_SECONDS)
    assert watch.returncode == 16, out + err
    assert "somebody deleted it" in err
    printed = [line["line"] for view in map(json.loads, out.splitlines()) for line in view.get("lines", [])]
    assert any('"event": "work_started"' in line for line in printed), "the driver's"
    assert any("Ray runtime started" in line for line in printed), "those of Ray's pods"
    assert study.driver() is None
    assert study.pods() == []
    assert study.status()["works"], "the ledger stays"
    config_maps = study.cluster.request("GET", f"/api/v1/namespaces/{study.namespace}/configmaps")["items"]
    assert [found["metadata"]["name"] for found in config_maps] == ["kube-root-ca.crt"]


def test_pod_that_cannot_start_is_told_to_whoever_watches(study: SubmittedStudy) -> None:
    secrets = "cluster.secrets={WORD: {secret: absent, key: word}}"
    assert study.run("submit", secrets).code == 14
    assert study.run("submit", secrets, "--no-preflight").code == 0
    watch = study.watch()
    line = partial(next, iter(watch.stdout or ()))
    try:
        view = json.loads(line())
        while not view["troubles"]:
            view = json.loads(line())
    finally:
        watch.kill()
        watch.communicate()
    assert 'a Secret or ConfigMap that it names is missing (secret "absent" not found)' in view["troubles"][0]

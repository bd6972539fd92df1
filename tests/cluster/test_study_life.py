"""A real study through `python -m k8s`: submitted, watched, killed, retried, suspended, deleted, purged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.local_cluster import LocalCluster
from tests.cluster.submitted_study import (
    ENDS_SECONDS,
    SubmittedStudy,
    found_by,
    two_generators,
    uninterrupted,
    views_of,
)
from tests.integration.s3 import S3Server, running_s3


@pytest.fixture
def study(cluster: LocalCluster, namespace: str, tmp_path: Path) -> SubmittedStudy:
    """Make a study of two students over two generators, then the best one beside real images alone."""
    return two_generators(cluster, namespace, tmp_path)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3") as server:
        yield server


def test_study_whose_driver_is_killed_is_retried_and_ends_as_the_uninterrupted_one(
    study: SubmittedStudy, tmp_path: Path
) -> None:
    """The namespace is `restricted`, Ray asks for tokens, and the API server dies while a watcher runs."""
    expected = found_by(uninterrupted(study, tmp_path / "alone"))
    submitted = study.run("submit")
    assert submitted.code == 0, submitted.stderr
    assert "was submitted before" in study.run("submit").stdout
    watch = study.watch()
    study.cluster.wait("the driver", lambda: study.driver() is not None)
    study.cluster.wait("a finished student", lambda: any((study.data / "store").glob("evaluation/*/manifest.json")))
    os.kill(study.driver() or 0, signal.SIGKILL)
    study.cluster.restart_api_server()  # whether the watcher polls in these two seconds is chance; it has to go on
    views = views_of(watch)
    last = views[-1]
    assert (last["succeeded"], last["tries"], last["num_trials_ended"]) == (True, 2, 2)
    assert len({view["ray_cluster"] for view in views if view["ray_cluster"]}) == 2
    assert last["verdict"]
    document = study.status()
    attempts = [attempt["end"] for task in document["works"] for attempt in task["attempts"]]
    assert set(attempts) <= {"finished", "interrupted", "stopped"}
    assert found_by(document) == expected
    deleted = study.run("delete", "--purge")
    assert deleted.code == 0, deleted.stderr
    assert "is forgotten" in deleted.stdout
    assert study.pods() == []
    assert study.status()["trials"] == []
    assert not list((study.data / "store").glob("evaluation/*/manifest.json"))


def test_suspended_study_gives_its_pods_back_and_goes_on_afterwards(
    cluster: LocalCluster, namespace: str, tmp_path: Path, s3: S3Server
) -> None:
    """The store is on S3, and of all objects in Kubernetes only the Secret has the keys."""
    study = two_generators(cluster, namespace, tmp_path, s3=s3)
    assert study.run("submit", "study.num_students=1").code == 0
    watch = study.watch()
    study.cluster.wait("the driver", lambda: study.driver() is not None)
    assert s3.secret not in study.everything()
    study.patch_job({"suspend": True})
    study.cluster.wait("no pods", lambda: study.pods() == [])
    assert study.driver() is None
    study.patch_job({"suspend": False})
    views = views_of(watch)
    assert "Suspended" in {view["deployment_status"] for view in views}
    assert (views[-1]["succeeded"], views[-1]["tries"]) == (True, 1), "a suspension is no failure"
    assert list(s3.bucket.glob("team/evaluation/*/manifest.json"))
    assert not (study.data / "store").exists()


def test_study_that_somebody_deletes_ends_its_watchers_and_keeps_its_data(study: SubmittedStudy) -> None:
    assert study.run("submit").code == 0
    watch = study.watch("--logs")
    shown = []
    for view in iter(watch.stdout or ()):
        shown.append(view)
        if "work_started" in view:
            break
    study.cluster.wait("a generator", lambda: any((study.data / "store").glob("generation/*/manifest.json")))
    deleted = study.run("delete")
    assert deleted.code == 0, deleted.stderr
    out, err = watch.communicate(timeout=ENDS_SECONDS)
    assert watch.returncode == 16, out + err
    assert "somebody deleted it" in err
    views = map(json.loads, [*shown, *out.splitlines()])
    printed = [line["line"] for view in views for line in view.get("lines", [])]
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

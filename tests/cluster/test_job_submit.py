"""A study by `ray job submit` on the chart's own Ray cluster, with its token, as docs/kubernetes.md says."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local_cluster import LocalCluster
from tests.cluster.submitted_study import SubmittedStudy, submitted_study
from tests.cluster.test_chart import SMALL, Release
from tests.cluster.tools import need_helm

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def release(cluster: LocalCluster, namespace: str, tmp_path: Path) -> Iterator[Release]:
    made = Release(cluster, namespace, tmp_path, need_helm(4))
    head = {"cpus": "1", "memory": "4Gi"}
    values = SMALL | {"rayCluster": {**SMALL["rayCluster"], "head": head}}
    installed = made.helm("install", values=values)
    assert installed.returncode == 0, installed.stderr
    yield made
    made.helm("uninstall")


@pytest.fixture
def study(release: Release, tmp_path: Path) -> SubmittedStudy:
    folder = tmp_path / "study"
    folder.mkdir()
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    search = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    asked = {"num_students": 1, "controls": controls}
    return submitted_study(release.cluster, release.namespace, folder, study=asked, search=search)


def ray_job(study: SubmittedStudy, *words: str, token: str) -> subprocess.CompletedProcess[str]:
    """Run `ray job` in the study's folder."""
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ADDRESS": _address(study)}
    return subprocess.run(
        [str(RAY), "job", *words],
        cwd=study.folder,
        env=os.environ | known | {"http_proxy": study.cluster.proxy, "no_proxy": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _address(study: SubmittedStudy) -> str:
    return f"http://hidfd-head-svc.{study.namespace}.svc.cluster.local:8265"


def test_same_study_file_runs_by_ray_job_submit_and_only_with_the_token(study: SubmittedStudy) -> None:
    cluster, namespace = study.cluster, study.namespace
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/hidfd"
    cluster.wait("the Ray cluster", lambda: cluster.request("GET", path)["status"].get("state") == "ready")
    secret = cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/hidfd")["data"]["auth_token"]
    token = base64.b64decode(secret).decode()
    places = {"store": "store", "ledger": "ledger.db", "results": "results"}
    overrides = [f"storage.{name}={study.data / place}" for name, place in places.items()]
    overrides.append(f"storage.tracking=sqlite:///{study.data}/mlflow.db")
    command = ["--", "python", "-m", "tune", "run", "study.yaml", *overrides]
    refused = ray_job(study, "submit", "--no-wait", "--working-dir", ".", *command, token="another")
    assert refused.returncode != 0
    submitted = ray_job(
        study, "submit", "--no-wait", "--submission-id", "tiny", "--working-dir", ".", *command, token=token
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr

    def ended() -> bool:
        words = ray_job(study, "status", "tiny", token=token).stdout
        assert "failed" not in words.lower(), ray_job(study, "logs", "tiny", token=token).stdout
        return "succeeded" in words.lower()

    cluster.wait("the end of the job", ended)
    assert study.status()["finished"]
    logs = ray_job(study, "logs", "tiny", token=token).stdout
    assert "trial-0: " in logs
    assert token not in logs

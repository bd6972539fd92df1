"""A cluster in memory in which a study may start, and the client that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.client import Api
from k8s.job.submit import submit
from k8s.manifest import Manifests, render
from k8s.request import Request
from tests.k8s.api_server import ApiServer, serving
from tests.k8s.study_files import request

NAMESPACED = "/api/v1/namespaces/studies"
JOBS = "/apis/ray.io/v1/namespaces/studies/rayjobs"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """A server that has all that `study_files.EVERYTHING` needs."""
    with serving() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        furnish(server)
        yield server


@pytest.fixture
def api(server: ApiServer) -> Api:
    return Api()


@pytest.fixture
def refuse(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the server answer a status to requests whose method and path contain one of some words."""

    def refuse(status: int, message: str, *words: str) -> None:
        ordinary = server.answer

        def answer(method: str, path: str, query: Any, body: Any) -> Any:
            if any(word in f"{method} {path} " for word in words):
                return status, {"message": message}
            return ordinary(method, path, query, body)

        monkeypatch.setattr(server, "answer", answer)

    return refuse


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    """A request with every setting of a study file."""
    return request(tmp_path)


@pytest.fixture
def manifests(asked: Request) -> Manifests:
    return render(asked)


@pytest.fixture
def submitted(asked: Request, manifests: Manifests, api: Api) -> str:
    """Name of the submitted job."""
    return submit(asked, manifests, api).name


def say_nothing(words: str) -> None:
    """Print nothing, as --json does."""


def furnish(server: ApiServer) -> None:
    """Store everything that preflight checks for."""
    server.put("/version", major="1", minor="36+", gitVersion="v1.36.3")
    server.put("/apis/ray.io/v1", resources=[{"kind": "RayJob"}, {"kind": "RayCluster"}])
    image = {"image": "quay.io/kuberay/operator:v1.6.2"}
    server.put(
        "/apis/apps/v1/deployments/kuberay-operator",
        metadata={"namespace": "kuberay", "labels": {"app.kubernetes.io/name": "kuberay-operator"}},
        spec={"template": {"spec": {"containers": [image]}}},
        status={"readyReplicas": 1},
    )
    server.put(NAMESPACED, metadata={"labels": {"pod-security.kubernetes.io/enforce": "restricted"}})
    for name, gpus in (("cpu-1", 0), ("gpu-1", 8), ("gpu-2", 8)):
        allocatable = {"cpu": "64", "memory": "256Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
        taints = (
            [{"key": "nvidia.com/gpu", "value": "", "effect": "NoSchedule"}] if gpus == 8 and name == "gpu-1" else []
        )
        server.put(
            f"/api/v1/nodes/{name}",
            metadata={"labels": {"pool": name.split("-")[0]}},
            spec={"taints": taints},
            status={"allocatable": allocatable},
        )
    for name, keys in (
        ("s3", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        ("hidfd-database", ("username", "password")),
    ):
        server.put(f"{NAMESPACED}/secrets/{name}", data=dict.fromkeys(keys, "eA=="), type="Opaque")
    server.put(f"{NAMESPACED}/secrets/registry", type="kubernetes.io/dockerconfigjson")
    server.put(
        f"{NAMESPACED}/persistentvolumeclaims/hidfd-store",
        spec={"accessModes": ["ReadWriteMany"]},
        status={"phase": "Bound"},
    )
    for name in ("hidfd-driver", "hidfd-worker", "default"):
        server.put(f"{NAMESPACED}/serviceaccounts/{name}")
    server.put("/apis/scheduling.k8s.io/v1/priorityclasses/low", value=10)
    server.put("/apis/kueue.x-k8s.io", preferredVersion={"groupVersion": "kueue.x-k8s.io/v1beta2"})
    server.put("/apis/kueue.x-k8s.io/v1beta2/namespaces/studies/localqueues/research")

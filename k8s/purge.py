"""Take a study's data away as well: `tune forget`, in a pod that sees what the study's pods saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from k8s.client import Api
from k8s.errors import KubernetesError, NotFound
from k8s.logs import PodLog
from k8s.manifest import Manifests, render, tune_command
from k8s.paths import core, jobs
from k8s.request import Request
from k8s.status import troubles

LOOK_EVERY_SECONDS = 1.0

CONTAINER = "forget"

Object = dict[str, Any]


def purge_manifests(request: Request) -> tuple[Object, Object]:
    """A ConfigMap with the study file, and the Job that reads it: a pure function."""
    manifests = render(request)
    name = f"{manifests.name}-purge"
    metadata = {**manifests.config_map["metadata"], "name": name}
    return {**manifests.config_map, "metadata": metadata}, _job(request, manifests, name, metadata)


def purge(
    request: Request,
    api: Api,
    *,
    wait_seconds: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Forget a study whose jobs are gone.

    Raises:
        KubernetesError: it did not succeed in that time; what it had not taken away is still there.
    """
    config_map, job = purge_manifests(request)
    namespace, name = request.cluster.namespace, job["metadata"]["name"]
    _delete(request, api, name)
    api.create(core(namespace, "configmaps"), config_map)
    try:
        api.create(jobs(namespace), job)
        _wait(request, api, name, wait_seconds, say, sleep)
    finally:
        _delete(request, api, name)


def _job(request: Request, manifests: Manifests, name: str, metadata: Object) -> Object:
    head = manifests.ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    (container,) = head["spec"]["containers"]
    shown = {key: value for key, value in container.items() if key not in ("startupProbe", "lifecycle")}
    volumes = [
        {"name": "study", "configMap": {"name": name}} if volume["name"] == "study" else volume
        for volume in head["spec"]["volumes"]
    ]
    spec = {
        **head["spec"],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [{**shown, "name": CONTAINER, "command": ["sh", "-c", tune_command(request, "forget", "--yes")]}],
        "volumes": volumes,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": head["metadata"]["labels"]}, "spec": spec},
        },
    }


def _wait(
    request: Request,
    api: Api,
    name: str,
    wait_seconds: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> None:
    namespace, log, waited = request.cluster.namespace, None, 0.0
    while True:
        status = api.get(jobs(namespace, name)).get("status") or {}
        pods = api.items(core(namespace, "pods"), labelSelector=f"job-name={name}")
        for pod in pods:
            log = log or PodLog(core(namespace, "pods", pod["metadata"]["name"]), CONTAINER)
            for line in log.new(api):
                say(line)
        if status.get("succeeded"):
            return
        if status.get("failed") or waited >= wait_seconds:
            why = "; ".join(troubles(pods)) or ("see its lines above" if status.get("failed") else "it has not ended")
            raise KubernetesError(f"job {name}: the study's data could not be taken away: {why}")
        sleep(LOOK_EVERY_SECONDS)
        waited += LOOK_EVERY_SECONDS


def _delete(request: Request, api: Api, name: str) -> None:
    for path in (jobs(request.cluster.namespace, name), core(request.cluster.namespace, "configmaps", name)):
        try:
            api.delete(path)
        except NotFound:
            continue

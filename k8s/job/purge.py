"""Delete a study's data as well: run `tune forget` in a pod with the volumes and secrets of the study's pods."""

from __future__ import annotations

import contextlib
from functools import partial

from k8s.api_paths import ApiObject, core, jobs
from k8s.client import Api
from k8s.errors import Conflict, KubernetesError, NotFound, Unreachable
from k8s.job.logs import PodLogs
from k8s.job.status import troubles
from k8s.job.waiting import POLL_SECONDS, Waiting
from k8s.manifest import Manifests, render, tune_command
from k8s.request import Request

COLLECT_SECONDS = 30.0
"""Shortest wait for Kubernetes to delete the pod of a Job that has ended."""

CONTAINER = "forget"
"""Name of the container that runs `tune forget`."""


def purge_manifests(request: Request) -> tuple[ApiObject, ApiObject]:
    """Build a ConfigMap with the study file and the Job that reads it: a pure function."""
    manifests = render(request)
    name = f"{manifests.name}-purge"
    metadata = {**manifests.config_map["metadata"], "name": name}
    return {**manifests.config_map, "metadata": metadata}, _job(request, manifests, name, metadata)


def purge(request: Request, api: Api, waiting: Waiting) -> None:
    """Delete the data of a study whose jobs are gone, by a Job, and wait until that Job is gone too.

    Args:
        request: the study.
        api: the cluster.
        waiting: how long to wait for the data to be deleted.

    Raises:
        KubernetesError: the Job failed or has not ended in that time, or it is itself not deleted yet; the same command
            goes on from there.
    """
    deadline = waiting.deadline()
    config_map, job = purge_manifests(request)
    namespace, name = request.cluster.namespace, job["metadata"]["name"]
    found = api.find(jobs(namespace, name))
    if found is not None and _has_ended(found):
        left = waiting.until_gone(partial(_delete_job, found, api), deadline)
        if left:
            raise KubernetesError(f"still there from the last --purge: {'; '.join(left)}. The same command waits on")
        found = None
    if found is None:
        found = api.create(jobs(namespace), job)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": found["metadata"]["uid"]}
    owned = {**config_map, "metadata": {**config_map["metadata"], "ownerReferences": [owner]}}
    with contextlib.suppress(Conflict):  # an earlier command that was cut off has created it
        api.create(core(namespace, "configmaps"), owned)
    _wait_for_end(request, api, name, waiting, deadline)
    gone = max(deadline, waiting.clock() + COLLECT_SECONDS)
    left = waiting.until_gone(lambda: [*_delete_job(found, api), *_pods_left(found, api)], gone)
    if left:
        raise KubernetesError(f"the study's data is deleted; Kubernetes has still to delete {'; '.join(left)}")


def _job(request: Request, manifests: Manifests, name: str, metadata: ApiObject) -> ApiObject:
    head = manifests.ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    (container,) = head["spec"]["containers"]
    kept = {key: value for key, value in container.items() if key not in ("startupProbe", "lifecycle")}
    volumes = [
        {"name": "study", "configMap": {"name": name}} if volume["name"] == "study" else volume
        for volume in head["spec"]["volumes"]
    ]
    spec = {
        **head["spec"],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [{**kept, "name": CONTAINER, "command": ["sh", "-c", tune_command(request, "forget", "--yes")]}],
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


def _wait_for_end(request: Request, api: Api, name: str, waiting: Waiting, deadline: float) -> None:
    namespace, words, last = request.cluster.namespace, "", "it printed nothing"
    logs = PodLogs(namespace)
    while True:
        try:
            job = api.get(jobs(namespace, name))
            pods = _pods(job, api)
            for _, line in logs.read_new(pods, api):
                waiting.say(line)
                last = line.strip() or last
            status, words = job.get("status") or {}, "; ".join(troubles(pods))
        except Unreachable as error:
            status, words = {}, str(error)
        if status.get("succeeded"):
            return
        if status.get("failed"):
            raise KubernetesError(f"job {name}: not all of the study's data could be deleted: {last}")
        if waiting.clock() >= deadline:
            raise KubernetesError(
                f"job {name} has not ended yet{f' ({words})' if words else ''}; it goes on by itself: "
                f"kubectl logs -n {namespace} -f job/{name}"
            )
        waiting.sleep(POLL_SECONDS)


def _has_ended(job: ApiObject) -> bool:
    status = job.get("status") or {}
    return bool(status.get("succeeded") or status.get("failed"))


def _delete_job(job: ApiObject, api: Api) -> list[str]:
    """Delete the Job, and its ConfigMap with it; return what is left of both, in words."""
    namespace, name, uid = (job["metadata"][key] for key in ("namespace", "name", "uid"))

    def is_there() -> bool:
        found = api.find(jobs(namespace, name))
        return found is not None and found["metadata"]["uid"] == uid

    try:
        if is_there():
            with contextlib.suppress(NotFound):
                api.delete(jobs(namespace, name))
        left = [f"job {name}"] if is_there() else []
        file = api.find(core(namespace, "configmaps", name))
    except Unreachable as error:
        return [str(error)]
    owners = file["metadata"].get("ownerReferences") or [] if file is not None else []
    return left + [f"ConfigMap {name}" for owner in owners if owner["uid"] == uid]


def _pods_left(job: ApiObject, api: Api) -> list[str]:
    try:
        return [f"pod {pod['metadata']['name']}" for pod in _pods(job, api)]
    except Unreachable as error:
        return [str(error)]


def _pods(job: ApiObject, api: Api) -> list[ApiObject]:
    metadata = job["metadata"]
    return api.items(core(metadata["namespace"], "pods"), labelSelector=f"controller-uid={metadata['uid']}")

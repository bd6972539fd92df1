"""Take a study's data away as well: `tune forget`, in a pod that sees what the study's pods saw."""

from __future__ import annotations

import contextlib
from functools import partial

from k8s.api_paths import ApiObject, core, jobs
from k8s.client import Api
from k8s.errors import Conflict, KubernetesError, NotFound, Unreachable
from k8s.job.logs import Logs
from k8s.job.status import troubles
from k8s.job.waiting import POLL_SECONDS, Waiting
from k8s.manifest import Manifests, render, tune_command
from k8s.request import Request

COLLECT_SECONDS = 30.0
"""How long Kubernetes has at least to collect the pod of a Job that has ended."""

CONTAINER = "forget"


def purge_manifests(request: Request) -> tuple[ApiObject, ApiObject]:
    """A ConfigMap with the study file, and the Job that reads it: a pure function."""
    manifests = render(request)
    name = f"{manifests.name}-purge"
    metadata = {**manifests.config_map["metadata"], "name": name}
    return {**manifests.config_map, "metadata": metadata}, _job(request, manifests, name, metadata)


def purge(request: Request, api: Api, waiting: Waiting) -> None:
    """Forget a study whose jobs are gone, and wait until what did so is gone too.

    Args:
        waiting: for the data to be gone.

    Raises:
        KubernetesError: it failed, or has not ended in that time, with which the same command goes on; or what did it
            is still there.
    """
    deadline = waiting.deadline()
    config_map, job = purge_manifests(request)
    namespace, name = request.cluster.namespace, job["metadata"]["name"]
    found = api.find(jobs(namespace, name))
    if found is not None and _has_ended(found):
        left = waiting.until_gone(partial(_take_away, found, api), deadline)
        if left:
            raise KubernetesError(f"still there of the last --purge: {'; '.join(left)}. The same command waits on")
        found = None
    if found is None:
        found = api.create(jobs(namespace), job)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": found["metadata"]["uid"]}
    owned = {**config_map, "metadata": {**config_map["metadata"], "ownerReferences": [owner]}}
    with contextlib.suppress(Conflict):  # of a command that was cut off
        api.create(core(namespace, "configmaps"), owned)
    _wait_for_end(request, api, name, waiting, deadline)
    gone = max(deadline, waiting.clock() + COLLECT_SECONDS)
    left = waiting.until_gone(lambda: [*_take_away(found, api), *_pods_left(found, api)], gone)
    if left:
        raise KubernetesError(f"the study's data is taken away; Kubernetes still collects {'; '.join(left)}")


def _job(request: Request, manifests: Manifests, name: str, metadata: ApiObject) -> ApiObject:
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


def _wait_for_end(request: Request, api: Api, name: str, waiting: Waiting, deadline: float) -> None:
    namespace, logs, words, last = request.cluster.namespace, Logs(request.cluster.namespace), "", "it said nothing"
    while True:
        try:
            job = api.get(jobs(namespace, name))
            pods = _pods(job, api)
            for _, line in logs.new(pods, api):
                waiting.say(line)
                last = line.strip() or last
            status, words = job.get("status") or {}, "; ".join(troubles(pods))
        except Unreachable as error:
            status, words = {}, str(error)
        if status.get("succeeded"):
            return
        if status.get("failed"):
            raise KubernetesError(f"job {name}: not all of the study's data could be taken away: {last}")
        if waiting.clock() >= deadline:
            raise KubernetesError(
                f"job {name} has not ended yet{f' ({words})' if words else ''}; it goes on by itself: "
                f"kubectl logs -n {namespace} -f job/{name}"
            )
        waiting.sleep(POLL_SECONDS)


def _has_ended(job: ApiObject) -> bool:
    status = job.get("status") or {}
    return bool(status.get("succeeded") or status.get("failed"))


def _take_away(job: ApiObject, api: Api) -> list[str]:
    """Delete the Job, with which its ConfigMap goes; returns what is still there of both, in words."""
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

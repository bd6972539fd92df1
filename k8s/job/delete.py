"""Delete a study's jobs with the objects that were created for them. Ledger, store and MLflow stay."""

from __future__ import annotations

from functools import partial

from k8s.api_paths import core, ray_jobs
from k8s.client import Api
from k8s.errors import KubernetesError, NotFound, Unreachable
from k8s.job.submit import jobs_of
from k8s.job.waiting import Waiting
from k8s.manifest import STUDY_LABEL, STUDY_NAME_ANNOTATION
from k8s.names import label_of
from k8s.request import Request


def delete(request: Request, api: Api, waiting: Waiting) -> list[str]:
    """Delete all jobs of a study and wait until their pods are gone.

    KubeRay asks the driver to stop first, which saves what runs.

    Returns:
        Names of the jobs.

    Raises:
        KubernetesError: something is left at the end of the wait; names it, and the finalizers that hold it.
    """
    namespace = request.cluster.namespace
    names = [job["metadata"]["name"] for job in jobs_of(request, api)]
    for name in names:
        try:
            api.delete(ray_jobs(namespace, name))
        except NotFound:
            continue
        waiting.say(f"{name}: asked to end")
    left = waiting.until_gone(partial(_left, request, names, api), waiting.deadline())
    if left:
        raise KubernetesError(
            f"still there after {waiting.seconds:g} s: {'; '.join(left)}. Is KubeRay's operator running? It takes its "
            f"own finalizers off. The same command waits on"
        )
    return names


def _left(request: Request, names: list[str], api: Api) -> list[str]:
    """Return what is left, in words; an API server that does not answer counts as something left."""
    namespace = request.cluster.namespace
    try:
        jobs = jobs_of(request, api)
        pods = api.items(core(namespace, "pods"), labelSelector=f"{STUDY_LABEL}={label_of(request.study)}")
        files = [name for name in names if api.find(core(namespace, "configmaps", name))]
    except Unreachable as error:
        return [str(error)]
    words = []
    for job in jobs:
        held = ", ".join(job["metadata"].get("finalizers") or [])
        words.append(f"job {job['metadata']['name']}" + (f" (held by finalizer {held})" if held else ""))
    own = [pod for pod in pods if pod["metadata"].get("annotations", {}).get(STUDY_NAME_ANNOTATION) == request.study]
    words += [f"pod {pod['metadata']['name']}" for pod in own]
    return words + [f"ConfigMap {name}" for name in files]

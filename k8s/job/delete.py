"""End a job and take away what was made for it. What the study has found stays: ledger, store and MLflow."""

from __future__ import annotations

from functools import partial

from k8s.api_paths import core, ray_jobs
from k8s.client import Api
from k8s.errors import KubernetesError, NotFound, Unreachable
from k8s.job.submit import jobs_of
from k8s.job.waiting import Waiting
from k8s.manifest import STUDY, STUDY_NAME
from k8s.names import label_of
from k8s.request import Request


def delete(request: Request, api: Api, waiting: Waiting) -> list[str]:
    """Delete all jobs of a study and wait until their pods are gone.

    KubeRay asks the driver to stop first, which saves what runs.

    Returns:
        Names of the jobs.

    Raises:
        KubernetesError: something is still there after so many seconds; says what, and what holds it.
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
    """What is still there, in words; that nobody answers is no sign that all is gone."""
    namespace = request.cluster.namespace
    try:
        jobs = jobs_of(request, api)
        pods = api.items(core(namespace, "pods"), labelSelector=f"{STUDY}={label_of(request.study)}")
        files = [name for name in names if api.find(core(namespace, "configmaps", name))]
    except Unreachable as error:
        return [str(error)]
    words = []
    for job in jobs:
        held = ", ".join(job["metadata"].get("finalizers") or [])
        words.append(f"job {job['metadata']['name']}" + (f" (held by finalizer {held})" if held else ""))
    own = [pod for pod in pods if pod["metadata"].get("annotations", {}).get(STUDY_NAME) == request.study]
    words += [f"pod {pod['metadata']['name']}" for pod in own]
    return words + [f"ConfigMap {name}" for name in files]

"""Submit a study as a RayJob: the same request twice is one job."""

from __future__ import annotations

from dataclasses import dataclass

from k8s.api_paths import ApiObject, core, ray_jobs
from k8s.client import Api, Server
from k8s.errors import Conflict, KubernetesError, NotFound, Unreachable
from k8s.job.status import JobState, state_of
from k8s.manifest import DIGEST_ANNOTATION, PART_LABEL, STUDY_LABEL, STUDY_NAME_ANNOTATION, Manifests
from k8s.names import label_of
from k8s.request import Request


@dataclass(frozen=True)
class SubmittedJob:
    """The job of a request.

    Attributes:
        name: name of the job.
        is_new: whether it was created just now, and not by an earlier submission.
        state: state of the job.
    """

    name: str
    is_new: bool
    state: JobState


def submit(request: Request, manifests: Manifests, api: Api) -> SubmittedJob:
    """Create the job, unless it exists already.

    Raises:
        KubernetesError: another job runs this study, or the API server refuses or does not answer.
    """
    is_submitted(request, manifests, api)  # raises if another job runs this study
    namespace = request.cluster.namespace
    config_map, is_new_map = _create_or_find(api, core(namespace, "configmaps"), manifests.config_map, manifests)
    try:
        job, is_new = _create_or_find(api, ray_jobs(namespace), manifests.ray_job, manifests)
    except KubernetesError as error:
        if is_new_map and not isinstance(error, Unreachable):
            api.delete(core(namespace, "configmaps", manifests.name))
        raise
    owner = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "name": manifests.name,
        "uid": job["metadata"]["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }
    if config_map["metadata"].get("ownerReferences") != [owner]:
        try:
            api.patch(core(namespace, "configmaps", manifests.name), {"metadata": {"ownerReferences": [owner]}})
        except NotFound:  # it belonged to a job deleted just now, and was deleted with it
            metadata = manifests.config_map["metadata"] | {"ownerReferences": [owner]}
            api.create(core(namespace, "configmaps"), manifests.config_map | {"metadata": metadata})
    return SubmittedJob(manifests.name, is_new, state_of(job))


def is_submitted(request: Request, manifests: Manifests, api: Api) -> bool:
    """Whether the job exists already.

    Raises:
        KubernetesError: another job runs this study, or the API server refuses or does not answer.
    """
    jobs = {job["metadata"]["name"]: state_of(job) for job in jobs_of(request, api)}
    running = [name for name, state in jobs.items() if name != manifests.name and not state.has_ended]
    if running:
        raise KubernetesError(
            f"study {request.study!r} is run by the job {running[0]} in {request.cluster.namespace}, which was "
            f"submitted with another file, image or overrides; watch it, or end it with `python -m k8s delete` (what "
            f"is done is kept), and submit again"
        )
    return manifests.name in jobs


def dry_run(manifests: Manifests, namespace: str, server: Server) -> list[ApiObject]:
    """Return the objects as the API server would store them; create nothing.

    Raises:
        Refused: the server would refuse one of them.
    """
    stored: list[ApiObject] = []
    for path, thing in (
        (core(namespace, "configmaps"), manifests.config_map),
        (ray_jobs(namespace), manifests.ray_job),
    ):
        try:
            stored.append(server.create(path, thing, dryRun="All"))
        except Conflict:
            stored.append(server.get(f"{path}/{manifests.name}"))
    return stored


def jobs_of(request: Request, api: Api) -> list[ApiObject]:
    """Return all jobs of the study, the newest first."""
    found = api.items(
        ray_jobs(request.cluster.namespace), labelSelector=f"{STUDY_LABEL}={label_of(request.study)},{PART_LABEL}=job"
    )
    own = [job for job in found if job["metadata"].get("annotations", {}).get(STUDY_NAME_ANNOTATION) == request.study]
    return sorted(own, key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True)


def _create_or_find(api: Api, path: str, thing: ApiObject, manifests: Manifests) -> tuple[ApiObject, bool]:
    """Return the object as the server has it, and whether it was created just now."""
    try:
        return api.create(path, thing), True
    except Conflict:
        found = api.get(f"{path}/{manifests.name}")
    except NotFound as missing:
        raise KubernetesError(f"{missing}; does the namespace exist, and is KubeRay installed?") from missing
    if found["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION) != manifests.digest:
        raise KubernetesError(
            f"{thing['kind']} {manifests.name} exists, but was not made for this request; delete it, or give the study "
            f"another name"
        )
    if found["metadata"].get("deletionTimestamp"):
        raise KubernetesError(f"{thing['kind']} {manifests.name} is being deleted; submit again when it is gone")
    return found, False

"""Kueue, where there is one: the queue of a job, and why it holds the job back."""

from __future__ import annotations

from k8s.check import Server
from k8s.errors import Forbidden, NotFound
from k8s.paths import Object

QUEUE, ELASTIC = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
"""What Kueue reads on a job: a label and an annotation."""

JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of its Workload, which stands for a job in a queue."""


def kueue(server: Server, namespace: str, kind: str, name: str = "") -> str:
    """Path of one of Kueue's objects, or of all of a kind, in the version that the server prefers.

    Raises:
        NotFound: there is no Kueue.
    """
    version = server.get("/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
    return f"/apis/{version}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def why_queued(job: Object, server: Server) -> str | None:
    """Why a queue holds a RayJob back, in words; None where none does."""
    metadata = job["metadata"]
    queue = metadata["labels"].get(QUEUE)
    if queue is None or not job["spec"].get("suspend"):
        return None
    words = f"waits in queue {queue}"
    try:
        path = kueue(server, metadata["namespace"], "workloads")
        workloads = server.items(path, labelSelector=f"{JOB_UID}={metadata['uid']}")
    except Forbidden:
        return f"{words}; why, its Workload tells, which may not be read here"
    except NotFound:
        return f"{words}, and there is no Kueue"
    conditions = [each for workload in workloads for each in (workload.get("status") or {}).get("conditions") or []]
    reasons = [each["message"] for each in conditions if each["type"] == "QuotaReserved" and each["status"] == "False"]
    return ": ".join([words, *reasons[-1:]])

"""Kueue, where there is one: the queue of a job, and why it holds the job back."""

from __future__ import annotations

from k8s.api_paths import ApiObject
from k8s.client import Server
from k8s.errors import Forbidden, NotFound, Refused, Unauthorized, Unreachable
from k8s.names import QUEUE

JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of its Workload, which stands for a job in a queue."""


def kueue_path(server: Server, namespace: str, kind: str, name: str = "") -> str:
    """Of one of Kueue's objects, or of all of a kind, in the version that the server prefers.

    Raises:
        NotFound: there is no Kueue.
    """
    version = server.get("/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
    return f"/apis/{version}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def why_queued(job: ApiObject, server: Server) -> str | None:
    """Why a queue holds a RayJob back, in words; None where none does.

    Raises:
        Unauthorized: nothing else would be answered either.
    """
    metadata = job["metadata"]
    queue = metadata["labels"].get(QUEUE)
    if queue is None or not job["spec"].get("suspend"):
        return None
    words = f"waits in queue {queue}"
    try:
        path = kueue_path(server, metadata["namespace"], "workloads")
        workloads = server.items(path, labelSelector=f"{JOB_UID}={metadata['uid']}")
    except Unauthorized:
        raise
    except Forbidden:
        return f"{words}; its Workload, which says why, may not be read (submitter.kueue of the chart's values)"
    except NotFound:
        return f"{words}, and there is no Kueue"
    except (Refused, Unreachable) as error:
        return f"{words}; why, cannot be had now: {error}"
    if not workloads:
        return words
    newest = max(workloads, key=lambda workload: str(workload["metadata"]["creationTimestamp"]))
    reason = _reason(newest.get("status") or {})
    return f"{words}: {reason}" if reason else words


def _reason(status: ApiObject) -> str:
    """No quota, or the checks that are to come after it; empty where Kueue has not looked yet."""
    conditions = status.get("conditions") or []
    no_quota = [each for each in conditions if each["type"] == "QuotaReserved" and each["status"] == "False"]
    if no_quota:
        return str(no_quota[-1]["message"])
    checks = [check for check in status.get("admissionChecks") or [] if check["state"] != "Ready"]
    return "; ".join(f"{check['name']} is {check['state']}: {check['message']}".removesuffix(": ") for check in checks)

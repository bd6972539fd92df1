"""Kueue, where it is installed: why a queue holds a job back."""

from __future__ import annotations

from k8s.api_paths import ApiObject
from k8s.client import Server
from k8s.errors import Forbidden, NotFound, Refused, Unauthorized, Unreachable
from k8s.names import QUEUE_LABEL

JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""Label of a Workload, Kueue's entry for a job in a queue."""


def kueue_path(server: Server, namespace: str, kind: str, name: str = "") -> str:
    """Return the path of one of Kueue's objects, or of all of a kind, in the version that the server prefers.

    Raises:
        NotFound: Kueue is not installed.
    """
    version = server.get("/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
    return f"/apis/{version}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def why_queued(job: ApiObject, server: Server) -> str | None:
    """Return why a queue holds a RayJob back, in words; None where none does.

    Raises:
        Unauthorized: the credentials are no longer accepted, so that no other request would succeed.
    """
    metadata = job["metadata"]
    queue = metadata["labels"].get(QUEUE_LABEL)
    if queue is None or not job["spec"].get("suspend"):
        return None
    words = f"waits in queue {queue}"
    try:
        path = kueue_path(server, metadata["namespace"], "workloads")
        workloads = server.items(path, labelSelector=f"{JOB_UID_LABEL}={metadata['uid']}")
    except Unauthorized:
        raise
    except Forbidden:
        return f"{words}; its Workload, which says why, may not be read (submitter.kueue of the chart's values)"
    except NotFound:
        return f"{words}, and there is no Kueue"
    except (Refused, Unreachable) as error:
        return f"{words}; the reason cannot be read now: {error}"
    if not workloads:
        return words
    newest = max(workloads, key=lambda workload: str(workload["metadata"]["creationTimestamp"]))
    reason = _reason(newest.get("status") or {})
    return f"{words}: {reason}" if reason else words


def _reason(status: ApiObject) -> str:
    """Return the missing quota or the open admission checks; empty where Kueue has not handled the job yet."""
    conditions = status.get("conditions") or []
    no_quota = [each for each in conditions if each["type"] == "QuotaReserved" and each["status"] == "False"]
    if no_quota:
        return str(no_quota[-1]["message"])
    checks = [check for check in status.get("admissionChecks") or [] if check["state"] != "Ready"]
    return "; ".join(f"{check['name']} is {check['state']}: {check['message']}".removesuffix(": ") for check in checks)

"""The reason why Kueue holds a job back, from the answers of the API server."""

from typing import Any

import pytest

from k8s.client import Api
from k8s.errors import Unauthorized
from k8s.job.kueue import why_queued
from tests.k8s.api_server import ApiServer

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/studies/workloads"

JOB = {
    "metadata": {"namespace": "studies", "uid": "uid-1", "labels": {"kueue.x-k8s.io/queue-name": "research"}},
    "spec": {"suspend": True},
}

NO_QUOTA = {"type": "QuotaReserved", "status": "False", "message": "insufficient quota for cpu"}
QUOTA = {"type": "QuotaReserved", "status": "True", "message": "Quota reserved"}


def workload(server: ApiServer, name: str, status: dict[str, Any], uid: str = "uid-1", created: int = 1) -> None:
    metadata = {"labels": {"kueue.x-k8s.io/job-uid": uid}, "creationTimestamp": f"2026-01-0{created}T00:00:00Z"}
    server.put(f"{WORKLOADS}/{name}", metadata=metadata, status=status)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "waits in queue research"),
        ({"conditions": [NO_QUOTA]}, "waits in queue research: insufficient quota for cpu"),
        (
            {
                "conditions": [QUOTA],
                "admissionChecks": [
                    {"name": "nodes", "state": "Pending", "message": "the autoscaler was asked"},
                    {"name": "budget", "state": "Ready", "message": "fine"},
                    {"name": "review", "state": "Retry", "message": ""},
                ],
            },
            "waits in queue research: nodes is Pending: the autoscaler was asked; review is Retry",
        ),
    ],
)
def test_workload_says_why(server: ApiServer, api: Api, status: dict[str, Any], words: str) -> None:
    workload(server, "own", status, created=2)
    workload(server, "an-older-slice", {"conditions": [{**NO_QUOTA, "message": "of old"}]})
    workload(server, "of-another-job", {"conditions": [{**NO_QUOTA, "message": "not its own"}]}, "uid-2", created=3)
    assert why_queued(JOB, api) == words


@pytest.mark.parametrize(
    "job",
    [{**JOB, "spec": {"suspend": False}}, {**JOB, "spec": {}}, {**JOB, "metadata": {**JOB["metadata"], "labels": {}}}],
)
def test_job_that_runs_or_that_its_user_has_suspended_waits_in_no_queue(api: Api, job: dict[str, Any]) -> None:
    assert why_queued(job, api) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "; its Workload, which says why, may not be read"),
        (404, ", and there is no Kueue"),
        (422, "; the reason cannot be read now: "),
        (500, "; the reason cannot be read now: "),
    ],
)
def test_trouble_with_kueue_keeps_nobody_from_watching(
    server: ApiServer, api: Api, status: int, words: str, refuse: Any
) -> None:
    refuse(status, "conversion webhook: connection refused", "/workloads")
    assert f"waits in queue research{words}" in str(why_queued(JOB, api))


def test_unknown_user_is_an_error(api: Api, refuse: Any) -> None:
    refuse(401, "who are you", "/workloads")
    with pytest.raises(Unauthorized):
        why_queued(JOB, api)

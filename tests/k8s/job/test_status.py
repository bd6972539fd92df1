"""The states of KubeRay and Kubernetes in words for people."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.job.status import state_of, troubles


def job(**status: Any) -> dict[str, Any]:
    return {"spec": {"backoffLimit": 2}, "status": status}


@pytest.mark.parametrize(
    ("status", "ended", "succeeded", "words"),
    [
        ({}, False, False, "New"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, False, False, "Running"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, False, False, "Running (FAILED)"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, False, False, "Running (SUCCEEDED)"),
        ({"jobDeploymentStatus": "Retrying", "failed": 1}, False, False, "Retrying, try 2 of 3"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "failed": 1}, True, True, None),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, True, False, "Complete (STOPPED)"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "failed": 3}, True, False, "Failed, try 3 of 3"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "failed": 1}, True, False, "Failed"),
        ({"jobDeploymentStatus": "ValidationFailed"}, True, False, "ValidationFailed"),
        ({"jobDeploymentStatus": "Suspended"}, False, False, "Suspended"),
    ],
)
def test_job_has_ended_only_when_kuberay_says_so_and_succeeded_only_when_both_do(
    status: dict[str, Any], ended: bool, succeeded: bool, words: str | None
) -> None:
    state = state_of(job(**status))
    assert (state.has_ended, state.has_succeeded) == (ended, succeeded)
    assert words is None or str(state) == words


def test_job_that_is_new_has_no_status_at_all() -> None:
    assert state_of({"spec": {}, "status": None}).deployment == "New"


NOT_READY = {"type": "Ready", "status": "False"}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "worker-1"}, "spec": {"nodeName": "node-7"}, "status": status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "ray-worker", "state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]),
            "worker-1: no node has room for it: 0/3",
        ),
        (pod(containerStatuses=[waiting("ImagePullBackOff", "denied")]), "the image cannot be pulled (denied)"),
        (pod(initContainerStatuses=[waiting("CrashLoopBackOff")]), "its container ends again and again"),
        (pod(containerStatuses=[waiting("CreateContainerConfigError", 'secret "db" not found')]), '"db" not found'),
        (
            pod(containerStatuses=[{"name": "r", "state": {}, "lastState": {"terminated": {"reason": "OOMKilled"}}}]),
            "worker-1: r was killed for its memory (OOMKilled)",
        ),
        (
            pod(phase="Running", conditions=[NOT_READY], containerStatuses=[{"name": "r", "ready": True}]),
            "worker-1: its node node-7 does not answer; what ran there goes on elsewhere",
        ),
        (pod(reason="Evicted", message="The node was low on resource: memory"), "Evicted: The node was low"),
    ],
)
def test_pods_trouble_is_told_in_words(found: dict[str, Any], says: str) -> None:
    (line,) = troubles([found])
    assert says in line


def test_pod_whose_node_says_why_it_is_not_ready_is_not_lost() -> None:
    ready = [{"name": "ray-head", "ready": True}]
    gated = pod(phase="Running", conditions=[NOT_READY | {"reason": "ReadinessGatesNotReady"}], containerStatuses=ready)
    assert troubles([gated]) == ()


def test_lost_driver_is_told_with_what_lets_kubernetes_begin_the_next_try() -> None:
    lost = pod(phase="Running", conditions=[NOT_READY], containerStatuses=[{"name": "r", "ready": True}])
    lost["metadata"]["labels"] = {"hidfd/part": "head"}
    assert "kubectl delete node node-7" in troubles([lost])[0]


def test_container_that_is_being_made_is_no_trouble() -> None:
    assert troubles([pod(containerStatuses=[waiting("ContainerCreating")])]) == ()


def test_volume_that_cannot_be_mounted_is_told_while_its_pod_waits() -> None:
    event = {"reason": "FailedMount", "message": "no such claim", "involvedObject": {"name": "worker-1"}}
    assert troubles([pod(phase="Pending")], [event, event]) == ("worker-1: FailedMount: no such claim",)
    ready = pod(conditions=[{"type": "Ready", "status": "True"}])
    assert troubles([ready], [event]) == (), "an old event says nothing of a pod that runs"


def test_pod_that_is_not_even_made_is_told_with_the_reason() -> None:
    about = {"kind": "RayCluster", "name": "cluster-1"}
    event = {"reason": "FailedToCreateWorkerPod", "message": "exceeded quota: team", "involvedObject": about}
    assert troubles([], [event]) == ("cluster-1: a pod cannot be created: exceeded quota: team",)

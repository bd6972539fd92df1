"""Delete a study's data by a Job that may fail, be cut off, or leave its pod."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from k8s.client import Api
from k8s.errors import (
    KubernetesError,
)
from k8s.job.purge import purge
from k8s.job.waiting import Waiting
from k8s.manifest import Manifests
from k8s.request import Request
from tests.k8s.api_server import ApiServer
from tests.k8s.conftest import NAMESPACED, say_nothing

PURGE_JOBS = "/apis/batch/v1/namespaces/studies/jobs"


def purged(server: ApiServer, name: str, **status: int) -> Callable[[float], None]:
    """Return a `sleep` during which the Job's pod runs and ends; before, the server does not answer once."""
    pod = f"{NAMESPACED}/pods/{name}-purge-x"
    server.faults = [None] * 5 + [503]

    def sleep(seconds: float) -> None:
        job = server.objects[f"{PURGE_JOBS}/{name}-purge"]
        uid = job["metadata"]["uid"]
        metadata = {"labels": {"controller-uid": uid}, "ownerReferences": [{"uid": uid}]}
        server.put(pod, metadata=metadata, spec={"containers": [{"name": "forget"}]})
        server.logs[pod] = ["2026-11-28T12:00:01.0Z fashion: forgotten"]
        job["status"] = status

    return sleep


def test_purge_runs_the_tuners_own_command_where_the_data_is_seen_and_leaves_nothing(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    said: list[str] = []
    seen: list[Any] = []
    server.on_request = lambda method, path: seen.extend(
        thing for where, thing in server.objects.items() if where.startswith(PURGE_JOBS)
    )
    purge(asked, api, Waiting(9, said.append, sleep=purged(server, manifests.name, succeeded=1)))
    assert said == ["fashion: forgotten"]
    (container,) = seen[0]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        "sh",
        "-c",
        "python -m tune forget /etc/hidfd/study.yaml resources.autoscaling=true --yes",
    ]
    assert {"name": "claim-results", "mountPath": "/mnt/hidfd", "readOnly": False} in container["volumeMounts"]
    assert [path for path in server.objects if "purge" in path] == []


@pytest.mark.parametrize(("collected_after", "ends"), [(6, True), (99, False)])
def test_purge_has_ended_only_when_its_pod_is_collected(
    collected_after: int, ends: bool, asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    run = purged(server, manifests.name, succeeded=1)
    pod = f"{NAMESPACED}/pods/{manifests.name}-purge-x"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            run(seconds)
            server.objects[pod]["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
        if len(slept) in (2, 4):
            server.faults = [503]  # no sign that all is gone
        if len(slept) == collected_after:
            del server.objects[pod]

    forget = partial(purge, asked, api, Waiting(9, say_nothing, sleep=sleep, clock=lambda: len(slept)))
    if ends:
        forget()
        assert len(slept) == collected_after
    else:
        with pytest.raises(KubernetesError, match=r"data is deleted; Kubernetes has still to delete pod .*-purge-x$"):
            forget()
        assert len(slept) > 30, "however little was left of the time"
        with contextlib.suppress(KubernetesError):
            forget()
        assert f"{PURGE_JOBS}/{manifests.name}-purge" in server.objects, "it starts anew beside a pod that stays"


def test_server_that_does_not_answer_while_a_purge_ends_is_asked_again(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    run, outages = purged(server, manifests.name, succeeded=1), [503]

    def sleep(seconds: float) -> None:
        if f"{PURGE_JOBS}/{manifests.name}-purge" in server.objects:
            run(seconds)

    def on_request(method: str, path: str) -> None:
        if method == "DELETE" and outages:
            server.faults = [outages.pop()]

    server.on_request = on_request
    purge(asked, api, Waiting(9, say_nothing, sleep=sleep))
    assert not outages
    assert [path for path in server.objects if "purge" in path] == []


def test_purge_of_somebody_else_that_begins_meanwhile_is_left_alone(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    name = f"{manifests.name}-purge"
    run, pod, slept = purged(server, manifests.name, succeeded=1), f"{NAMESPACED}/pods/{name}-x", []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            run(seconds)
            server.objects[pod]["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
        if len(slept) == 3:  # its own Job is deleted, its pod not yet collected
            assert f"{PURGE_JOBS}/{name}" not in server.objects
            other = {"uid": "of-somebody-else"}
            server.put(f"{PURGE_JOBS}/{name}", metadata=other)
            server.put(f"{NAMESPACED}/configmaps/{name}", metadata={"ownerReferences": [other]})
        if len(slept) == 4:
            del server.objects[pod]

    purge(asked, api, Waiting(9, say_nothing, sleep=sleep, clock=lambda: len(slept)))
    assert len(slept) == 4
    assert {f"{PURGE_JOBS}/{name}", f"{NAMESPACED}/configmaps/{name}"} <= set(server.objects)


def test_purge_that_fails_says_so_and_can_be_given_again(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    with pytest.raises(KubernetesError, match="not all of the study's data could be deleted: fashion: forgotten"):
        purge(asked, api, Waiting(9, say_nothing, sleep=purged(server, manifests.name, failed=1)))
    path = f"{PURGE_JOBS}/{manifests.name}-purge"
    with pytest.raises(
        KubernetesError, match="has not ended yet; it goes on by itself: kubectl logs -n studies -f job/"
    ):
        purge(asked, api, Waiting(0, say_nothing))
    running = server.objects[path]["metadata"]["uid"]
    (owner,) = server.objects[f"{NAMESPACED}/configmaps/{manifests.name}-purge"]["metadata"]["ownerReferences"]
    assert owner["uid"] == running, "it is deleted with its Job"
    seen: list[str] = []
    server.on_request = lambda method, asked_for: seen.append(
        server.objects.get(path, {}).get("metadata", {}).get("uid")
    )
    purge(asked, api, Waiting(9, say_nothing, sleep=purged(server, manifests.name, succeeded=1)))
    assert set(seen) <= {running, None}, "what deletes is not killed half-way, nor doubled"

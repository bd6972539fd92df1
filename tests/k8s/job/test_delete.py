"""Delete a study's jobs, and wait for what they leave."""

from __future__ import annotations

import pytest

from k8s.client import Api
from k8s.errors import (
    KubernetesError,
)
from k8s.job.delete import delete
from k8s.job.waiting import Waiting
from k8s.request import Request
from tests.k8s.api_server import ApiServer
from tests.k8s.conftest import JOBS, NAMESPACED, say_nothing


def test_delete_waits_until_pods_are_gone_and_the_data_stays(
    asked: Request, submitted: str, server: ApiServer, api: Api
) -> None:
    labels = {"hidfd/study": "fashion-students"}
    own, other = ({"hidfd/study-name": name} for name in ("Fashion_students", "fashion.students"))
    server.put(
        f"{NAMESPACED}/pods/{submitted}-head", metadata={"labels": labels, "annotations": own}, spec={"containers": []}
    )
    server.put(f"{NAMESPACED}/pods/another", metadata={"labels": labels, "annotations": other}, spec={"containers": []})
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            del server.objects[f"{NAMESPACED}/pods/{submitted}-head"]

    server.faults = [None, None, 503]
    assert delete(asked, api, Waiting(60, say_nothing, sleep=sleep)) == [submitted]
    assert len(slept) == 3, "that nobody answers once is no sign that all is gone; another study's pods are not its own"
    assert f"{NAMESPACED}/persistentvolumeclaims/hidfd-store" in server.objects


def test_finalizer_that_hangs_is_named_with_what_to_look_at(
    asked: Request, submitted: str, server: ApiServer, api: Api
) -> None:
    server.objects[f"{JOBS}/{submitted}"]["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    with pytest.raises(KubernetesError, match=r"held by finalizer ray\.io/rayjob-finalizer.*operator running\?"):
        delete(asked, api, Waiting(0, say_nothing, sleep=lambda seconds: None))


def test_deleting_what_is_not_there_is_no_error(asked: Request, api: Api) -> None:
    assert delete(asked, api, Waiting(5, say_nothing)) == []

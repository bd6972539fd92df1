"""Watch a job against a server that fails in every way that one can."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from k8s.client import Api
from k8s.errors import (
    JobFailedError,
    JobGoneError,
    Unauthorized,
    Unreachable,
)
from k8s.job import watch as watching
from k8s.job.watch import JobSnapshot, Watcher
from tests.k8s.api_server import DROP, ApiServer
from tests.k8s.conftest import JOBS, NAMESPACED


class ScriptedJob:
    """A job whose status follows a script: one part of it happens before each poll."""

    def __init__(self, server: ApiServer, name: str, *parts: Callable[[], None] | dict[str, Any]) -> None:
        self._server, self._name, self._parts = server, name, list(parts)
        self._num_polls = 0
        self.views: list[JobSnapshot] = []

    def sleep(self, seconds: float) -> None:
        """Let the next part happen."""
        self._num_polls += 1
        assert self._num_polls < 10_000, "the watch does not end"
        part = self._parts.pop(0) if self._parts else {}
        if isinstance(part, dict):
            job = self._server.objects[f"{JOBS}/{self._name}"]
            job["status"] = job.get("status", {}) | part
        else:
            part()

    def watch(self, api: Api) -> JobSnapshot:
        self.sleep(0.0)
        return Watcher(api, "studies", self._name).watch(self.views.append, sleep=self.sleep)


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "cluster-1"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


def test_watch_ends_when_both_status_fields_say_so(submitted: str, server: ApiServer, api: Api) -> None:
    job_life = ScriptedJob(server, submitted, RUNNING, {"jobStatus": "SUCCEEDED"}, DONE)
    assert job_life.watch(api).state.has_succeeded
    assert [str(view.state) for view in job_life.views[:3]] == [
        "Running",
        "Running (SUCCEEDED)",
        "Complete (SUCCEEDED)",
    ]


def test_failed_try_between_two_is_not_the_end(submitted: str, server: ApiServer, api: Api) -> None:
    retrying = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}
    job_life = ScriptedJob(server, submitted, RUNNING, {"jobStatus": "FAILED"}, retrying, RUNNING, DONE)
    assert job_life.watch(api).state.tries == 2


@pytest.mark.parametrize("fault", [DROP, 410, 429, 500, 503])
def test_watch_goes_on_over_every_passing_fault_and_says_that_it_waits(
    submitted: str, server: ApiServer, api: Api, fault: int
) -> None:
    def fail() -> None:
        server.faults = [fault, fault]

    job_life = ScriptedJob(server, submitted, RUNNING, fail, lambda: None, DONE)
    assert job_life.watch(api).state.has_succeeded
    away = [view.away for view in job_life.views if view.away]
    assert len(away) == 2
    assert all("API server" in words for words in away)


def test_watch_gives_up_on_a_server_that_stays_away(
    submitted: str, server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LONGEST_OUTAGE_SECONDS", 0.05)

    def fail() -> None:
        monkeypatch.setattr(server, "answer", lambda *request: (503, {"message": "for ever"}))

    with pytest.raises(Unreachable, match="answers 503"):
        ScriptedJob(server, submitted, RUNNING, fail).watch(api)


def test_job_that_somebody_deletes_meanwhile_is_said_to_be_gone(submitted: str, server: ApiServer, api: Api) -> None:
    job_life = ScriptedJob(server, submitted, RUNNING, lambda: server.objects.pop(f"{JOBS}/{submitted}"))
    with pytest.raises(JobGoneError, match="is gone: somebody deleted it"):
        job_life.watch(api)


def test_credentials_that_expire_meanwhile_end_the_watch_with_the_servers_words(
    submitted: str, server: ApiServer, api: Api
) -> None:
    def expire() -> None:
        server.faults = [401]

    with pytest.raises(Unauthorized, match="answers 401"):
        ScriptedJob(server, submitted, RUNNING, expire).watch(api)


def test_failed_job_is_told_with_the_drivers_own_last_word(submitted: str, server: ApiServer, api: Api) -> None:
    labels = {"hidfd/study": "fashion-students", "hidfd/part": "submitter", "job-name": submitted}
    server.put(
        f"{NAMESPACED}/pods/{submitted}-x", metadata={"labels": labels}, spec={"containers": [{"name": "c"}]}, status={}
    )
    error = '{"event": "error", "error": "the ledger cannot be opened", "exit_code": 7}'
    server.logs[f"{NAMESPACED}/pods/{submitted}-x"] = [f"2026-11-28T12:00:01.0Z {error}"]
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "failed": 2}
    with pytest.raises(JobFailedError, match=r"ended as Failed, try 2 of 6: the ledger cannot be opened \(exit code 7"):
        ScriptedJob(server, submitted, RUNNING, ended).watch(api)


def test_log_that_comes_again_in_rays_last_message_is_not_counted_again(
    submitted: str, server: ApiServer, api: Api
) -> None:
    labels = {"hidfd/study": "fashion-students", "hidfd/part": "submitter", "job-name": submitted}
    pod = f"{NAMESPACED}/pods/{submitted}-x"
    server.put(pod, metadata={"labels": labels}, spec={"containers": [{"name": "c"}]}, status={})
    lines = [
        '{"event": "study_started", "study": "f", "num_students": 9}',
        '{"event": "trial_ended", "study": "f", "trial": 0}',
        "\x1b[31mJob 'x' failed\x1b[0m",
        "Status message: Job entrypoint command failed with exit code 137, last available logs (truncated to ...):",
        '{"event": "trial_ended", "study": "f", "trial": 0}',
        "Traceback of something",
    ]
    server.logs[pod] = [f"2026-11-28T12:00:0{number}.0Z {line}" for number, line in enumerate(lines)]
    job_life = ScriptedJob(server, submitted, RUNNING, DONE)
    assert job_life.watch(api).progress.num_ended == 1
    shown = [line for view in job_life.views for _, line in view.lines]
    assert shown == ["Job 'x' failed"]


def test_failed_job_without_a_word_of_its_driver_gives_kuberays_reason(
    submitted: str, server: ApiServer, api: Api
) -> None:
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded", "message": "48 h"}
    with pytest.raises(JobFailedError, match=r"cluster\.deadline_hours is over: 48 h"):
        ScriptedJob(server, submitted, ended).watch(api)


def test_pod_whose_node_does_not_answer_hides_nothing_else(submitted: str, server: ApiServer, api: Api) -> None:
    labels = {"hidfd/study": "fashion-students", "hidfd/part": "submitter", "job-name": submitted}
    for name in ("lost", "well"):
        pod = f"{NAMESPACED}/pods/{name}"
        server.put(pod, metadata={"labels": labels}, spec={"containers": [{"name": "c"}]}, status={})
        server.logs[pod] = [f"2026-11-28T12:00:01.0Z said by {name}"]
    ordinary = server.answer

    def answer(method: str, path: str, query: Any, body: Any) -> Any:
        return (500, {"message": "no route to its node"}) if "lost/log" in path else ordinary(method, path, query, body)

    server.answer = answer  # type: ignore[method-assign]
    job_life = ScriptedJob(server, submitted, RUNNING, DONE)
    assert job_life.watch(api).state.has_succeeded
    assert "lost: its log cannot be read now" in job_life.views[0].troubles[0]
    assert job_life.views[0].lines == (("well", "said by well"),)


def test_troubles_are_those_of_this_jobs_pods_only(submitted: str, server: ApiServer, api: Api) -> None:
    unschedulable = {"conditions": [{"reason": "Unschedulable", "status": "False", "message": "0/3 nodes"}]}
    for name, cluster in (("own", "cluster-1"), ("other", "cluster-2")):
        labels = {"hidfd/study": "fashion-students", "hidfd/part": "worker", "ray.io/cluster": cluster}
        server.put(
            f"{NAMESPACED}/pods/{name}", metadata={"labels": labels}, spec={"containers": []}, status=unschedulable
        )
    job_life = ScriptedJob(server, submitted, RUNNING, DONE)
    job_life.watch(api)
    assert job_life.views[0].troubles == ("own: no node has room for it: 0/3 nodes",)


def test_watch_says_why_a_queue_holds_the_job_back(submitted: str, server: ApiServer, api: Api, refuse: Any) -> None:
    job = server.objects[f"{JOBS}/{submitted}"]
    job["spec"]["suspend"] = True  # by Kueue, for its label
    server.put(
        "/apis/kueue.x-k8s.io/v1beta2/namespaces/studies/workloads/own",
        metadata={"labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]}},
        status={"conditions": [{"type": "QuotaReserved", "status": "False", "message": "2 cpu more needed"}]},
    )
    broken = partial(refuse, 500, "conversion webhook", "/workloads")
    admitted = partial(job["spec"].pop, "suspend")
    job_life = ScriptedJob(server, submitted, {"jobDeploymentStatus": "Suspended"}, broken, admitted, DONE)
    assert job_life.watch(api).queued is None
    first, second, third = [view.queued for view in job_life.views[:3]]
    assert first == "waits in queue research: 2 cpu more needed"
    assert str(second).startswith("waits in queue research; the reason cannot be read now")
    assert third is None


@pytest.mark.parametrize(("num_workers", "is_told"), [(3, True), (2, False)])
def test_pod_that_may_not_be_made_is_told_while_it_is_missing(
    submitted: str, server: ApiServer, api: Api, num_workers: int, is_told: bool
) -> None:
    for name, labels in (
        ("head", {"ray.io/cluster": "cluster-1"}),
        ("worker-1", {"ray.io/cluster": "cluster-1"}),
        ("worker-2", {"ray.io/cluster": "cluster-1"}),
        ("submitter", {"job-name": submitted}),
    ):
        labelled = {"labels": {"hidfd/study": "fashion-students", **labels}}
        server.put(f"{NAMESPACED}/pods/{name}", metadata=labelled, spec={"containers": []}, status={"phase": "Running"})
    for number, cluster in enumerate(("cluster-0", "cluster-1")):
        about = {"kind": "RayCluster", "name": cluster}
        server.put(
            f"{NAMESPACED}/events/{number}",
            reason="FailedToCreateWorkerPod",
            message="exceeded quota",
            involvedObject=about,
        )
    job_life = ScriptedJob(
        server, submitted, RUNNING | {"rayClusterStatus": {"desiredWorkerReplicas": num_workers}}, DONE
    )
    job_life.watch(api)
    assert job_life.views[0].troubles == (("cluster-1: a pod cannot be created: exceeded quota",) if is_told else ())


def test_job_that_is_taken_away_right_after_its_end_has_succeeded(submitted: str, server: ApiServer, api: Api) -> None:
    job_life = ScriptedJob(server, submitted, RUNNING, DONE, lambda: server.objects.pop(f"{JOBS}/{submitted}"))
    assert job_life.watch(api).state.has_succeeded

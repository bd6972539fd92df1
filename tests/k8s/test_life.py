"""Submit, watch and delete against a server that fails in every way that one can."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from k8s import watch as watching
from k8s.client import Api
from k8s.delete import delete
from k8s.errors import (
    Conflict,
    Forbidden,
    JobFailedError,
    JobGoneError,
    KubernetesError,
    Refused,
    Unauthorized,
    Unreachable,
)
from k8s.manifest import Manifests, render
from k8s.purge import purge
from k8s.request import Request
from k8s.submit import submit
from k8s.watch import View, Watcher
from tests.k8s.api_server import DROP, ApiServer
from tests.k8s.conftest import NAMESPACED
from tests.k8s.study_files import request

JOBS = "/apis/ray.io/v1/namespaces/studies/rayjobs"


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return request(tmp_path)


@pytest.fixture
def manifests(asked: Request) -> Manifests:
    return render(asked)


def say_nothing(words: str) -> None:
    """As --json does."""


# --- submit ---


def test_submitting_twice_is_one_job_whose_file_goes_with_it(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    assert submit(asked, manifests, api).is_new
    assert not submit(asked, manifests, api).is_new
    job, config_map = server.objects[f"{JOBS}/{manifests.name}"], f"{NAMESPACED}/configmaps/{manifests.name}"
    (owner,) = server.objects[config_map]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", job["metadata"]["uid"])


def test_unknown_fields_are_asked_to_be_refused_and_not_dropped(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    submit(asked, manifests, api)
    created = [path for method, path in server.asked if method == "POST"]
    assert all("fieldValidation=Strict" in path for path in created)


def test_second_request_for_a_study_that_runs_is_refused(
    tmp_path: Path, asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    submit(asked, manifests, api)
    changed = request(tmp_path, None, "study.num_students=99")
    with pytest.raises(KubernetesError, match=f"is run by the job {manifests.name} in studies"):
        submit(changed, render(changed), api)
    server.objects[f"{JOBS}/{manifests.name}"]["status"] = {"jobDeploymentStatus": "Failed"}
    assert submit(changed, render(changed), api).is_new, "one that has ended is in nobody's way"


def test_submit_that_died_half_way_is_finished_by_the_next(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    server.faults = [None, None, DROP]  # the list of jobs, the ConfigMap, and then the connection goes
    with pytest.raises(Unreachable):
        submit(asked, manifests, api)
    assert f"{JOBS}/{manifests.name}" not in server.objects
    assert submit(asked, manifests, api).is_new
    assert server.objects[f"{NAMESPACED}/configmaps/{manifests.name}"]["metadata"]["ownerReferences"]


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (422, Refused), (401, Unauthorized)])
def test_refused_job_leaves_nothing_and_says_the_servers_words(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api, status: int, kind: type[Refused]
) -> None:
    server.faults = [None, None, status]

    def no_job(method: str, path: str) -> None:
        server.objects.pop(f"{JOBS}/{manifests.name}", None)

    server.on_request = no_job
    with pytest.raises(kind, match=rf"POST {JOBS}.*answers {status}: as the test wants it"):
        submit(asked, manifests, api)
    assert f"{NAMESPACED}/configmaps/{manifests.name}" not in server.objects


def test_job_of_that_name_that_somebody_else_made_is_left_alone(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    server.put(f"{NAMESPACED}/configmaps/{manifests.name}", data={"theirs": "1"})
    with pytest.raises(KubernetesError, match="was not made for this request"):
        submit(asked, manifests, api)


# --- watch ---


class Story:
    """A job's life: one part before each look."""

    def __init__(self, server: ApiServer, name: str, *parts: Callable[[], None] | dict[str, Any]) -> None:
        self._server, self._name, self._parts = server, name, list(parts)
        self._num_looks = 0
        self.views: list[View] = []

    def sleep(self, seconds: float) -> None:
        """The next part happens."""
        self._num_looks += 1
        assert self._num_looks < 10_000, "the watch does not end"
        part = self._parts.pop(0) if self._parts else {}
        if isinstance(part, dict):
            job = self._server.objects[f"{JOBS}/{self._name}"]
            job["status"] = job.get("status", {}) | part
        else:
            part()

    def watch(self, api: Api) -> View:
        self.sleep(0.0)
        return Watcher(api, "studies", self._name).until_it_ends(self.views.append, sleep=self.sleep)


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "cluster-1"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


@pytest.fixture
def submitted(asked: Request, manifests: Manifests, api: Api) -> str:
    return submit(asked, manifests, api).name


def test_watch_ends_when_both_status_fields_say_so(submitted: str, server: ApiServer, api: Api) -> None:
    story = Story(server, submitted, RUNNING, {"jobStatus": "SUCCEEDED"}, DONE)
    assert story.watch(api).state.has_succeeded
    assert [str(view.state) for view in story.views[:3]] == ["Running", "Running (SUCCEEDED)", "Complete (SUCCEEDED)"]


def test_failed_try_between_two_is_not_the_end(submitted: str, server: ApiServer, api: Api) -> None:
    retrying = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}
    story = Story(server, submitted, RUNNING, {"jobStatus": "FAILED"}, retrying, RUNNING, DONE)
    assert story.watch(api).state.tries == 2


@pytest.mark.parametrize("fault", [DROP, 410, 429, 500, 503])
def test_watch_goes_on_over_every_passing_fault_and_says_that_it_waits(
    submitted: str, server: ApiServer, api: Api, fault: int
) -> None:
    def fail() -> None:
        server.faults = [fault, fault]

    story = Story(server, submitted, RUNNING, fail, lambda: None, DONE)
    assert story.watch(api).state.has_succeeded
    away = [view.away for view in story.views if view.away]
    assert len(away) == 2
    assert all("API server" in words for words in away)


def test_watch_gives_up_on_a_server_that_stays_away(
    submitted: str, server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", 0.05)

    def fail() -> None:
        monkeypatch.setattr(server, "answer", lambda *request: (503, {"message": "for ever"}))

    with pytest.raises(Unreachable, match="answers 503"):
        Story(server, submitted, RUNNING, fail).watch(api)


def test_job_that_somebody_deletes_meanwhile_is_said_to_be_gone(submitted: str, server: ApiServer, api: Api) -> None:
    story = Story(server, submitted, RUNNING, lambda: server.objects.pop(f"{JOBS}/{submitted}"))
    with pytest.raises(JobGoneError, match="is gone: somebody deleted it"):
        story.watch(api)


def test_credentials_that_expire_meanwhile_end_the_watch_with_the_servers_words(
    submitted: str, server: ApiServer, api: Api
) -> None:
    def expire() -> None:
        server.faults = [401]

    with pytest.raises(Unauthorized, match="answers 401"):
        Story(server, submitted, RUNNING, expire).watch(api)


def test_failed_job_is_told_with_the_drivers_own_last_word(submitted: str, server: ApiServer, api: Api) -> None:
    labels = {"hidfd/study": "fashion-students", "hidfd/part": "submitter", "job-name": submitted}
    server.put(
        f"{NAMESPACED}/pods/{submitted}-x", metadata={"labels": labels}, spec={"containers": [{"name": "c"}]}, status={}
    )
    error = '{"event": "error", "error": "the ledger cannot be opened", "exit_code": 7}'
    server.logs[f"{NAMESPACED}/pods/{submitted}-x"] = [f"2026-11-28T12:00:01.0Z {error}"]
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "failed": 2}
    with pytest.raises(JobFailedError, match=r"ended as Failed, try 2 of 6: the ledger cannot be opened \(exit code 7"):
        Story(server, submitted, RUNNING, ended).watch(api)


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
    story = Story(server, submitted, RUNNING, DONE)
    assert story.watch(api).progress.num_ended == 1
    shown = [line for view in story.views for _, line in view.lines]
    assert shown == ["Job 'x' failed"]


def test_failed_job_without_a_word_of_its_driver_gives_kuberays_reason(
    submitted: str, server: ApiServer, api: Api
) -> None:
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded", "message": "48 h"}
    with pytest.raises(JobFailedError, match=r"cluster\.deadline_hours is over: 48 h"):
        Story(server, submitted, ended).watch(api)


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
    story = Story(server, submitted, RUNNING, DONE)
    assert story.watch(api).state.has_succeeded
    assert "lost: its log cannot be had now" in story.views[0].troubles[0]
    assert story.views[0].lines == (("well", "said by well"),)


def test_troubles_are_those_of_this_jobs_pods_only(submitted: str, server: ApiServer, api: Api) -> None:
    unschedulable = {"conditions": [{"reason": "Unschedulable", "status": "False", "message": "0/3 nodes"}]}
    for name, cluster in (("own", "cluster-1"), ("other", "cluster-2")):
        labels = {"hidfd/study": "fashion-students", "hidfd/part": "worker", "ray.io/cluster": cluster}
        server.put(
            f"{NAMESPACED}/pods/{name}", metadata={"labels": labels}, spec={"containers": []}, status=unschedulable
        )
    story = Story(server, submitted, RUNNING, DONE)
    story.watch(api)
    assert story.views[0].troubles == ("own: no node has room for it: 0/3 nodes",)


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
    story = Story(server, submitted, {"jobDeploymentStatus": "Suspended"}, broken, admitted, DONE)
    assert story.watch(api).queued is None
    first, second, third = [view.queued for view in story.views[:3]]
    assert first == "waits in queue research: 2 cpu more needed"
    assert str(second).startswith("waits in queue research; why, cannot be had now")
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
    story = Story(server, submitted, RUNNING | {"rayClusterStatus": {"desiredWorkerReplicas": num_workers}}, DONE)
    story.watch(api)
    assert story.views[0].troubles == (("cluster-1: a pod is not made: exceeded quota",) if is_told else ())


def test_job_that_is_taken_away_right_after_its_end_has_succeeded(submitted: str, server: ApiServer, api: Api) -> None:
    story = Story(server, submitted, RUNNING, DONE, lambda: server.objects.pop(f"{JOBS}/{submitted}"))
    assert story.watch(api).state.has_succeeded


# --- delete ---


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
    assert delete(asked, api, wait_seconds=60, say=say_nothing, sleep=sleep) == [submitted]
    assert len(slept) == 3, "that nobody answers once is no sign that all is gone; another study's pods are not its own"
    assert f"{NAMESPACED}/persistentvolumeclaims/hidfd-store" in server.objects


def test_job_submitted_while_the_last_one_s_file_is_still_being_taken_away_gets_its_own(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    path = f"{NAMESPACED}/configmaps/{manifests.name}"
    gone = [owner := {"name": manifests.name, "uid": "of the last job"}]
    server.objects[path] = {
        **manifests.config_map,
        "metadata": manifests.config_map["metadata"] | {"ownerReferences": gone},
    }

    def collected(method: str, where: str) -> None:
        if method == "PATCH":
            server.objects.pop(path, None)

    server.on_request = collected
    assert submit(asked, manifests, api).is_new
    assert server.objects[path]["metadata"]["ownerReferences"] != [owner]


def test_finalizer_that_hangs_is_named_with_what_to_look_at(
    asked: Request, submitted: str, server: ApiServer, api: Api
) -> None:
    server.objects[f"{JOBS}/{submitted}"]["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    with pytest.raises(KubernetesError, match=r"held by finalizer ray\.io/rayjob-finalizer.*operator running\?"):
        delete(asked, api, wait_seconds=0, say=say_nothing, sleep=lambda seconds: None)


def test_deleting_what_is_not_there_is_no_error(asked: Request, api: Api) -> None:
    assert delete(asked, api, wait_seconds=5, say=say_nothing) == []


# --- purge ---

PURGE_JOBS = "/apis/batch/v1/namespaces/studies/jobs"


def purged(server: ApiServer, name: str, **status: int) -> Callable[[float], None]:
    """The Job's pod runs, and it ends, while somebody waits, whom nobody answers at first."""
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
    purge(asked, api, wait_seconds=9, say=said.append, sleep=purged(server, manifests.name, succeeded=1))
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

    forget = partial(purge, asked, api, wait_seconds=9, say=say_nothing, sleep=sleep, clock=lambda: len(slept))
    if ends:
        forget()
        assert len(slept) == collected_after
    else:
        with pytest.raises(KubernetesError, match=r"data is taken away; Kubernetes still collects pod .*-purge-x$"):
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
    purge(asked, api, wait_seconds=9, say=say_nothing, sleep=sleep)
    assert not outages
    assert [path for path in server.objects if "purge" in path] == []


def test_purge_that_fails_says_so_and_can_be_given_again(
    asked: Request, manifests: Manifests, server: ApiServer, api: Api
) -> None:
    with pytest.raises(KubernetesError, match="not all of the study's data could be taken away: fashion: forgotten"):
        purge(asked, api, wait_seconds=9, say=say_nothing, sleep=purged(server, manifests.name, failed=1))
    path = f"{PURGE_JOBS}/{manifests.name}-purge"
    with pytest.raises(
        KubernetesError, match="has not ended yet; it goes on by itself: kubectl logs -n studies -f job/"
    ):
        purge(asked, api, wait_seconds=0, say=say_nothing)
    running = server.objects[path]["metadata"]["uid"]
    (owner,) = server.objects[f"{NAMESPACED}/configmaps/{manifests.name}-purge"]["metadata"]["ownerReferences"]
    assert owner["uid"] == running, "it goes with its Job"
    seen: list[str] = []
    server.on_request = lambda method, asked_for: seen.append(
        server.objects.get(path, {}).get("metadata", {}).get("uid")
    )
    purge(asked, api, wait_seconds=9, say=say_nothing, sleep=purged(server, manifests.name, succeeded=1))
    assert set(seen) <= {running, None}, "what deletes is not killed half-way, nor doubled"


def test_conflict_is_an_error_of_its_own(api: Api, server: ApiServer) -> None:
    server.faults = [409]
    with pytest.raises(Conflict):
        api.create(f"{NAMESPACED}/configmaps", {"metadata": {"name": "x"}})

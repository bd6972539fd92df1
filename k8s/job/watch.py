"""Look on while a job runs: KubeRay's status, the pods' troubles and the driver's own lines, asked for again and again.

Nothing is streamed. A look every two seconds costs the API server next to nothing, and nothing of it can expire, break
or be missed: after an outage the next look tells what stands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from k8s.api_paths import ApiObject, core, ray_jobs
from k8s.client import Api
from k8s.errors import Forbidden, JobFailedError, JobGoneError, NotFound, Unreachable
from k8s.job.kueue import why_queued
from k8s.job.logs import Logs
from k8s.job.progress import Progress
from k8s.job.status import JobState, is_lost, state_of, troubles
from k8s.manifest import PART, STUDY

LOOK_EVERY_SECONDS = 2.0

PATIENCE_SECONDS = 600.0
"""How long the API server may be away."""

REPEATED = "Status message: Job entrypoint command failed"
"""After this line Ray prints the end of a failed driver's log once more."""

COLOUR = r"\x1b\[[0-9;]*m"

STARTING = ("New", "Initializing")
"""Of `jobDeploymentStatus`, while pods are still to be made."""

GRACE_LOOKS = 3
"""The last lines of a log come a moment after the job has ended."""


@dataclass(frozen=True)
class JobSnapshot:
    """What one look has seen.

    Attributes:
        name: of the job.
        state: of the job.
        progress: of the study; the same object in every view.
        queued: why the job's queue holds it back, if one does.
        troubles: why pods do not run.
        lines: of the logs since the last look, as (pod, line): of the driver's what are no run lines, with `every_log`
            all of them, and those of Ray's pods.
        away: why the API server does not answer now, if it does not: then the rest is from the last look.
    """

    name: str
    state: JobState
    progress: Progress
    queued: str | None
    troubles: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    away: str | None = None


class Watcher:
    """Of one job."""

    def __init__(self, api: Api, namespace: str, name: str, *, every_log: bool = False) -> None:
        """Asks nothing yet.

        Args:
            every_log: the logs of Ray's own pods as well.
        """
        self._api, self._namespace, self._name, self._every_log = api, namespace, name, every_log
        self._logs = Logs(namespace)
        self._progress = Progress()
        self._repeating: set[str] = set()  # pods whose log has come to where it repeats itself
        self._last: JobSnapshot | None = None

    def look(self) -> JobSnapshot:
        """What stands now.

        Raises:
            JobGoneError: there is no such job, or not any more.
            Unreachable: the API server does not answer.
        """
        try:
            job = self._api.get(ray_jobs(self._namespace, self._name))
        except NotFound:
            was = "is gone: somebody deleted it" if self._last else "does not exist; submit it first"
            raise JobGoneError(f"job {self._name} in {self._namespace} {was}") from None
        state, pods = state_of(job), self._pods(job)
        lines = tuple(self._new_lines(pods))
        lost = {pod["metadata"]["name"] for pod in pods if is_lost(pod)}
        silent = [words for name, words in self._logs.silent.items() if name not in lost]
        wrong = () if state.has_ended else (*troubles(pods, self._events(job, state, pods)), *silent)
        queued = None if state.has_ended else why_queued(job, self._api)
        self._last = JobSnapshot(self._name, state, self._progress, queued, wrong, lines)
        return self._last

    def until_it_ends(
        self,
        show: Callable[[JobSnapshot], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> JobSnapshot:
        """Look until the job has ended, over outages of the API server.

        Args:
            show: called with every view.

        Raises:
            JobGoneError: it was deleted meanwhile.
            JobFailedError: it has ended without success.
            Unreachable: the API server is away for longer than `PATIENCE_SECONDS`.
        """
        answered, looks_after_end = clock(), 0
        while True:
            try:
                view, answered = self.look(), clock()
                looks_after_end += view.state.has_ended
            except JobGoneError:
                if not looks_after_end:
                    raise
                break  # it had ended, and was then taken away
            except Unreachable as error:
                if clock() - answered > PATIENCE_SECONDS or self._last is None:
                    raise
                view = replace(self._last, lines=(), away=str(error))
            show(view)
            if looks_after_end == GRACE_LOOKS:
                break
            sleep(LOOK_EVERY_SECONDS)
        if not view.state.has_succeeded:
            raise JobFailedError(f"job {self._name} ended as {view.state}: {_why(view)}")
        return view

    def _pods(self, job: ApiObject) -> list[ApiObject]:
        """Of this job, not of others of its study."""
        study = job["metadata"]["labels"][STUDY]
        found = self._api.items(core(self._namespace, "pods"), labelSelector=f"{STUDY}={study}")
        cluster = (job.get("status") or {}).get("rayClusterName")
        own = {cluster} if cluster else set()
        return [
            pod
            for pod in found
            if (pod["metadata"]["labels"].get("ray.io/cluster") in own)
            or pod["metadata"]["labels"].get("job-name") == self._name
        ]

    def _events(self, job: ApiObject, state: JobState, pods: list[ApiObject]) -> list[ApiObject]:
        """Warnings about pods that do not run, and about what could not make one while one is missing."""
        is_one_missing = state.deployment in STARTING or len(pods) < _num_wanted(job)
        if not is_one_missing and all((pod.get("status") or {}).get("phase") == "Running" for pod in pods):
            return []
        try:
            found = self._api.items(core(self._namespace, "events"), fieldSelector="type=Warning")
        except Forbidden:
            return []
        about = {("Pod", pod["metadata"]["name"]) for pod in pods}
        if is_one_missing:
            about |= {("RayJob", self._name), ("Job", self._name), ("RayCluster", state.cluster)}
        return [event for event in found if _subject(event) in about]

    def _new_lines(self, pods: list[ApiObject]) -> list[tuple[str, str]]:
        drivers = [pod for pod in pods if pod["metadata"]["labels"].get(PART) == "submitter"]
        shown = pods if self._every_log else drivers
        names = {pod["metadata"]["name"] for pod in drivers}
        lines: list[tuple[str, str]] = []
        for pod, raw in self._logs.new(shown, self._api):
            line = re.sub(COLOUR, "", raw) if pod in names else raw
            if pod in names and line.startswith(REPEATED):
                self._repeating.add(pod)
            elif pod not in names or (
                pod not in self._repeating and (not self._progress.read(line) or self._every_log)
            ):
                lines.append((pod, line))
        return lines


def _num_wanted(job: ApiObject) -> int:
    """Pods of a job that runs: workers as Ray's cluster wants them now, the driver's and the one that submits."""
    cluster = (job.get("status") or {}).get("rayClusterStatus") or {}
    return int(cluster.get("desiredWorkerReplicas") or 0) + 2


def _subject(event: ApiObject) -> tuple[str, str]:
    about = event.get("involvedObject") or {}
    return str(about.get("kind")), str(about.get("name"))


def _why(view: JobSnapshot) -> str:
    error, code = view.progress.error, view.progress.exit_code
    if error is None:
        return view.state.why()
    return f"{error} (exit code {code} of `python -m tune run`, see its --help)"

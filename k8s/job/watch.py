"""Watch a running job by polling: KubeRay's status, the pods' troubles and the driver's own lines.

Nothing is streamed. A poll every two seconds costs the API server next to nothing, and cannot expire, break or miss
anything: after an outage the next poll reads the whole state.
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
from k8s.job.logs import PodLogs
from k8s.job.progress import Progress
from k8s.job.status import JobState, is_on_silent_node, state_of, troubles
from k8s.manifest import PART_LABEL, STUDY_LABEL

POLL_SECONDS = 2.0
"""Seconds between two polls."""

LONGEST_OUTAGE_SECONDS = 600.0
"""Seconds that the API server may stay without an answer."""

REPEATED_LOG = "Status message: Job entrypoint command failed"
"""Beginning of the line after which Ray prints the end of a failed driver's log once more."""

COLOUR = r"\x1b\[[0-9;]*m"
"""An escape sequence that sets a terminal's colour."""

STARTING_STATUSES = ("New", "Initializing")
"""Values of `jobDeploymentStatus` of a job whose pods are not all created yet."""

POLLS_AFTER_END = 3
"""Polls after the job has ended: the last lines of its log come a moment later."""


@dataclass(frozen=True)
class JobSnapshot:
    """A job as one poll has found it.

    Attributes:
        name: name of the job.
        state: state of the job.
        progress: progress of the study; the same object in every snapshot.
        queued: why the job's queue holds it back, in words; None where none does.
        troubles: why pods do not run, a line each.
        lines: log lines since the last poll, as pairs of pod and line: those of the driver that are no run lines, and
            with `every_log` all of the driver's and of Ray's pods.
        away: why the API server does not answer now; None where it does. All else is then from the last poll.
    """

    name: str
    state: JobState
    progress: Progress
    queued: str | None
    troubles: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    away: str | None = None


class Watcher:
    """Watches one job."""

    def __init__(self, api: Api, namespace: str, name: str, *, every_log: bool = False) -> None:
        """Send no request yet.

        Args:
            api: the cluster.
            namespace, name: of the RayJob.
            every_log: whether to read the logs of Ray's own pods as well.
        """
        self._api, self._namespace, self._name, self._every_log = api, namespace, name, every_log
        self._logs = PodLogs(namespace)
        self._progress = Progress()
        self._repeating: set[str] = set()  # pods whose log has begun to repeat itself
        self._last: JobSnapshot | None = None

    def poll(self) -> JobSnapshot:
        """Read the state of the job, its pods' troubles and the new log lines.

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
        lost = {pod["metadata"]["name"] for pod in pods if is_on_silent_node(pod)}
        unreadable = [words for name, words in self._logs.unreadable.items() if name not in lost]
        found = () if state.has_ended else (*troubles(pods, self._events(job, state, pods)), *unreadable)
        queued = None if state.has_ended else why_queued(job, self._api)
        self._last = JobSnapshot(self._name, state, self._progress, queued, found, lines)
        return self._last

    def watch(
        self,
        show: Callable[[JobSnapshot], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> JobSnapshot:
        """Poll until the job has ended, over outages of the API server.

        Args:
            show: called with every snapshot.
            sleep, clock: `time.sleep` and `time.monotonic`, but in tests.

        Returns:
            The last snapshot, of a job that has succeeded.

        Raises:
            JobGoneError: it was deleted meanwhile.
            JobFailedError: it has ended without success.
            Unreachable: the API server did not answer for longer than `LONGEST_OUTAGE_SECONDS`.
        """
        answered, polls_after_end = clock(), 0
        while True:
            try:
                snapshot, answered = self.poll(), clock()
                polls_after_end += snapshot.state.has_ended
            except JobGoneError:
                if not polls_after_end:
                    raise
                break  # it had ended, and was then deleted
            except Unreachable as error:
                if clock() - answered > LONGEST_OUTAGE_SECONDS or self._last is None:
                    raise
                snapshot = replace(self._last, lines=(), away=str(error))
            show(snapshot)
            if polls_after_end == POLLS_AFTER_END:
                break
            sleep(POLL_SECONDS)
        if not snapshot.state.has_succeeded:
            raise JobFailedError(f"job {self._name} ended as {snapshot.state}: {_failure_in_words(snapshot)}")
        return snapshot

    def _pods(self, job: ApiObject) -> list[ApiObject]:
        """Return the pods of this job, without those of other jobs of its study."""
        study = job["metadata"]["labels"][STUDY_LABEL]
        found = self._api.items(core(self._namespace, "pods"), labelSelector=f"{STUDY_LABEL}={study}")
        cluster = (job.get("status") or {}).get("rayClusterName")
        own = {cluster} if cluster else set()
        return [
            pod
            for pod in found
            if (pod["metadata"]["labels"].get("ray.io/cluster") in own)
            or pod["metadata"]["labels"].get("job-name") == self._name
        ]

    def _events(self, job: ApiObject, state: JobState, pods: list[ApiObject]) -> list[ApiObject]:
        """Return warnings about pods that do not run and, while a pod is missing, about the objects that create it."""
        is_one_missing = state.deployment in STARTING_STATUSES or len(pods) < _num_wanted(job)
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
        drivers = [pod for pod in pods if pod["metadata"]["labels"].get(PART_LABEL) == "submitter"]
        shown = pods if self._every_log else drivers
        names = {pod["metadata"]["name"] for pod in drivers}
        lines: list[tuple[str, str]] = []
        for pod, raw in self._logs.read_new(shown, self._api):
            line = re.sub(COLOUR, "", raw) if pod in names else raw
            if pod in names and line.startswith(REPEATED_LOG):
                self._repeating.add(pod)
            elif pod not in names or (
                pod not in self._repeating and (not self._progress.read(line) or self._every_log)
            ):
                lines.append((pod, line))
        return lines


def _num_wanted(job: ApiObject) -> int:
    """Return the number of pods of a running job: the workers that its Ray cluster wants now, head and submitter."""
    cluster = (job.get("status") or {}).get("rayClusterStatus") or {}
    return int(cluster.get("desiredWorkerReplicas") or 0) + 2


def _subject(event: ApiObject) -> tuple[str, str]:
    about = event.get("involvedObject") or {}
    return str(about.get("kind")), str(about.get("name"))


def _failure_in_words(snapshot: JobSnapshot) -> str:
    error, code = snapshot.progress.error, snapshot.progress.exit_code
    if error is None:
        return snapshot.state.reason_in_words()
    return f"{error} (exit code {code} of `python -m tune run`, see its --help)"

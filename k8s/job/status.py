"""What KubeRay says of a job, and Kubernetes of its pods, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k8s.api_paths import ApiObject
from k8s.manifest import PART

ENDED = ("Complete", "Failed", "ValidationFailed")
"""Of `jobDeploymentStatus`. `jobStatus` alone says FAILED between two tries as well."""

REASONS = {
    "AppFailed": "the study's command ended with an error in every try",
    "DeadlineExceeded": "cluster.deadline_hours is over",
    "SubmissionFailed": "the command could not be handed to Ray",
    "ValidationFailed": "KubeRay finds the job invalid",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "KubeRay and Ray did not agree on how the job ended",
}

WAITING = {
    "CreateContainerConfigError": "a Secret or ConfigMap that it names is missing",
    "CrashLoopBackOff": "its container ends again and again",
    "ErrImageNeverPull": "the image is not on the node, and cluster.image_pull_policy is Never",
    "ErrImagePull": "the image cannot be pulled",
    "ImagePullBackOff": "the image cannot be pulled",
    "InvalidImageName": "cluster.image is no image's name",
}

LOST = {
    "worker": "what ran there goes on elsewhere",
    "head": "the next try begins when the node is back, or was taken out: kubectl delete node {node}",
    "submitter": "the study goes on, but what it says is not seen here; if the node is taken out, the next try begins",
}
"""What comes of a silent node, by the part of the study whose pod was there."""

UNSCHEDULED = "Unschedulable"

EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""Reasons of events that no field of a pod repeats."""

NOT_MADE = ("FailedCreate", "FailedToCreateHeadPod", "FailedToCreateWorkerPod", "FailedToCreateRayCluster")
"""Reasons of events about what makes pods: a quota, a webhook or Pod Security refuses them."""


@dataclass(frozen=True)
class JobState:
    """Where a job is.

    Attributes:
        deployment: KubeRay's word: Initializing, Running, Retrying, Suspended, Complete, Failed, ...
        job: Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty before there is one.
        tries: so far, this one included.
        most_tries: that it has.
        cluster: Ray cluster of this try.
        reason, message: why it ended.
    """

    deployment: str
    job: str
    tries: int
    most_tries: int
    cluster: str
    reason: str
    message: str

    @property
    def has_ended(self) -> bool:
        """For good."""
        return self.deployment in ENDED

    @property
    def has_succeeded(self) -> bool:
        """Both say so."""
        return self.deployment == "Complete" and self.job == "SUCCEEDED"

    def __str__(self) -> str:
        words = self.deployment + (f" ({self.job})" if self.job and self.job != self.deployment.upper() else "")
        return words + (f", try {self.tries} of {self.most_tries}" if self.tries > 1 else "")

    def why(self) -> str:
        """Why it ended, in a sentence."""
        words = REASONS.get(self.reason, self.reason) or "it says no reason"
        return words + (f": {self.message.strip()}" if self.message.strip() else "")


def state_of(job: ApiObject) -> JobState:
    """Of a RayJob; one that KubeRay has not looked at yet is `New`."""
    status = job.get("status") or {}
    failed = int(status.get("failed") or 0)
    most = 1 + int(job["spec"].get("backoffLimit") or 0)
    deployment = status.get("jobDeploymentStatus") or "New"
    return JobState(
        deployment=deployment,
        job=status.get("jobStatus") or "",
        tries=max(failed, 1) if deployment == "Failed" else min(failed + 1, most),
        most_tries=most,
        cluster=status.get("rayClusterName") or "",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
    )


def troubles(pods: Sequence[ApiObject], events: Sequence[ApiObject] = ()) -> tuple[str, ...]:
    """Why pods do not run, or are not even made, a line for each; none where all is well.

    Args:
        events: warnings about the pods, and about what makes them.
    """
    lines = [f"{pod['metadata']['name']}: {words}" for pod in pods for words in _trouble(pod)]
    names = {pod["metadata"]["name"] for pod in pods if not _is_ready(pod)}
    for event in events:
        about = event.get("involvedObject") or {}
        if event.get("reason") in EVENTS and about.get("name") in names:
            lines.append(f"{about['name']}: {event['reason']}: {event.get('message', '')}")
        elif event.get("reason") in NOT_MADE:
            lines.append(f"{about.get('name')}: a pod is not made: {event.get('message', '')}")
    return tuple(dict.fromkeys(lines))


def _trouble(pod: ApiObject) -> Iterator[str]:
    status = pod.get("status") or {}
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost"):
        yield f"{status['reason']}: {status.get('message', '')}"
    elif is_lost(pod):
        node = pod["spec"].get("nodeName")
        part = str((pod["metadata"].get("labels") or {}).get(PART))
        yield f"its node {node} does not answer; {LOST.get(part, LOST['worker']).format(node=node)}"
    for condition in status.get("conditions") or []:
        if condition.get("reason") == UNSCHEDULED and condition.get("status") == "False":
            yield f"no node has room for it: {condition.get('message', '')}"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in WAITING:
            message = waiting.get("message")
            yield f"{waiting['reason']}: {WAITING[waiting['reason']]}" + (f" ({message})" if message else "")
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if (state.get("terminated") or {}).get("reason") == "OOMKilled":
                yield f"{container['name']} was killed for its memory (OOMKilled): ask for more, or for less work"


def is_lost(pod: ApiObject) -> bool:
    """Whether its node is silent: then Kubernetes calls it not ready, and gives no reason as the node would."""
    status = pod.get("status") or {}
    ready: ApiObject = next((each for each in status.get("conditions") or [] if each.get("type") == "Ready"), {})
    containers = status.get("containerStatuses") or []
    is_unexplained = ready.get("status") == "False" and not ready.get("reason")
    runs = status.get("phase") == "Running" and bool(containers)
    return runs and is_unexplained and all(container["ready"] for container in containers)


def _is_ready(pod: ApiObject) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)

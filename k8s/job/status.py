"""The state of a job by KubeRay and the troubles of its pods by Kubernetes, in words. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k8s.api_paths import ApiObject
from k8s.manifest import PART_LABEL

ENDED_STATUSES = ("Complete", "Failed", "ValidationFailed")
"""Values of `jobDeploymentStatus` of a job that has ended. `jobStatus` alone is FAILED between two tries as well."""

REASONS_IN_WORDS = {
    "AppFailed": "the study's command ended with an error in every try",
    "DeadlineExceeded": "cluster.deadline_hours is over",
    "SubmissionFailed": "the command could not be handed to Ray",
    "ValidationFailed": "KubeRay finds the job invalid",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "KubeRay and Ray did not agree on how the job ended",
}
"""KubeRay's `reason` for the end of a job -> words."""

WAITING_IN_WORDS = {
    "CreateContainerConfigError": "a Secret or ConfigMap that it names is missing",
    "CrashLoopBackOff": "its container ends again and again",
    "ErrImageNeverPull": "the image is not on the node, and cluster.image_pull_policy is Never",
    "ErrImagePull": "the image cannot be pulled",
    "ImagePullBackOff": "the image cannot be pulled",
    "InvalidImageName": "cluster.image is no image's name",
}
"""Reason for which a container does not start -> words."""

SILENT_NODE_IN_WORDS = {
    "worker": "what ran there goes on elsewhere",
    "head": "the next try begins when the node is back, or is removed: kubectl delete node {node}",
    "submitter": "the study goes on, but its lines are not seen here; if the node is removed, the next try begins",
}
"""Part of the study -> what happens when the node of its pod does not answer."""

UNSCHEDULABLE = "Unschedulable"

POD_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""Reasons of events about a pod that no field of it repeats."""

CREATION_EVENTS = ("FailedCreate", "FailedToCreateHeadPod", "FailedToCreateWorkerPod", "FailedToCreateRayCluster")
"""Reasons of events about a pod that could not be created, such as by a quota, a webhook or Pod Security."""


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Attributes:
        deployment: KubeRay's state: New, Initializing, Running, Retrying, Suspended, Complete, Failed, ...
        job: Ray's state: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty before there is one.
        tries: number of tries so far, this one included.
        most_tries: number of tries at most.
        cluster: name of this try's Ray cluster.
        reason, message: KubeRay's reason for its end.
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
        """Whether no further try follows."""
        return self.deployment in ENDED_STATUSES

    @property
    def has_succeeded(self) -> bool:
        """Whether both KubeRay and Ray report success."""
        return self.deployment == "Complete" and self.job == "SUCCEEDED"

    def __str__(self) -> str:
        words = self.deployment + (f" ({self.job})" if self.job and self.job != self.deployment.upper() else "")
        return words + (f", try {self.tries} of {self.most_tries}" if self.tries > 1 else "")

    def reason_in_words(self) -> str:
        """Return why the job ended, in a sentence."""
        words = REASONS_IN_WORDS.get(self.reason, self.reason) or "KubeRay gives no reason"
        return words + (f": {self.message.strip()}" if self.message.strip() else "")


def state_of(job: ApiObject) -> JobState:
    """Return the state of a RayJob; `New` is one that KubeRay has not handled yet."""
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
    """Return a line for every reason why a pod does not run or cannot be created.

    Args:
        pods: the job's pods.
        events: warnings about the pods, and about the objects that create them.
    """
    lines = [f"{pod['metadata']['name']}: {words}" for pod in pods for words in _trouble(pod)]
    names = {pod["metadata"]["name"] for pod in pods if not _is_ready(pod)}
    for event in events:
        about = event.get("involvedObject") or {}
        if event.get("reason") in POD_EVENTS and about.get("name") in names:
            lines.append(f"{about['name']}: {event['reason']}: {event.get('message', '')}")
        elif event.get("reason") in CREATION_EVENTS:
            lines.append(f"{about.get('name')}: a pod cannot be created: {event.get('message', '')}")
    return tuple(dict.fromkeys(lines))


def _trouble(pod: ApiObject) -> Iterator[str]:
    status = pod.get("status") or {}
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost"):
        yield f"{status['reason']}: {status.get('message', '')}"
    elif is_on_silent_node(pod):
        node = pod["spec"].get("nodeName")
        part = str((pod["metadata"].get("labels") or {}).get(PART_LABEL))
        words = SILENT_NODE_IN_WORDS.get(part, SILENT_NODE_IN_WORDS["worker"])
        yield f"its node {node} does not answer; {words.format(node=node)}"
    for condition in status.get("conditions") or []:
        if condition.get("reason") == UNSCHEDULABLE and condition.get("status") == "False":
            yield f"no node has room for it: {condition.get('message', '')}"
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in WAITING_IN_WORDS:
            message = waiting.get("message")
            yield f"{waiting['reason']}: {WAITING_IN_WORDS[waiting['reason']]}" + (f" ({message})" if message else "")
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if (state.get("terminated") or {}).get("reason") == "OOMKilled":
                yield f"{container['name']} was killed for its memory (OOMKilled): ask for more, or run smaller tasks"


def is_on_silent_node(pod: ApiObject) -> bool:
    """Whether a pod's node does not answer: the pod is then not ready without a reason, which its node would give."""
    status = pod.get("status") or {}
    ready: ApiObject = next((each for each in status.get("conditions") or [] if each.get("type") == "Ready"), {})
    containers = status.get("containerStatuses") or []
    is_unexplained = ready.get("status") == "False" and not ready.get("reason")
    runs = status.get("phase") == "Running" and bool(containers)
    return runs and is_unexplained and all(container["ready"] for container in containers)


def _is_ready(pod: ApiObject) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)

"""A request as Kubernetes objects: a pure function. KubeRay's fields are those of `ray.io/v1`."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from k8s.api_paths import ApiObject
from k8s.config import PodConfig, WorkerGroup
from k8s.names import ELASTIC, QUEUE, job_name, label_of
from k8s.quantity import amount
from k8s.request import Request

RAY_VERSION = "2.60.0"
"""Of the image, for KubeRay to know."""

STUDY_FOLDER = "/etc/hidfd"
"""Where pods find the study file."""

WORK_FOLDER = "/work"
"""Where the driver runs; it goes with its pod."""

PART, STUDY = "hidfd/part", "hidfd/study"
"""Labels; the chart's NetworkPolicies and PodDisruptionBudget go by the first."""

STUDY_NAME, DIGEST = "hidfd/study-name", "hidfd/digest"
"""Annotations: the name as the study file has it; sha256 of all that was asked for."""

RAY_SHARE_OF_SHARED_MEMORY = 0.8
"""Ray falls back to a slow disk where /dev/shm has less than it wants."""

STOP_SECONDS = 120
"""How long a driver that is asked to stop may save what runs."""

DRAIN = Path(__file__).with_name("drain.sh")
"""What a worker's pod does before it goes; the chart's own workers do the same."""

EVICTION = "cluster-autoscaler.kubernetes.io/safe-to-evict"

LEAVING = "/tmp/hidfd-leaving"
"""A file by which that script tells training loops."""

LOST_SECONDS = 60
"""How long pods stay on a node that does not answer; Kubernetes waits for 300 s, but Ray has given it up by then."""

LEAVING_SECONDS = 10
"""After the drain: Ray does not end by itself when it is told to, and works on until it is killed."""

START_SECONDS, PROBE_EVERY_SECONDS = 300, 5

AGENT_PORT = 52365
"""Of Ray's agent on every node, which says without a token whether the node is well."""


@dataclass(frozen=True)
class Manifests:
    """What is made for a request.

    Attributes:
        name: of both objects.
        digest: sha256 of all that was asked for.
        config_map: the study file.
        ray_job: runs it.
    """

    name: str
    digest: str
    config_map: ApiObject
    ray_job: ApiObject

    @property
    def objects(self) -> list[ApiObject]:
        """In the order in which they are made."""
        return [self.config_map, self.ray_job]


def render(request: Request) -> Manifests:
    """Build the objects of a request; the same request gives the same bytes.

    Overrides in another order give another command, but the same digest and thereby the same job.
    """
    ordered = replace(request, overrides=request.sorted_overrides)
    asked = json.dumps([_spec(ordered, name=""), request.text], sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    name = job_name(request.study, digest)
    metadata: ApiObject = {
        "name": name,
        "namespace": request.cluster.namespace,
        "labels": _labels(request, "job"),
        "annotations": {STUDY_NAME: request.study, DIGEST: digest},
    }
    queue = request.cluster.queue
    job_labels = metadata["labels"] | ({} if queue is None else {QUEUE: queue})
    # Without it Kueue refuses a cluster that grows.
    elastic = {ELASTIC: "true"} if queue is not None and request.cluster.grows else {}
    return Manifests(
        name,
        digest,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "immutable": True,
            "data": {"study.yaml": request.text},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": metadata | {"labels": job_labels, "annotations": metadata["annotations"] | elastic},
            "spec": _spec(request, name),
        },
    )


def ray_pods(request: Request) -> dict[str, tuple[ApiObject, int]]:
    """The pods that KubeRay makes of a request: name of the group -> pod and how many at most."""
    cluster = _spec(request, name="study")["rayClusterSpec"]
    if request.cluster.grows:
        options = {key: value for key, value in cluster["autoscalerOptions"].items() if key != "version"}
        container = {"name": "autoscaler", "image": request.cluster.image, **options}
        cluster["headGroupSpec"]["template"]["spec"]["containers"].append(container)
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    pods = {name: (group["template"], request.cluster.workers[name].most) for name, group in groups.items()}
    return {"driver": (cluster["headGroupSpec"]["template"], 1)} | pods


def tune_command(request: Request, verb: str, *options: str) -> str:
    """A verb of `python -m tune` over the study, as a shell in its pods takes it."""
    overrides = [*request.overrides, *(["resources.autoscaling=true"] if request.cluster.grows else [])]
    return shlex.join(["python", "-m", "tune", verb, f"{STUDY_FOLDER}/study.yaml", *overrides, *options])


def _spec(request: Request, name: str) -> ApiObject:
    cluster = request.cluster
    spec: ApiObject = {
        "entrypoint": tune_command(request, "run", "--json", "--wait"),
        "submissionMode": "K8sJobMode",
        "backoffLimit": cluster.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": round(60 * cluster.keep_minutes),
        # Its second try would say that all is well though the job has failed (kuberay #3211).
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(request),
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "headGroupSpec": {
                "rayStartParams": _start(cluster.driver)
                | {"dashboard-host": "0.0.0.0", "num-cpus": "0" if cluster.workers else str(cluster.driver.cpus)},
                "template": _ray_pod(request, name, "head", cluster.driver),
            },
            "workerGroupSpecs": [_group(request, name, *group) for group in sorted(cluster.workers.items())],
        },
    }
    if cluster.deadline_hours is not None:
        spec["activeDeadlineSeconds"] = math.ceil(3600 * cluster.deadline_hours)
    if cluster.token:
        spec["rayClusterSpec"]["authOptions"] = {"mode": "token"}
    if cluster.grows:
        spec["rayClusterSpec"]["enableInTreeAutoscaling"] = True
        spec["rayClusterSpec"]["autoscalerOptions"] = {  # of a container that KubeRay adds, without the head's settings
            "version": "v2",
            "resources": _exactly("500m", "512Mi"),
            "securityContext": _confined(),
            "volumeMounts": _mounts("tmp"),
        }
    return spec


def _group(request: Request, name: str, group_name: str, group: WorkerGroup) -> ApiObject:
    return {
        "groupName": group_name,
        "replicas": group.count,
        "minReplicas": group.count,
        "maxReplicas": group.most,
        "rayStartParams": _start(group),
        "template": _ray_pod(request, name, "worker", group),
    }


def _start(pod: PodConfig) -> dict[str, str]:
    """GPUs are told: Ray would look for those of the usual resource only, while it has no pod of a group to ask."""
    gpus = {"num-gpus": str(pod.gpus)} if isinstance(pod, WorkerGroup) and pod.gpus else {}
    return gpus | {"object-store-memory": str(round(RAY_SHARE_OF_SHARED_MEMORY * amount(pod.shared_memory)))}


def _ray_pod(request: Request, name: str, part: str, pod: PodConfig) -> ApiObject:
    cluster, is_head = request.cluster, part == "head"
    gpus = {pod.gpu_resource: pod.gpus} if isinstance(pod, WorkerGroup) and pod.gpus else {}
    container: ApiObject = {
        "name": f"ray-{part}",
        "image": cluster.image,
        "imagePullPolicy": cluster.image_pull_policy,
        "workingDir": WORK_FOLDER,
        "env": _environment(request),
        "resources": _exactly(pod.cpus, pod.memory, gpus),
        "securityContext": _confined(),
        "startupProbe": {
            "httpGet": {"path": "/api/healthz", "port": AGENT_PORT},
            "periodSeconds": PROBE_EVERY_SECONDS,
            "failureThreshold": START_SECONDS // PROBE_EVERY_SECONDS,
        },
        "volumeMounts": [
            *_mounts("study", "tmp", "work"),
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *(
                {"name": f"claim-{key}", "mountPath": volume.mount_path, "readOnly": volume.read_only}
                for key, volume in sorted(cluster.volumes.items())
            ),
        ],
    }
    if not is_head and cluster.drain_seconds:
        words = ["bash", "-c", DRAIN.read_text(), "drain", str(cluster.drain_seconds)]
        container["lifecycle"] = {"preStop": {"exec": {"command": words}}}
    spec: ApiObject = {
        **_pod_spec(request),
        "serviceAccountName": cluster.driver_service_account if is_head else cluster.worker_service_account,
        "automountServiceAccountToken": is_head and cluster.grows,
        "terminationGracePeriodSeconds": STOP_SECONDS if is_head else cluster.drain_seconds + LEAVING_SECONDS,
        **_placement(pod, {"tolerationSeconds": LOST_SECONDS}),
        "containers": [container],
        "volumes": [
            {"name": "study", "configMap": {"name": name}},
            *_empty("tmp", "work"),
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shared_memory}},
            *(
                {
                    "name": f"claim-{key}",
                    "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
                }
                for key, volume in sorted(cluster.volumes.items())
            ),
        ],
    }
    is_spot = isinstance(pod, WorkerGroup) and pod.spot
    annotations = {EVICTION: "true" if is_spot else "false"}
    return {"metadata": {"labels": _labels(request, part), "annotations": annotations | _named(request)}, "spec": spec}


def _submitter(request: Request) -> ApiObject:
    """The pod that hands the entrypoint to Ray, and whose log is the driver's."""
    return {
        "metadata": {
            "labels": _labels(request, "submitter"),
            "annotations": {EVICTION: "false"} | _named(request),  # with it the try would be lost
        },
        "spec": {
            **_pod_spec(request),
            "restartPolicy": "Never",
            "serviceAccountName": request.cluster.worker_service_account,
            "automountServiceAccountToken": False,
            **_placement(request.cluster.driver, {}),  # without it the study goes on
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": request.cluster.image,
                    "imagePullPolicy": request.cluster.image_pull_policy,
                    "env": [{"name": "HOME", "value": "/tmp"}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
                    "resources": _exactly("500m", "512Mi"),
                    "securityContext": _confined(),
                    "volumeMounts": _mounts("tmp"),
                }
            ],
            "volumes": _empty("tmp"),
        },
    }


def _pod_spec(request: Request) -> ApiObject:
    """What all pods share: Pod Security's level `restricted`."""
    cluster = request.cluster
    spec: ApiObject = {
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    if cluster.priority_class is not None:
        spec["priorityClassName"] = cluster.priority_class
    return spec


def _placement(pod: PodConfig, stays: dict[str, int]) -> ApiObject:
    """`stays` is how long it stays on a silent node, if not for good."""
    asked = [toleration.model_dump(exclude_none=True) for toleration in pod.tolerated]
    given = {toleration.get("key") for toleration in asked}
    silent = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", **stays}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in given  # the shortest of several would count
    ]
    return {"nodeSelector": pod.node_selector, "tolerations": [*asked, *silent]}


def _named(request: Request) -> dict[str, str]:
    """The study's name as it is: two names may share a label."""
    return {STUDY_NAME: request.study}


def _confined() -> ApiObject:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _environment(request: Request) -> list[ApiObject]:
    cluster = request.cluster
    values = {
        "HIDFD_LEAVING": LEAVING,
        "HOME": "/tmp",
        "MLFLOW_DISABLE_TELEMETRY": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "RAY_USAGE_STATS_ENABLED": "0",
    } | cluster.environment
    given = [{"name": name, "value": value} for name, value in sorted(values.items())]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.key}}}
        for name, key in sorted(cluster.secrets.items())
    ]
    return [*given, *secret]


def _exactly(cpus: int | str, memory: str, gpus: dict[str, int] | None = None) -> ApiObject:
    """Requests as limits: nobody's neighbour takes what was promised."""
    resources = {"cpu": str(cpus), "memory": memory} | {name: str(count) for name, count in (gpus or {}).items()}
    return {"requests": resources, "limits": dict(resources)}


def _mounts(*names: str) -> list[ApiObject]:
    places: dict[str, ApiObject] = {
        "study": {"name": "study", "mountPath": STUDY_FOLDER, "readOnly": True},
        "tmp": {"name": "tmp", "mountPath": "/tmp"},
        "work": {"name": "work", "mountPath": WORK_FOLDER},
    }
    return [places[name] for name in names]


def _empty(*names: str) -> list[ApiObject]:
    return [{"name": name, "emptyDir": {}} for name in names]


def _labels(request: Request, part: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "hidfd",
        "app.kubernetes.io/component": part,
        "app.kubernetes.io/managed-by": "hidfd",
        PART: part,
        STUDY: label_of(request.study),
    }

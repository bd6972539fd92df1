"""Render a request as Kubernetes objects: a pure function. KubeRay's fields are those of `ray.io/v1`."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from k8s.api_paths import ApiObject
from k8s.config import PodConfig, WorkerGroup
from k8s.names import ELASTIC_ANNOTATION, QUEUE_LABEL, job_name, label_of
from k8s.quantity import amount
from k8s.request import Request

RAY_VERSION = "2.60.0"
"""Version of Ray in the image, which KubeRay has to know."""

STUDY_FOLDER = "/etc/hidfd"
"""Folder in which pods find the study file."""

WORK_FOLDER = "/work"
"""Folder in which the driver runs; it is deleted with its pod."""

PART_LABEL, STUDY_LABEL = "hidfd/part", "hidfd/study"
"""Labels; the chart's NetworkPolicies and PodDisruptionBudget select by the first."""

STUDY_NAME_ANNOTATION, DIGEST_ANNOTATION = "hidfd/study-name", "hidfd/digest"
"""Annotations: the name in the study file; the sha256 of everything that is submitted."""

RAY_SHARE_OF_SHARED_MEMORY = 0.8
"""The share of /dev/shm for Ray's object store, which falls back to a slow disk where it would not fit."""

STOP_SECONDS = 120
"""Seconds that a driver that is asked to stop may take to save what runs."""

DRAIN = Path(__file__).with_name("drain.sh")
"""The script that a worker's pod runs before it ends; the chart's own workers run the same."""

SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"

LEAVING_FILE = "/tmp/hidfd-leaving"
"""The file by which that script tells training loops to save often."""

SILENT_NODE_SECONDS = 60
"""Seconds that pods stay on a node that does not answer; Kubernetes' own 300 s are longer than Ray waits for it."""

END_SECONDS = 10
"""Seconds between the drain and the kill: Ray does not end when it is asked to, and goes on until it is killed."""

START_SECONDS, PROBE_EVERY_SECONDS = 300, 5
"""Longest start of Ray on a pod, and the time between two probes of it."""

AGENT_PORT = 52365
"""Port of Ray's agent on every node, which says without a token whether the node is healthy."""


@dataclass(frozen=True)
class Manifests:
    """The objects of a request.

    Attributes:
        name: name of both objects.
        digest: sha256 of everything that is submitted.
        config_map: carries the study file.
        ray_job: runs the study.
    """

    name: str
    digest: str
    config_map: ApiObject
    ray_job: ApiObject

    @property
    def objects(self) -> list[ApiObject]:
        """Both objects, in the order in which they are created."""
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
        "annotations": {STUDY_NAME_ANNOTATION: request.study, DIGEST_ANNOTATION: digest},
    }
    queue = request.cluster.queue
    job_labels = metadata["labels"] | ({} if queue is None else {QUEUE_LABEL: queue})
    # Kueue refuses a cluster that grows without it.
    elastic = {ELASTIC_ANNOTATION: "true"} if queue is not None and request.cluster.grows else {}
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
    """Return the pods that KubeRay makes of a request: name of the group -> pod template and the largest number."""
    cluster = _spec(request, name="study")["rayClusterSpec"]
    if request.cluster.grows:
        options = {key: value for key, value in cluster["autoscalerOptions"].items() if key != "version"}
        container = {"name": "autoscaler", "image": request.cluster.image, **options}
        cluster["headGroupSpec"]["template"]["spec"]["containers"].append(container)
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    pods = {name: (group["template"], request.cluster.workers[name].max_pods) for name, group in groups.items()}
    return {"driver": (cluster["headGroupSpec"]["template"], 1)} | pods


def tune_command(request: Request, verb: str, *options: str) -> str:
    """Return the command line of `python -m tune VERB` over the study, quoted for a shell in its pods."""
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
        # A second try of the submitter would report success though the job has failed (kuberay #3211).
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(request),
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "headGroupSpec": {
                "rayStartParams": _ray_start_params(cluster.driver)
                | {"dashboard-host": "0.0.0.0", "num-cpus": "0" if cluster.workers else str(cluster.driver.cpus)},
                "template": _ray_pod(request, name, "head", cluster.driver),
            },
            "workerGroupSpecs": [_worker_group(request, name, *group) for group in sorted(cluster.workers.items())],
        },
    }
    if cluster.deadline_hours is not None:
        spec["activeDeadlineSeconds"] = math.ceil(3600 * cluster.deadline_hours)
    if cluster.token:
        spec["rayClusterSpec"]["authOptions"] = {"mode": "token"}
    if cluster.grows:
        spec["rayClusterSpec"]["enableInTreeAutoscaling"] = True
        # KubeRay adds this container without the settings of the head's.
        spec["rayClusterSpec"]["autoscalerOptions"] = {
            "version": "v2",
            "resources": _resources("500m", "512Mi"),
            "securityContext": _container_security(),
            "volumeMounts": _mounts("tmp"),
        }
    return spec


def _worker_group(request: Request, name: str, group_name: str, group: WorkerGroup) -> ApiObject:
    return {
        "groupName": group_name,
        "replicas": group.count,
        "minReplicas": group.count,
        "maxReplicas": group.max_pods,
        "rayStartParams": _ray_start_params(group),
        "template": _ray_pod(request, name, "worker", group),
    }


def _ray_start_params(pod: PodConfig) -> dict[str, str]:
    """Name the GPUs: while a group has no pod, the autoscaler knows only those of the usual resource by itself."""
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
        "resources": _resources(pod.cpus, pod.memory, gpus),
        "securityContext": _container_security(),
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
        words = ["bash", "-c", DRAIN.read_text(encoding="utf-8"), "drain", str(cluster.drain_seconds)]
        container["lifecycle"] = {"preStop": {"exec": {"command": words}}}
    spec: ApiObject = {
        **_pod_spec(request),
        "serviceAccountName": cluster.driver_service_account if is_head else cluster.worker_service_account,
        "automountServiceAccountToken": is_head and cluster.grows,
        "terminationGracePeriodSeconds": STOP_SECONDS if is_head else cluster.drain_seconds + END_SECONDS,
        **_placement(pod, {"tolerationSeconds": SILENT_NODE_SECONDS}),
        "containers": [container],
        "volumes": [
            {"name": "study", "configMap": {"name": name}},
            *_empty_dirs("tmp", "work"),
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
    annotations = {SAFE_TO_EVICT: "true" if is_spot else "false"} | _study_name(request)
    return {"metadata": {"labels": _labels(request, part), "annotations": annotations}, "spec": spec}


def _submitter(request: Request) -> ApiObject:
    """Build the pod that submits the entrypoint to Ray, and whose log is the driver's."""
    return {
        "metadata": {
            "labels": _labels(request, "submitter"),
            "annotations": {SAFE_TO_EVICT: "false"} | _study_name(request),  # its eviction would end this try
        },
        "spec": {
            **_pod_spec(request),
            "restartPolicy": "Never",
            "serviceAccountName": request.cluster.worker_service_account,
            "automountServiceAccountToken": False,
            **_placement(request.cluster.driver, {}),  # the study goes on while its node is silent
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": request.cluster.image,
                    "imagePullPolicy": request.cluster.image_pull_policy,
                    "env": [{"name": "HOME", "value": "/tmp"}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
                    "resources": _resources("500m", "512Mi"),
                    "securityContext": _container_security(),
                    "volumeMounts": _mounts("tmp"),
                }
            ],
            "volumes": _empty_dirs("tmp"),
        },
    }


def _pod_spec(request: Request) -> ApiObject:
    """Build the fields that all pods share, for Pod Security's level `restricted`."""
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


def _placement(pod: PodConfig, silent_node: dict[str, int]) -> ApiObject:
    """Build the node selector and the tolerations.

    Args:
        silent_node: `tolerationSeconds` on a node that does not answer; empty where the pod stays for good.
    """
    asked = [toleration.model_dump(exclude_none=True) for toleration in pod.tolerated]
    given = {toleration.get("key") for toleration in asked}
    silent = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", **silent_node}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in given  # of several tolerations the shortest counts
    ]
    return {"nodeSelector": pod.node_selector, "tolerations": [*asked, *silent]}


def _study_name(request: Request) -> dict[str, str]:
    """Build the annotation with the full name of the study: two names may share a label."""
    return {STUDY_NAME_ANNOTATION: request.study}


def _container_security() -> ApiObject:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _environment(request: Request) -> list[ApiObject]:
    cluster = request.cluster
    values = {
        "HIDFD_LEAVING": LEAVING_FILE,
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


def _resources(cpus: int | str, memory: str, gpus: dict[str, int] | None = None) -> ApiObject:
    """Build equal requests and limits, so that no pod takes what another one was promised."""
    resources = {"cpu": str(cpus), "memory": memory} | {name: str(count) for name, count in (gpus or {}).items()}
    return {"requests": resources, "limits": dict(resources)}


def _mounts(*names: str) -> list[ApiObject]:
    mounts: dict[str, ApiObject] = {
        "study": {"name": "study", "mountPath": STUDY_FOLDER, "readOnly": True},
        "tmp": {"name": "tmp", "mountPath": "/tmp"},
        "work": {"name": "work", "mountPath": WORK_FOLDER},
    }
    return [mounts[name] for name in names]


def _empty_dirs(*names: str) -> list[ApiObject]:
    return [{"name": name, "emptyDir": {}} for name in names]


def _labels(request: Request, part: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "hidfd",
        "app.kubernetes.io/component": part,
        "app.kubernetes.io/managed-by": "hidfd",
        PART_LABEL: part,
        STUDY_LABEL: label_of(request.study),
    }

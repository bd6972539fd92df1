"""A RayJob as a study is submitted, with what it mounts, around the smallest script that resumes."""

import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("resuming_study.py")

RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What a container says in a namespace that is `restricted`."""


def study_objects(mounts: Path, num_steps: int) -> dict[str, dict[str, Any]]:
    """What to create in a namespace, in this order: path below the namespace -> object; the RayJob is named study.

    Args:
        mounts: the cluster's.
        num_steps: of half a second each.
    """
    core = {"apiVersion": "v1"}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return {
        "configmaps": {**core, "metadata": {"name": "settings"}, "data": {"steps": str(num_steps)}},
        "secrets": {**core, "metadata": {"name": "secret"}, "stringData": {"word": "open sesame"}},
        "persistentvolumeclaims": {**core, "metadata": {"name": "study"}, "spec": claim},
        "rayjobs": {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": "study"},
            "spec": _spec(mounts),
        },
    }


def _spec(mounts: Path) -> dict[str, Any]:
    head = _pod("ray-head", mounts)
    worker = {"groupName": "cpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "rayStartParams": {}}
    return {
        "entrypoint": f"{Path(sys.executable).name} {SCRIPT} {mounts}/study {mounts}/settings/steps",
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": {"spec": _submitter()},
        "submitterConfig": {"backoffLimit": 0},
        "backoffLimit": 1,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 0,
        "rayClusterSpec": {
            "rayVersion": "2.60.0",
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": head}},
            "workerGroupSpecs": [{**worker, "template": {"spec": _pod("ray-worker", mounts)}}],
        },
    }


def _pod(container: str, mounts: Path) -> dict[str, Any]:
    secret = {"name": "STUDY_SECRET", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "word"}}}
    return {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": container,
                "image": "study",
                "workingDir": str(mounts),
                "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
                "securityContext": RESTRICTED,
                "env": [secret],
                "volumeMounts": [
                    {"name": "study", "mountPath": f"{mounts}/study"},
                    {"name": "settings", "mountPath": f"{mounts}/settings"},
                ],
            }
        ],
        "volumes": [
            {"name": "study", "persistentVolumeClaim": {"claimName": "study"}},
            {"name": "settings", "configMap": {"name": "settings"}},
        ],
    }


def _submitter() -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "ray-job-submitter",
                "image": "study",
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "securityContext": RESTRICTED,
            }
        ],
    }

"""Study files with a `cluster:` section, and the requests that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from k8s.request import Request, read_request

DIGEST = "@sha256:" + "d" * 64

SMALLEST: dict[str, Any] = {"namespace": "studies", "image": f"registry.example/hidfd{DIGEST}"}

EVERYTHING: dict[str, Any] = {
    **SMALLEST,
    "image_pull_policy": "Always",
    "image_pull_secrets": ["registry"],
    "driver": {"cpus": 4, "memory": "6Gi", "node_selector": {"pool": "cpu"}},
    "workers": {
        "gpu": {
            "count": 1,
            "max_count": 8,
            "cpus": 8,
            "memory": "32Gi",
            "shared_memory": "4Gi",
            "gpus": 2,
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "dedicated", "value": "research", "effect": "NoSchedule"}],
        },
        "spot": {"count": 0, "max_count": 16, "gpus": 1, "spot": True},
    },
    "driver_service_account": "hidfd-driver",
    "worker_service_account": "hidfd-worker",
    "queue": "research",
    "priority_class": "low",
    "retries": 5,
    "deadline_hours": 48,
    "drain_seconds": 30,
    "environment": {"AWS_ENDPOINT_URL": "http://s3.example:9000"},
    "secrets": {
        "AWS_ACCESS_KEY_ID": {"secret": "s3", "key": "AWS_ACCESS_KEY_ID"},
        "AWS_SECRET_ACCESS_KEY": {"secret": "s3", "key": "AWS_SECRET_ACCESS_KEY"},
        "DB_PASSWORD": {"secret": "hidfd-database", "key": "password"},
    },
    "volumes": {"results": {"claim": "hidfd-store", "mount_path": "/mnt/hidfd"}},
}

REMOTE = {
    "store": "s3://bucket/hidfd",
    "ledger": "postgresql://hidfd:${DB_PASSWORD}@hidfd-database:5432/hidfd",
    "tracking": "http://hidfd-mlflow:5000",
    "results": "/mnt/hidfd/results",
}


def tree(cluster: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """Return the values of a study file: all storage in S3 and PostgreSQL, all material imported."""
    hashed = {name: {"sha256": letter * 64} for name, letter in (("candidates", "a"), ("validation", "b"))}
    return {
        "name": "Fashion_students",
        "storage": REMOTE,
        "resources": {"cpus_per_worker": 4, "gpus_per_worker": 1 if cluster in (None, EVERYTHING) else 0},
        "cluster": EVERYTHING if cluster is None else cluster,
        "trial": {
            "preset": "quick",
            "data": {"num_classes": 10, "channels": 1, "image_size_pixels": 28, **hashed},
            "teacher": {"architecture": "resnet14", "checkpoint": {"sha256": "c" * 64}, "mean": [0.3], "std": [0.3]},
        },
        "study": {"num_students": 12, "concurrency": 4},
        "search": {"distillation.inflation": {"type": "float", "low": 1, "high": 10}},
    } | sections


def request(folder: Path, cluster: dict[str, Any] | None = None, *overrides: str, **sections: Any) -> Request:
    """Write a study file of those values and read the request."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree(cluster, **sections), sort_keys=False))
    return read_request(str(path), overrides)

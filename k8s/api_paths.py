"""Paths of the Kubernetes API that this package uses, and the type of its objects."""

from __future__ import annotations

from typing import Any

ApiObject = dict[str, Any]
"""An object of the Kubernetes API as plain JSON."""

CORE = "/api/v1"
RAY = "/apis/ray.io/v1"


def core(namespace: str, kind: str, name: str = "") -> str:
    """Return the path of a core object in a namespace, or of all of its kind."""
    return f"{CORE}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def ray_jobs(namespace: str, name: str = "") -> str:
    """Return the path of a RayJob, or of all in a namespace."""
    return f"{RAY}/namespaces/{namespace}/rayjobs" + (f"/{name}" if name else "")


def jobs(namespace: str, name: str = "") -> str:
    """Return the path of one of Kubernetes' own Jobs, or of all in a namespace."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" + (f"/{name}" if name else "")

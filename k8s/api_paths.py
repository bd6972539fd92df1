"""Paths of the API that this package asks, and what it answers with."""

from __future__ import annotations

from typing import Any

ApiObject = dict[str, Any]
"""Anything of Kubernetes, as its JSON has it."""

CORE = "/api/v1"
RAY = "/apis/ray.io/v1"


def core(namespace: str, kind: str, name: str = "") -> str:
    """Of a core object in a namespace, or of all of a kind."""
    return f"{CORE}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def ray_jobs(namespace: str, name: str = "") -> str:
    """Of a RayJob, or of all."""
    return f"{RAY}/namespaces/{namespace}/rayjobs" + (f"/{name}" if name else "")


def jobs(namespace: str, name: str = "") -> str:
    """Of one of Kubernetes' own Jobs, or of all."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" + (f"/{name}" if name else "")

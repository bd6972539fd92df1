"""Make a volume for every claim where there is no provisioner; the real controller then binds it."""

from collections.abc import Callable
from typing import Any

from tests.cluster.api_client import ApiClient

LABEL = "tests.hidfd/volume"

VOLUMES = "/api/v1/persistentvolumes"


def nowhere(_name: str) -> dict[str, Any]:
    """Fields of a volume without contents of its own; `PodInputs` links a folder in its place."""
    return {"nfs": {"server": "127.0.0.1", "path": "/"}}  # a source is obligatory, but nothing reads it


def serve_claims(api: ApiClient, source: Callable[[str], dict[str, Any]] = nowhere) -> None:
    """Make a volume for each claim that waits for one, and remove those whose claims are gone.

    Args:
        source: returns, for the name of a volume, its fields that say where its contents are.
    """
    made = api.request("GET", f"{VOLUMES}?labelSelector={LABEL}")["items"]
    names = {volume["metadata"]["name"] for volume in made}
    for claim in api.request("GET", "/api/v1/persistentvolumeclaims")["items"]:
        if (claim.get("status") or {}).get("phase") == "Pending" and _name(claim) not in names:
            api.request("POST", VOLUMES, _volume(claim, source(_name(claim))))
    for volume in made:
        if (volume.get("status") or {}).get("phase") == "Released":
            api.request("DELETE", f"{VOLUMES}/{volume['metadata']['name']}")


def _name(claim: dict[str, Any]) -> str:
    return f"volume-{claim['metadata']['uid']}"


def _volume(claim: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    metadata, wanted = claim["metadata"], claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": _name(claim), "labels": {LABEL: "yes"}},
        "spec": {
            "capacity": wanted["resources"]["requests"],
            "accessModes": wanted["accessModes"],
            "storageClassName": wanted.get("storageClassName") or "",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
            **source,
        },
    }

"""Storage for claims where nobody provisions any: a volume for each, which the real controller then binds."""

from typing import Any

from tests.cluster.api_client import ApiClient

LABEL = "tests.hidfd/volume"

VOLUMES = "/api/v1/persistentvolumes"


def serve_claims(api: ApiClient) -> None:
    """Makes a volume for each claim that waits for one, and removes those whose claims are gone.

    Such a volume only says that there is storage. Its contents are a folder, which `PodInputs` links.
    """
    made = api.request("GET", f"{VOLUMES}?labelSelector={LABEL}")["items"]
    names = {volume["metadata"]["name"] for volume in made}
    for claim in api.request("GET", "/api/v1/persistentvolumeclaims")["items"]:
        if (claim.get("status") or {}).get("phase") == "Pending" and _name(claim) not in names:
            api.request("POST", VOLUMES, _volume(claim))
    for volume in made:
        if (volume.get("status") or {}).get("phase") == "Released":
            api.request("DELETE", f"{VOLUMES}/{volume['metadata']['name']}")


def _name(claim: dict[str, Any]) -> str:
    return f"volume-{claim['metadata']['uid']}"


def _volume(claim: dict[str, Any]) -> dict[str, Any]:
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
            "nfs": {"server": "127.0.0.1", "path": "/"},  # a source is obligatory; nobody looks at it
        },
    }

"""Make a volume for every claim: a folder of this machine, to which the kubelet gives the group of the pod.

    python -m tests.node.local_volumes --server URL --authority FILE --folder FOLDER

Volumes of the kind `local` and not `hostPath`, whose owners the kubelet leaves alone: a pod's `fsGroup` counts here, as
on a cluster.
"""

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

from tests.cluster.api_client import ApiClient, ApiError
from tests.cluster.claims import serve_claims

NODE = "node-0"


def source(folder: Path, name: str) -> dict[str, Any]:
    """Make a folder and return the fields of a volume with it as contents."""
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "local": {"path": str(path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }


def main() -> None:
    """Check the claims every second until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="address of the API server")
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    api = ApiClient(given.server, given.authority, "admin")
    while True:
        with contextlib.suppress(OSError, ApiError):
            serve_claims(api, lambda name: source(given.folder, name))
        time.sleep(1.0)


if __name__ == "__main__":
    main()

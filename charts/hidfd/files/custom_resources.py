"""Check that the cluster has KubeRay's CRDs and serves their version v1."""

import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
for name in ("rayclusters.ray.io", "rayjobs.ray.io"):
    request = urllib.request.Request(
        f"https://kubernetes.default.svc/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{name}: {error}; is KubeRay's operator installed?")
    if "v1" not in [version["name"] for version in found["spec"]["versions"] if version["served"]]:
        sys.exit(f"{name}: v1 is not served; KubeRay is too old")
    print(f"{name}: served", flush=True)

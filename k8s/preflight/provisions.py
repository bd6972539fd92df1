"""Check what a study needs in its pods: storage, claims, secrets, accounts, its image and its material."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from hidfd.addresses import is_on_s3
from hidfd.config.storage import redacted
from hidfd.errors import ConfigError
from k8s.api_paths import CORE, core
from k8s.client import Server
from k8s.errors import Forbidden, NotFound
from k8s.job.kueue import kueue_path
from k8s.preflight.check import Check, failed, guarded, passed, warned
from k8s.request import FROM_SECRET, Request

FILE_SCHEMES = ("sqlite:///", "file://")
"""Schemes of addresses that are files."""

CHART_POLICY_LABELS = "app.kubernetes.io/name=hidfd,app.kubernetes.io/component=network"
"""Labels of the chart's NetworkPolicies."""


def study_file(request: Request, server: Server) -> Iterator[Check]:
    """Check the sections that the driver reads: it would refuse a mistake in them in every try."""
    from tune.study.check import check_study

    try:
        check_study(request.path, request.overrides)
    except ConfigError as error:
        yield failed("study file", str(error), f"correct {request.path}")
    else:
        yield passed("study file", request.path)


def image(request: Request, server: Server) -> Iterator[Check]:
    """Check that a retry will run the same image."""
    if "@sha256:" in request.cluster.image:
        yield passed("image", request.cluster.image)
    else:
        yield warned(
            "image",
            f"{request.cluster.image} has no digest, so a retry may run another one",
            "write cluster.image as REPOSITORY@sha256:...",
        )


def material(request: Request, server: Server) -> Iterator[Check]:
    """Check that all material has been imported or is on S3: pods see nothing of this machine."""
    if request.unimported:
        yield failed(
            "material",
            f"no sha256, so it is on this machine only: {', '.join(request.unimported)}",
            f"python -m hidfd import {request.path} --store {_store(request)} puts it into the store and prints the "
            f"sha256 lines for the file{_where_to_import(request)}",
        )
    elif request.on_s3 and not _has_keys_of_s3(request):
        yield warned(
            "material",
            f"read from S3, and no AWS_ACCESS_KEY_ID under cluster.secrets: {', '.join(request.on_s3)}",
            "unless the pods' service account may read it, name the Secret there",
        )
    elif request.on_s3:
        yield passed("material", f"read from S3: {', '.join(request.on_s3)}")
    else:
        yield passed("material", "all of it has its sha256")


def storage(request: Request, server: Server) -> Iterator[Check]:
    """Check `storage:`, as the pods will see it."""
    given = set(request.cluster.environment) | set(request.cluster.secrets)
    for name in sorted(request.variables - given):
        yield failed(
            "storage", f"the pods have no environment variable {name}", f"give it under cluster.secrets.{name}"
        )
    for name, address in request.storage.items():
        yield _storage_address(request, name, address)


def _storage_address(request: Request, name: str, address: str) -> Check:
    what, path = f"storage.{name}", _path(address)
    if address.startswith(FROM_SECRET):
        return passed(what, address)
    if path is None:
        if is_on_s3(address) and not _has_keys_of_s3(request):
            return warned(
                what,
                f"{redacted(address)}, and no AWS_ACCESS_KEY_ID under cluster.secrets",
                "unless the pods' service account may use the bucket, name the Secret there",
            )
        return passed(what, redacted(address))
    claim = _claim_below(request, path)
    if claim is None and name == "results":
        return warned(
            what,
            f"{address} is deleted with the driver's pod; MLflow has the pages by then, unless the driver was lost",
            "`tune report` writes them again elsewhere; to keep them, name a path below the mount_path of a claim",
        )
    if claim is None:
        remote = {"store": "s3://BUCKET/PREFIX", "ledger": "postgresql://...", "tracking": "http://an MLflow server"}
        return failed(
            what,
            f"{address} would be inside a pod, deleted with it and not seen by other pods",
            f"give {remote[name]}, or a path below the mount_path of a claim (cluster.volumes)",
        )
    if request.cluster.volumes[claim].read_only:
        return failed(what, f"{address} is on {claim}, which is read_only", "mount it for writing")
    if name in ("ledger", "tracking"):
        return warned(
            what,
            f"{address} is a file on a claim: shared file systems without locks may damage it",
            "the chart has PostgreSQL and an MLflow server",
        )
    return passed(what, f"{address} on claim {request.cluster.volumes[claim].claim}")


def _has_keys_of_s3(request: Request) -> bool:
    return "AWS_ACCESS_KEY_ID" in set(request.cluster.secrets) | set(request.cluster.environment)


def claims(request: Request, server: Server) -> Iterator[Check]:
    """Check that the claims exist, and that all pods can mount them at once."""
    for name, volume in request.cluster.volumes.items():
        yield guarded(f"claim {volume.claim}", partial(_claim, request, server, name))


def _claim(request: Request, server: Server, name: str) -> Check:
    volume = request.cluster.volumes[name]
    what = f"claim {volume.claim}"
    try:
        found = server.get(core(request.cluster.namespace, "persistentvolumeclaims", volume.claim))
    except NotFound:
        return failed(what, "does not exist", f"create it, or correct cluster.volumes.{name}.claim")
    modes, status = found["spec"].get("accessModes") or [], found.get("status") or {}
    shared = {"ReadWriteMany"} | ({"ReadOnlyMany"} if volume.read_only else set())
    if request.cluster.num_pods > 1 and not shared & set(modes):
        whose = "pod" if "ReadWriteOncePod" in modes else "node"
        if whose == "node" and _has_one_node(server):
            return warned(what, f"{', '.join(modes)}: one node only, but no more than one is there or may be seen")
        return failed(
            what,
            f"{', '.join(modes)}: one {whose} only, and there are {request.cluster.num_pods} pods",
            "make it ReadWriteMany, or keep everything in S3 and PostgreSQL",
        )
    if status.get("phase") == "Lost":
        return failed(what, "its volume is lost", "restore it, or create another claim")
    if status.get("phase") == "Bound":
        return passed(what, f"{', '.join(modes)}, bound")
    return _pending(what, found["spec"].get("storageClassName"), server)


def _pending(what: str, storage_class: str | None, server: Server) -> Check:
    if not storage_class:
        return warned(what, "waits for a volume", "create one, or name a storage class in it")
    try:
        found = server.get(f"/apis/storage.k8s.io/v1/storageclasses/{storage_class}")
    except NotFound:
        return failed(what, f"its storage class {storage_class} does not exist", "create the claim with one that does")
    except Forbidden:
        return warned(what, f"waits for a volume, and its storage class {storage_class} may not be read")
    if found.get("volumeBindingMode") == "WaitForFirstConsumer":
        return passed(what, f"{storage_class} makes its volume when the first pod starts")
    return warned(what, f"{storage_class} has not made its volume yet", "see why: kubectl describe pvc")


def secrets(request: Request, server: Server) -> Iterator[Check]:
    """Check that the secrets exist and have their keys. Their values are not read."""
    wanted: dict[str, set[str]] = {}
    for entry in request.cluster.secrets.values():
        wanted.setdefault(entry.secret, set()).add(entry.key)
    for name, keys in wanted.items():
        yield guarded(f"secret {name}", partial(_secret, request, server, name, keys))


def _secret(request: Request, server: Server, name: str, keys: set[str]) -> Check:
    what = f"secret {name}"
    try:
        found = server.get(core(request.cluster.namespace, "secrets", name))
    except NotFound:
        return failed(what, "does not exist", f"kubectl create secret generic {name} --from-literal={min(keys)}=...")
    except Forbidden:
        return warned(what, f"may not be read, so whether it has {', '.join(sorted(keys))} is not known")
    missing = keys - set(found.get("data") or {})
    if missing:
        has = ", ".join(sorted(found.get("data") or {})) or "nothing"
        return failed(what, f"has no key {', '.join(sorted(missing))}, but {has}", "correct cluster.secrets")
    return passed(what, f"has {', '.join(sorted(keys))}")


def pull_secrets(request: Request, server: Server) -> Iterator[Check]:
    """Check that the pull secrets exist, and are of a type that nodes can use."""
    for name in request.cluster.image_pull_secrets:
        yield guarded(f"pull secret {name}", partial(_pull_secret, request, server, name))


def _pull_secret(request: Request, server: Server, name: str) -> Check:
    what = f"pull secret {name}"
    try:
        kind = server.get(core(request.cluster.namespace, "secrets", name)).get("type")
    except NotFound:
        return failed(what, "does not exist", f"kubectl create secret docker-registry {name} ...")
    if kind in ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"):
        return passed(what, str(kind))
    return failed(what, f"is of type {kind}", "create it with kubectl create secret docker-registry")


def accounts(request: Request, server: Server) -> Iterator[Check]:
    """Check that the service accounts of the pods exist."""
    for name in sorted({request.cluster.driver_service_account, request.cluster.worker_service_account}):
        yield guarded(f"service account {name}", partial(_account, request, server, name))


def _account(request: Request, server: Server, name: str) -> Check:
    what = f"service account {name}"
    try:
        server.get(core(request.cluster.namespace, "serviceaccounts", name))
    except NotFound:
        return failed(what, "does not exist", "install the chart, which makes RELEASE-driver and RELEASE-worker")
    return passed(what, "is there")


def scheduling(request: Request, server: Server) -> Iterator[Check]:
    """Check that the priority class and the queue exist, where they are named."""
    priority, queue = request.cluster.priority_class, request.cluster.queue
    if priority is not None:
        yield guarded(f"priority class {priority}", partial(_priority_class, server, priority))
    if queue is not None:
        yield guarded(f"queue {queue}", partial(_queue, request, server, queue))


def _priority_class(server: Server, name: str) -> Check:
    what = f"priority class {name}"
    try:
        found = server.get(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")
    except NotFound:
        return failed(what, "does not exist", "correct cluster.priority_class; kubectl get priorityclasses lists them")
    return passed(what, f"priority {found['value']}")


def _queue(request: Request, server: Server, name: str) -> Check:
    what = f"queue {name}"
    try:
        server.get(kueue_path(server, request.cluster.namespace, "localqueues", name))
    except NotFound:
        return failed(what, "no such LocalQueue here, or no Kueue", "correct cluster.queue; kubectl get localqueues")
    if request.cluster.grows:
        return warned(
            what,
            "is there, but groups grow, which Kueue admits only as elastic jobs",
            "they are on by default from Kueue 0.18, before by the feature gate ElasticJobsViaWorkloadSlices; or leave "
            "max_count out",
        )
    return passed(what, "is there")


def network_policies(request: Request, server: Server) -> Iterator[Check]:
    """Check that the chart's policies let the driver's pod ask the API server, where groups grow."""
    if not request.cluster.grows:
        return
    what, value = "network policies", "networkPolicies.apiServer.to"
    path = f"/apis/networking.k8s.io/v1/namespaces/{request.cluster.namespace}/networkpolicies"
    try:
        found = server.items(path, labelSelector=CHART_POLICY_LABELS)
    except Forbidden:
        yield warned(what, f"may not be listed; with the chart's, groups grow only if {value} names the API server")
        return
    if not found:
        yield passed(what, "none of the chart's")
    elif any(policy["metadata"]["name"].endswith("-api-server") for policy in found):
        yield passed(what, "those of the chart let the driver ask the API server")
    else:
        yield warned(
            what,
            "those of the chart keep the driver from the API server, which it asks for more workers",
            f"set {value} of the chart, unless a policy of your own lets it (docs/kubernetes.md)",
        )


def _has_one_node(server: Server) -> bool:
    """Whether there is one node, as far as the user may see."""
    try:
        return len(server.items(f"{CORE}/nodes")) <= 1
    except Forbidden:
        return True


def _claim_below(request: Request, path: str) -> str | None:
    """Return the name of the volume that a path is on; None where it is on none."""
    mounted = {PurePosixPath(volume.mount_path): name for name, volume in request.cluster.volumes.items()}
    folders = (PurePosixPath(path), *PurePosixPath(path).parents)
    return next((mounted[folder] for folder in folders if folder in mounted), None)


def _path(address: str) -> str | None:
    """Return the path of an address that is a file or a folder; None for one of a server."""
    for scheme in FILE_SCHEMES:
        if address.startswith(scheme):
            return address.removeprefix(scheme)
    return None if "://" in address else address


def _store(request: Request) -> str:
    return "STORE" if _path(request.storage["store"]) else request.storage["store"]


def _where_to_import(request: Request) -> str:
    return ", in a pod that mounts the claim (docs/kubernetes.md)" if _path(request.storage["store"]) else ""

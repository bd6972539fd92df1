"""Check the API server, KubeRay, the namespace, and what the user may do there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from k8s.api_paths import CORE, RAY, core
from k8s.client import Server
from k8s.errors import Forbidden, NotFound, Refused, Unreachable
from k8s.job.submit import dry_run
from k8s.manifest import ray_pods, render
from k8s.preflight.check import Check, failed, guarded, passed, warned
from k8s.request import Request

OLDEST_KUBERNETES = (1, 28)
"""The oldest version that this is tested with."""

OLDEST_KUBERAY = (1, 5, 1)
"""The first version whose RayCluster has authOptions."""

INSTALL_KUBERAY = (
    "helm repo add kuberay https://ray-project.github.io/kuberay-helm && helm install kuberay-operator "
    "kuberay/kuberay-operator --namespace kuberay --create-namespace"
)

LEVEL_LABEL = "pod-security.kubernetes.io/enforce"
"""Label of a namespace with the level of Pod Security."""

NEEDED = (
    ("create", "ray.io", "rayjobs", ""),
    ("get", "ray.io", "rayjobs", ""),
    ("list", "ray.io", "rayjobs", ""),
    ("delete", "ray.io", "rayjobs", ""),
    ("create", "", "configmaps", ""),
    ("get", "", "configmaps", ""),
    ("patch", "", "configmaps", ""),
    ("delete", "", "configmaps", ""),
    ("list", "", "pods", ""),
    ("get", "", "pods", "log"),
    ("list", "", "events", ""),
)
"""Verb, group, resource and subresource of every request by submit, watch and delete. --purge also creates a Job."""


def api_server(request: Request, server: Server) -> Iterator[Check]:
    """Check the version of the API server."""
    found = server.get("/version")
    if not {"major", "minor", "gitVersion"} <= set(found):
        raise Unreachable("/version: the answer is no version, so this is no API server")
    version = tuple(int(re.sub(r"\D.*", "", str(found[part])) or 0) for part in ("major", "minor"))
    words = f"Kubernetes {found['gitVersion']}"
    if version < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        yield failed("API server", words, f"this is tested from {oldest} on; use a newer cluster")
    else:
        yield passed("API server", words)


def kuberay(request: Request, server: Server) -> Iterator[Check]:
    """Check for KubeRay's definitions, and for its operator where that may be seen."""
    try:
        kinds = {kind["kind"] for kind in server.get(RAY)["resources"]}
    except NotFound:
        kinds = set()
    if not {"RayJob", "RayCluster"} <= kinds:
        yield failed(
            "KubeRay", "RayJob and RayCluster of ray.io/v1 are not there", f"have KubeRay installed: {INSTALL_KUBERAY}"
        )
        return
    yield passed("KubeRay", "RayJob and RayCluster of ray.io/v1 are there")
    yield guarded("KubeRay operator", partial(_operator, server))


def _operator(server: Server) -> Check:
    name = "KubeRay operator"
    try:
        found = server.items("/apis/apps/v1/deployments", labelSelector="app.kubernetes.io/name=kuberay-operator")
    except Forbidden:
        return warned(name, "deployments of other namespaces may not be listed, so its version is not known")
    if not found:
        return warned(name, "no deployment is labelled as one", f"unless it runs in some other way: {INSTALL_KUBERAY}")
    image = found[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    ready = (found[0].get("status") or {}).get("readyReplicas") or 0
    tag = re.search(r":v?(\d+(?:\.\d+)+)", image)
    version = () if tag is None else tuple(map(int, tag[1].split(".")))
    where = f"{image} in {found[0]['metadata']['namespace']}"
    if not ready:
        return failed(name, f"{where}, of which no pod is ready", "see why: kubectl describe pods in that namespace")
    if version < OLDEST_KUBERAY[: len(version)]:
        return failed(name, where, f"upgrade it to {'.'.join(map(str, OLDEST_KUBERAY))} or newer")
    return passed(name, where)


def namespace(request: Request, server: Server) -> Iterator[Check]:
    """Check that the namespace exists, and that its level of Pod Security admits the pods."""
    name = request.cluster.namespace
    try:
        found = server.get(f"{CORE}/namespaces/{name}")
    except NotFound:
        yield failed(
            "namespace", f"{name} does not exist", f"kubectl create namespace {name}, or correct cluster.namespace"
        )
        return
    except Forbidden:
        yield warned("namespace", f"{name} may not be read")
        yield from _pod_security(request, server, "its level is not known")
        return
    if found["metadata"].get("deletionTimestamp"):
        yield failed("namespace", f"{name} is being deleted", "wait until it is gone, and create it again")
        return
    yield passed("namespace", name)
    level = (found["metadata"].get("labels") or {}).get(LEVEL_LABEL)
    yield from _pod_security(request, server, f"level {level}" if level else "no level is enforced")


def _pod_security(request: Request, server: Server, words: str) -> Iterator[Check]:
    """Ask the server whether it would admit the pods, where the user may create pods."""
    name = "pod security"
    path = core(request.cluster.namespace, "pods")
    for group, (template, _) in ray_pods(request).items():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": f"preflight-{group}-", **template["metadata"]},
            "spec": template["spec"],
        }
        try:
            server.create(path, pod, dryRun="All")
        except Forbidden as refusal:
            if "violates PodSecurity" in refusal.message:
                yield failed(
                    name, f"{words}: {refusal.message}", "change what the pods ask for, or the namespace's level"
                )
                return
            if "cannot create resource" in refusal.message:
                yield passed(name, f"{words}; the pods keep `restricted`")
                return
            if "error looking up service account" in refusal.message:  # a check of its own
                yield warned(name, f"{words}; whether the pods would be admitted cannot be tried: {refusal.message}")
                return
            if "exceeded quota" not in refusal.message:  # a check of its own, for all pods
                yield failed(
                    name, f"the pods of {group} are refused: {refusal.message}", "correct `cluster:`, or ask why"
                )
                return
        except Refused as refusal:
            if "does not support dry run" in refusal.message:
                yield warned(name, f"{words}; whether the pods would be admitted cannot be tried: {refusal.message}")
            else:
                yield failed(name, f"the pods of {group} are refused: {refusal.message}", "correct `cluster:`")
            return
    yield passed(name, f"{words}; the server would admit the pods, which keep `restricted`")


def permissions(request: Request, server: Server) -> Iterator[Check]:
    """Ask the server whether the user may send every request of submit, watch and delete."""
    missing: list[str] = []
    for verb, group, resource, subresource in NEEDED:
        attributes = {
            "namespace": request.cluster.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = server.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        if not answer["status"]["allowed"]:
            missing.append(
                f"{verb} {resource}{f'/{subresource}' if subresource else ''}{f' of {group}' if group else ''}"
            )
    if not missing:
        yield passed("permissions", f"all {len(NEEDED)} that submit, watch and delete need")
        return
    yield failed(
        "permissions",
        f"{_user(server)} may not {', '.join(missing)} in {request.cluster.namespace}",
        "have it named under submitter.subjects of the chart (charts/hidfd/README.md)",
    )


def job(request: Request, server: Server) -> Iterator[Check]:
    """Check by a dry run that the server would take the job: its fields, its numbers, and admission webhooks."""
    name = "job"
    try:
        dry_run(render(request), request.cluster.namespace, server)
    except Refused as refusal:
        if "cannot create resource" in refusal.message:
            yield warned(name, f"may not be tried: {refusal.message}")
        elif "does not support dry run" in refusal.message:
            yield warned(name, f"cannot be tried: {refusal.message}")
        else:
            yield failed(
                name,
                f"the server would refuse it: {refusal.message}",
                "correct `cluster:`, or ask why; where it does not know a field, upgrade KubeRay with its definitions",
            )
    else:
        yield passed(name, "the server would take it")


def _user(server: Server) -> str:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = server.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    except Refused:
        return "this account"
    return str(answer["status"]["userInfo"].get("username", "this account"))

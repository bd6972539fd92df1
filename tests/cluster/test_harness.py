"""The harness does what the tests of `k8s` rely on."""

import subprocess
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.cluster.api_client import ApiError
from tests.cluster.local_cluster import Cluster, LocalCluster, restrict
from tests.cluster.tools import need_helm, need_tools

RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Fields of a container in a `restricted` namespace."""


def _path(namespace: str, kind: str) -> str:
    group = "apis/ray.io/v1" if kind.startswith("ray") else "api/v1"
    return f"/{group}/namespaces/{namespace}/{kind}"


def _pod(name: str, *command: str, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "any", "command": list(command), **more}
    return {"apiVersion": "v1", "metadata": {"name": name}, "spec": {"containers": [container]}}


def _state(cluster: LocalCluster, namespace: str, pod: str) -> dict[str, Any]:
    """Return the status of its only container, with `restartCount`, `state` and `lastState`."""
    status = cluster.request("GET", f"{_path(namespace, 'pods')}/{pod}")["status"]
    found: dict[str, Any] = next(iter(status.get("containerStatuses", ())), {"state": {}, "restartCount": 0})
    return found


def test_crashed_container_is_restarted_and_its_status_says_why(cluster: LocalCluster, namespace: str) -> None:
    cluster.request("POST", _path(namespace, "pods"), _pod("crashing", "bash", "-c", "echo up; sleep 600 & wait"))
    cluster.wait("the container", lambda: "running" in _state(cluster, namespace, "crashing")["state"])
    cluster.crash(namespace, "crashing", "main", reason="OOMKilled")
    cluster.wait("the restart", lambda: _state(cluster, namespace, "crashing")["restartCount"] == 1)
    ended = _state(cluster, namespace, "crashing")["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert cluster.text(f"{_path(namespace, 'pods')}/crashing/log?previous=true") == "up\n"


def test_log_goes_on_from_a_time(cluster: LocalCluster, namespace: str) -> None:
    command = "for i in 1 2 3; do echo line $i; sleep 1.5; done"
    pod = _pod("counting", "bash", "-c", command)
    pod["spec"]["restartPolicy"] = "Never"
    cluster.request("POST", _path(namespace, "pods"), pod)
    cluster.wait("the container", lambda: "running" in _state(cluster, namespace, "counting")["state"])
    log = f"{_path(namespace, 'pods')}/counting/log?follow=true&timestamps=true"
    stamps, lines = zip(*(line.split(" ", 1) for line in cluster.text(log).splitlines()), strict=True)
    assert lines == ("line 1", "line 2", "line 3")
    since = (datetime.fromisoformat(stamps[2]) - timedelta(seconds=0.5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    rest = cluster.text(f"{_path(namespace, 'pods')}/counting/log?sinceTime={since}").splitlines()
    assert rest == ["line 3"] or rest == ["line 2", "line 3"]  # the server knows whole seconds only


def test_pod_waits_and_says_for_which_secret(cluster: LocalCluster, namespace: str) -> None:
    word = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "word"}}}
    cluster.request("POST", _path(namespace, "pods"), _pod("keyed", "bash", "-c", "echo $WORD; sleep 600", env=[word]))
    cluster.wait("the reason", lambda: "reason" in _state(cluster, namespace, "keyed")["state"].get("waiting", {}))
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
    assert _state(cluster, namespace, "keyed")["state"]["waiting"] == waiting
    with pytest.raises(ApiError, match="is waiting to start: CreateContainerConfigError"):
        cluster.text(f"{_path(namespace, 'pods')}/keyed/log")
    secret = {"metadata": {"name": "keys"}, "stringData": {"word": "found"}}
    cluster.request("POST", _path(namespace, "secrets"), secret)
    cluster.wait("the log", lambda: cluster.text(f"{_path(namespace, 'pods')}/keyed/log") == "found\n")


def test_volumes_of_each_kind_are_mounted(cluster: LocalCluster, namespace: str) -> None:
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    for kind, name, more in (
        ("configmaps", "settings", {"data": {"steps": "5"}}),
        ("secrets", "secret", {"stringData": {"word": "open sesame"}}),
        ("persistentvolumeclaims", "study", {"spec": claim}),
    ):
        cluster.request("POST", _path(namespace, kind), {"metadata": {"name": name}, **more})
    files = {"items": [{"key": "steps", "path": "below/steps"}]}
    volumes: dict[str, dict[str, Any]] = {
        "settings": {"configMap": {"name": "settings"}},
        "chosen": {"configMap": {"name": "settings", **files}},
        "keys": {"secret": {"secretName": "secret"}},
        "claim": {"persistentVolumeClaim": {"claimName": "study"}},
        "scratch": {"emptyDir": {}},
    }
    at = cluster.mounts / "kinds"
    mounts = [{"name": name, "mountPath": f"{at}/{name}"} for name in volumes]
    mounts.append({"name": "settings", "mountPath": f"{at}/one-file", "subPath": "steps"})
    mounts.append({"name": "scratch", "mountPath": "/dev/shm"})  # left alone
    shown = (
        f"cd {at} && cat settings/steps chosen/below/steps one-file keys/word && echo && touch claim/left scratch/left"
    )
    pod = _pod("mounted", "bash", "-ec", f"{shown} && sleep 600", volumeMounts=mounts)
    pod["spec"]["volumes"] = [{"name": name, **source} for name, source in volumes.items()]
    cluster.request("POST", _path(namespace, "pods"), pod)
    left = cluster.claim_folder(namespace, "study") / "left"
    cluster.wait("the container", left.exists)
    assert cluster.text(f"{_path(namespace, 'pods')}/mounted/log") == "555open sesame\n"


def test_pod_whose_image_is_missing_waits(cluster: LocalCluster, namespace: str) -> None:
    cluster.request("POST", _path(namespace, "pods"), _pod("imageless", "true", image="missing.invalid/study:1"))

    def waits() -> bool:
        state = _state(cluster, namespace, "imageless")["state"]
        return bool(state.get("waiting", {}).get("reason") == "ImagePullBackOff")

    cluster.wait("the reason", waits)


def test_restricted_namespace_refuses_a_pod_that_is_not(any_cluster: Cluster, any_namespace: str) -> None:
    restrict(any_cluster, any_namespace)
    path = f"{_path(any_namespace, 'pods')}?dryRun=All"
    with pytest.raises(ApiError, match="violates PodSecurity"):
        any_cluster.request("POST", path, _pod("root", "true"))
    any_cluster.request("POST", path, _pod("modest", "true", securityContext=RESTRICTED))


@pytest.mark.parametrize("user", ["developer", "nobody"])
def test_user_without_rights_may_not_submit(cluster: LocalCluster, namespace: str, user: str) -> None:
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "study"}, "spec": {}}
    with pytest.raises(ApiError, match=f'User "{user}" cannot create') as refused:
        cluster.request("POST", _path(namespace, "rayjobs"), job, token=user)
    assert refused.value.code == 403


def test_kubeconfig_serves_kubectl(cluster: LocalCluster) -> None:
    command = [str(need_tools() / "bin" / "kubectl"), f"--kubeconfig={cluster.kubeconfig()}", "get", "nodes"]
    assert "local-0" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("major", [3, 4])
def test_helm_runs(major: int) -> None:
    done = subprocess.run([need_helm(major), "version", "--short"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"v{major}.")

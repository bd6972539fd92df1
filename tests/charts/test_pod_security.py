"""The checker of `restricted` refuses a pod for each rule, and lets a good one in."""

import copy
from typing import Any

import pytest

from tests.charts.pod_security import kuberay_pods, violations

CONTAINER: dict[str, Any] = {
    "name": "a",
    "image": "i",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
POD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [CONTAINER],
    "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
}


def changed(where: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    inner: Any = pod
    for key in where[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[where[-1]] = value
    return pod


def test_a_pod_that_keeps_all_rules_is_let_in() -> None:
    assert violations(POD) == []


CONTAINERS = ("containers", 0)
SECURITY = (*CONTAINERS, "securityContext")


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (("hostNetwork",), True, "pod: hostNetwork"),
        (("hostPID",), True, "pod: hostPID"),
        (("hostIPC",), True, "pod: hostIPC"),
        (("volumes",), [{"name": "root", "hostPath": {"path": "/"}}], "volume root: hostPath"),
        (("volumes",), [{"name": "share", "nfs": {}}], "volume share: nfs"),
        (("securityContext", "runAsNonRoot"), None, "container a: runAsNonRoot is not true"),
        (("securityContext", "runAsNonRoot"), False, "pod: runAsNonRoot is false"),
        (("securityContext", "runAsUser"), 0, "pod: runAsUser is 0"),
        (("securityContext", "seccompProfile"), None, "container a: seccompProfile is neither"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "pod: seccompProfile Unconfined"),
        (("securityContext", "appArmorProfile"), {"type": "Unconfined"}, "pod: appArmorProfile Unconfined"),
        (("securityContext", "seLinuxOptions"), {"user": "root"}, "pod: seLinuxOptions"),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}], "pod: sysctl kernel.msgmax"),
        (("securityContext", "windowsOptions"), {"hostProcess": True}, "pod: hostProcess"),
        (SECURITY, None, "container a: allowPrivilegeEscalation is not false"),
        ((*SECURITY, "allowPrivilegeEscalation"), True, "container a: allowPrivilegeEscalation is not false"),
        ((*SECURITY, "privileged"), True, "container a: privileged"),
        ((*SECURITY, "runAsUser"), 0, "container a: runAsUser is 0"),
        ((*SECURITY, "runAsNonRoot"), False, "container a: runAsNonRoot is not true"),
        ((*SECURITY, "procMount"), "Unmasked", "container a: procMount"),
        ((*SECURITY, "capabilities"), {}, "container a: capabilities do not drop ALL"),
        ((*SECURITY, "capabilities"), {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "container a: capability SYS_PTRACE"),
        ((*SECURITY, "seccompProfile"), {"type": "Unconfined"}, "container a: seccompProfile"),
        ((*SECURITY, "seLinuxOptions"), {"type": "spc_t"}, "container a: seLinuxOptions"),
        ((*SECURITY, "windowsOptions"), {"hostProcess": True}, "container a: hostProcess"),
        ((*CONTAINERS, "ports"), [{"containerPort": 1, "hostPort": 1}], "container a: hostPort 1"),
        (
            (*CONTAINERS, "livenessProbe"),
            {"httpGet": {"host": "h", "port": 1}},
            "container a: livenessProbe names a host",
        ),
        ((*CONTAINERS, "lifecycle"), {"preStop": {"tcpSocket": {"host": "h"}}}, "container a: preStop names a host"),
        (("initContainers",), [{"name": "b"}], "container b: allowPrivilegeEscalation is not false"),
        (("ephemeralContainers",), [{"name": "c"}], "container c: capabilities do not drop ALL"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_refused_for_it(where: tuple[str | int, ...], value: Any, reason: str) -> None:
    assert [found for found in violations(changed(where, value)) if found.startswith(reason)]


def test_a_container_may_overrule_its_pod_where_restricted_lets_it() -> None:
    pod = changed((*SECURITY, "capabilities"), {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})
    pod["securityContext"] = {}
    pod["containers"][0]["securityContext"] |= {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost"}}
    assert violations(pod) == []


def test_what_kuberay_adds_has_the_security_that_it_gives() -> None:
    cluster = {
        "enableInTreeAutoscaling": True,
        "headGroupSpec": {"template": {"spec": copy.deepcopy(POD)}},
        "workerGroupSpecs": [{"groupName": "gpu", "template": {"spec": copy.deepcopy(POD)}}],
    }
    pods = kuberay_pods(cluster)
    assert [item["name"] for item in pods["gpu"]["spec"]["initContainers"]] == ["wait-gcs-ready"]
    assert violations(pods["gpu"]["spec"]) == []
    assert "container autoscaler: allowPrivilegeEscalation is not false" in violations(pods["head"]["spec"])
    cluster["autoscalerOptions"] = {"securityContext": CONTAINER["securityContext"]}
    assert violations(kuberay_pods(cluster)["head"]["spec"]) == []

"""Pod Security's profile `restricted`, and what KubeRay adds to the pods of a Ray cluster.

`violations` is for pods that no API server sees: those that a chart renders, or that an operator would make of a custom
resource. The admission plugin of a real API server has the last word.

**Source** https://kubernetes.io/docs/concepts/security/pod-security-standards/, `baseline` and `restricted`.
"""

import copy
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip

SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}

SECCOMP = {"RuntimeDefault", "Localhost"}

SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(pod_spec: dict[str, Any]) -> list[str]:
    """Return what `restricted` refuses about a pod on Linux, each as `place: reason`; empty where it admits the pod.

    Args:
        pod_spec: a PodSpec as plain data.
    """
    found = [f"pod: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod_spec.get(name)]
    security = pod_spec.get("securityContext") or {}
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        found.append("pod: hostProcess")
    if security.get("runAsUser") == 0:
        found.append("pod: runAsUser is 0")
    if security.get("runAsNonRoot") is False:
        found.append("pod: runAsNonRoot is false")
    found += [f"pod: sysctl {item['name']}" for item in security.get("sysctls") or [] if item["name"] not in SYSCTLS]
    found += [f"pod: {reason}" for reason in _confinement(security)]
    for volume in pod_spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        found += [f"volume {volume['name']}: {kind}" for kind in sorted(kinds - VOLUMES)]
    for container in containers(pod_spec):
        found += [f"container {container['name']}: {reason}" for reason in _of_container(container, security)]
    return found


def containers(pod_spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Yield all containers of a pod: init, main, ephemeral."""
    return [
        item for kind in ("initContainers", "containers", "ephemeralContainers") for item in pod_spec.get(kind) or []
    ]


def kuberay_pods(cluster_spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pods that KubeRay 1.6.2 makes of a RayClusterSpec, by `head` and the worker groups' names.

    To workers it adds an init container with the Ray container's security context, environment and mounts; to a head
    with autoscaling a container whose security context is that of `autoscalerOptions`, and nothing if there is none.
    **Source** ray-operator/controllers/ray/common/pod.go.
    """
    head = copy.deepcopy(cluster_spec["headGroupSpec"]["template"])
    if cluster_spec.get("enableInTreeAutoscaling"):
        options = cluster_spec.get("autoscalerOptions") or {}
        autoscaler = {"name": "autoscaler", "image": head["spec"]["containers"][0]["image"]}
        autoscaler["resources"] = _small("500m", "512Mi")
        taken = ("image", "resources", "securityContext", "volumeMounts", "env")
        head["spec"]["containers"].append(autoscaler | {key: options[key] for key in taken if key in options})
    pods = {"head": head}
    for group in cluster_spec.get("workerGroupSpecs") or []:
        pod = pods[group["groupName"]] = copy.deepcopy(group["template"])
        ray = pod["spec"]["containers"][0]
        wait = {key: ray[key] for key in ("image", "securityContext", "env", "volumeMounts") if key in ray}
        wait |= {"name": "wait-gcs-ready", "resources": _small("200m", "256Mi")}
        pod["spec"].setdefault("initContainers", []).append(wait)
    return pods


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    security = container.get("securityContext") or {}
    found = []
    if security.get("privileged"):
        found.append("privileged")
    if security.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation is not false")
    if security.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        found.append("runAsNonRoot is not true")
    if security.get("runAsUser") == 0:
        found.append("runAsUser is 0")
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        found.append("hostProcess")
    if security.get("procMount", "Default") != "Default":
        found.append("procMount")
    capabilities = security.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        found.append("capabilities do not drop ALL")
    found += [f"capability {name}" for name in capabilities.get("add") or [] if name != "NET_BIND_SERVICE"]
    if ((security.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")) not in SECCOMP:
        found.append("seccompProfile is neither RuntimeDefault nor Localhost")
    found += [f"hostPort {port['hostPort']}" for port in container.get("ports") or [] if port.get("hostPort")]
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        found += [f"{name} names a host" for action in (container.get(name) or {}).values() if _names_a_host(action)]
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            found += [f"{name} names a host" for action in hook.values() if _names_a_host(action)]
    return found + _confinement(security)


def _confinement(security: dict[str, Any]) -> list[str]:
    """Return what `restricted` refuses about the fields that pods and containers share."""
    found = []
    if (security.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in SECCOMP:
        found.append(f"seccompProfile {security['seccompProfile']['type']}")
    if (security.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in SECCOMP:
        found.append(f"appArmorProfile {security['appArmorProfile']['type']}")
    labels = security.get("seLinuxOptions") or {}
    if labels.get("type") not in SELINUX or labels.get("user") or labels.get("role"):
        found.append("seLinuxOptions")
    return found


def _names_a_host(action: Any) -> bool:
    return isinstance(action, dict) and bool(action.get("host"))


def _small(cpu: str, memory: str) -> dict[str, dict[str, str]]:
    return {kind: {"cpu": cpu, "memory": memory} for kind in ("requests", "limits")}

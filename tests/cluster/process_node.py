"""A Kubernetes node whose containers are ordinary processes: KubeRay's pods run for real, without images and root.

It takes the pods that the scheduler binds to it, runs a Ray container as a real `ray start --block` and every other
container as its own command, reports phases, exit codes and restarts, and ends all of them when it is told to end.

Real:     environment with Secrets, ConfigMaps and fields; mounts below one folder; logs; restarts; grace periods;
          claims, for which it makes volumes.
Not here: images, init containers (taken as done), probes other than Ray's own, limits, hooks, exec, port-forward.

Several nodes share one machine, root and folder of logs; a node that is killed with its pods is a lost one.

Below its root are claims/NAMESPACE/CLAIM/ and, made by a test, crash/NAMESPACE/POD/CONTAINER, whose text is the reason
that the crash is reported with (Error, OOMKilled). Below its logs are NAMESPACE/POD/CONTAINER/RESTART.log.
"""

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.cluster.api_client import MERGE, ApiClient, ApiError, read_kubeconfig
from tests.cluster.claims import serve_claims
from tests.cluster.containers import Container, now
from tests.cluster.daemon import free_port
from tests.cluster.dashboards import serve_dashboards
from tests.cluster.node_logs import serve_logs
from tests.cluster.pod_inputs import Manifest, MissingInputError, PodInputs
from tests.cluster.pods import PORTS, HeadPorts, Pod

HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats; without one for `control_plane.LOST_SECONDS` a node counts as lost."""

STEP_SECONDS = 0.3


class ProcessNode:
    """A node.

    Attributes:
        root: a short path, as Ray's sockets are below it.
        logs: folder of the containers' logs.
        ray: the `ray` command of the environment that studies run in.
    """

    def __init__(self, api: ApiClient, name: str, root: Path, logs: Path, ray: Path, mounts: Path) -> None:
        """Start no pod yet; `mounts` is the folder below which mounts are made."""
        self.root, self.logs, self.ray = root, logs, ray
        self.inputs = PodInputs(api, name, mounts, root / "claims")
        self.stopping = threading.Event()
        self._api, self._name = api, name
        self._pods: dict[str, Pod] = {}
        self._reported: dict[str, str] = {}

    def head(self, namespace: str, cluster: str) -> HeadPorts | None:
        """Return the ports of the ready head of a Ray cluster, on any node."""
        selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        for pod in self._api.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]:
            ports = (pod["metadata"].get("annotations") or {}).get(PORTS)
            conditions = (pod.get("status") or {}).get("conditions") or ()
            is_ready = any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)
            if ports and is_ready and "deletionTimestamp" not in pod["metadata"]:
                return HeadPorts(*json.loads(ports))
        return None

    def dashboard(self, service: str, namespace: str) -> int:
        """Return the dashboard port of the Ray head behind a Service."""
        try:
            found = self._api.request("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
            head = self.head(namespace, (found["spec"].get("selector") or {}).get("ray.io/cluster", ""))
        except ApiError as refusal:
            raise MissingInputError("ContainerCreating", str(refusal)) from refusal
        if head is None:
            raise MissingInputError("ContainerCreating", f"no Ray head is ready behind the Service {service}")
        return head.dashboard

    def container(self, namespace: str, pod_name: str, name: str) -> Container | None:
        """Return a container of a pod of this node."""
        for pod in list(self._pods.values()):
            if (pod.namespace, pod.name) == (namespace, pod_name):
                return next((each for each in pod.containers if each.name == name), None)
        return None

    def run(self, port: int, resources: dict[str, str], *, with_storage: bool) -> None:
        """Register the node, whose logs are served at `port`, and run its pods until `stopping`; then end them."""
        status = _node_status(port, resources)
        labels = {"kubernetes.io/hostname": self._name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        self._api.request("POST", "/api/v1/nodes", node)
        next_beat = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() > next_beat:
                    self._beat(status)
                    next_beat = time.monotonic() + HEARTBEAT_SECONDS
                if with_storage:
                    serve_claims(self._api)
                self._step()
            except (OSError, ApiError) as error:  # the API server restarts
                _say(f"{type(error).__name__}: {error}")
                self.stopping.wait(1.0)
            self.stopping.wait(STEP_SECONDS)
        threads = [threading.Thread(target=pod.stop, args=(3.0,)) for pod in self._pods.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _beat(self, status: dict[str, Any]) -> None:
        times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", **times}
        body = {"status": {**status, "conditions": [ready]}}
        self._api.request("PATCH", f"/api/v1/nodes/{self._name}/status", body, content=MERGE)

    def _step(self) -> None:
        listed = self._api.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={self._name}")["items"]
        wanted = {manifest["metadata"]["uid"]: manifest for manifest in listed}
        for uid in set(self._pods) - set(wanted):
            pod = self._pods.pop(uid)
            if not pod.ending:  # removed by force
                pod.stop(1.0)
        for uid, manifest in wanted.items():
            if uid not in self._pods:
                self._pods[uid] = Pod(self, manifest)
            pod = self._pods[uid]
            pod.manifest = manifest
            if pod.ending:
                continue
            if "deletionTimestamp" in manifest["metadata"]:
                pod.ending = True
                threading.Thread(target=self._remove, args=(pod,), daemon=True).start()
                continue
            pod.step()
            self._report(uid, pod)

    def _report(self, uid: str, pod: Pod) -> None:
        status = pod.status()
        conditions = [condition["status"] for condition in status["conditions"]]
        news = json.dumps([status["phase"], conditions, status["containerStatuses"]])
        if self._reported.get(uid) != news:
            path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
            if pod.ray_kind == "head":
                annotations = {PORTS: json.dumps(pod.ports)}
                self._request_unless_gone("PATCH", path, {"metadata": {"annotations": annotations}}, MERGE)
            self._request_unless_gone("PATCH", f"{path}/status", {"status": status}, MERGE)
            self._reported[uid] = news
            _say(f"{pod.namespace}/{pod.name} {news}")

    def _remove(self, pod: Pod) -> None:
        metadata = pod.manifest["metadata"]
        pod.stop(metadata.get("deletionGracePeriodSeconds", 30))
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        while True:
            try:
                self._request_unless_gone("DELETE", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}", options)
                return
            except (OSError, ApiError) as error:
                _say(f"{pod.namespace}/{pod.name} is not removed yet: {error}")
                time.sleep(1.0)

    def _request_unless_gone(self, method: str, path: str, body: Manifest, content: str = "application/json") -> None:
        try:
            self._api.request(method, path, body, content=content)
        except ApiError as refusal:
            if refusal.code not in (404, 409):
                raise


def _node_status(port: int, resources: dict[str, str]) -> dict[str, Any]:
    """Return the constant part of a node's status."""
    unknown = ("kernelVersion", "osImage", "bootID", "machineID", "systemUUID", "kubeProxyVersion")
    known = {
        "kubeletVersion": "v1.36.0-process",
        "operatingSystem": "linux",
        "architecture": "amd64",
        "containerRuntimeVersion": "process://1",
    }
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": dict.fromkeys(unknown, "") | known,
    }


def _say(line: str) -> None:
    print(f"{now()} {line}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="the admin's, of `ControlPlane.kubeconfig`")
    parser.add_argument("--certificates", type=Path, required=True, help="the folder of kubelet.crt and kubelet.key")
    parser.add_argument("--root", type=Path, required=True, help="an empty folder; a short path, for Ray's sockets")
    parser.add_argument("--logs", type=Path, required=True, help="a folder for what containers print")
    parser.add_argument("--mounts-below", type=Path, required=True, help="mounts are made below it, others left alone")
    parser.add_argument("--ray", type=Path, default=Path(sys.executable).with_name("ray"))
    parser.add_argument("--proxy-port", type=int, help="of the operator's proxy; this node makes volumes as well")
    parser.add_argument("--name", default="local-0")
    parser.add_argument("--cpus", default="8")
    parser.add_argument("--memory", default="32Gi")
    parser.add_argument("--gpus", type=int, default=0)
    given = parser.parse_args()
    api = read_kubeconfig(given.kubeconfig)
    node = ProcessNode(api, given.name, given.root, given.logs, given.ray, given.mounts_below)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stopping.set())
    port = free_port()
    serve_logs(port, given.certificates / "kubelet.crt", given.certificates / "kubelet.key", node.container)
    if given.proxy_port is not None:
        serve_dashboards(given.proxy_port, node.dashboard)
    resources = {"cpu": given.cpus, "memory": given.memory, "pods": "50"}
    if given.gpus:
        resources["nvidia.com/gpu"] = str(given.gpus)
    with contextlib.suppress(KeyboardInterrupt):
        node.run(port, resources, with_storage=given.proxy_port is not None)


if __name__ == "__main__":
    main()

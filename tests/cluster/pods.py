"""A pod of the process node: its containers, of which Ray's is a real `ray start --block` on free loopback ports."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.cluster.containers import Container, Launch, now
from tests.cluster.daemon import free_port
from tests.cluster.pod_inputs import Manifest, MissingInputError, PodInputs
from tests.integration.ray_nodes import STARTED, UP_SECONDS

KEPT = {"HOME", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MPLBACKEND", "MLFLOW_DISABLE_TELEMETRY"}
"""Variables of this machine that a container gets. A real one gets none: no address, no key, no proxy."""

OPTIONS = {"--num-cpus", "--num-gpus", "--resources", "--labels"}
"""Options of `ray start` that are kept from the command that KubeRay wrote."""

KUBERAYS = re.compile(
    r"KUBERAY_.*|FQ_RAY_IP|RAY_IP|RAY_PORT|RAY_ADDRESS|REDIS_PASSWORD|RAY_USAGE_STATS_.*|RAY_DASHBOARD_ENABLE_K8S_.*"
    r"|RAY_gcs_server_request_timeout_seconds"
)
"""Variables by which KubeRay tells Ray of a network and of time limits that this machine cannot keep."""

POD_ADDRESS = "198.51.100.1"
"""The address in the status of every pod. No machine has it: with a loopback one, Kubernetes warns of every Service."""

SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?:\d+")


PORTS = "tests.hidfd/ports"
"""Annotation of a Ray head with its `HeadPorts`, as pods have no addresses of their own."""


class HeadPorts(NamedTuple):
    """The ports of a Ray head: workers join `gcs`, its submitter asks the `dashboard`."""

    gcs: int
    dashboard: int


class Machine(Protocol):
    """The methods of a node that its pods use."""

    root: Path
    logs: Path
    ray: Path
    inputs: PodInputs

    def head(self, namespace: str, cluster: str) -> HeadPorts | None:
        """Return the ports of the ready head of a Ray cluster."""

    def dashboard(self, service: str, namespace: str) -> int:
        """Return the dashboard port of the Ray head behind a Service; raises MissingInputError."""


class Pod:
    """A pod that the scheduler has bound to the node; `step` is called again and again.

    Attributes:
        manifest: the pod as the API server last had it.
        ports: ports of a Ray head; 0 before it starts.
        ending: whether it was deleted.
    """

    def __init__(self, machine: Machine, manifest: Manifest) -> None:
        self.manifest, self.ending = manifest, False
        metadata = manifest["metadata"]
        self.namespace: str = metadata["namespace"]
        self.name: str = metadata["name"]
        self.ray_cluster: str = metadata.get("labels", {}).get("ray.io/cluster", "")
        self.ports = HeadPorts(0, 0)
        self._machine = machine
        self._folder = machine.root / metadata["uid"][:8]  # short: Ray's sockets are below it
        self._folder.mkdir(parents=True, exist_ok=True)
        first = manifest["spec"]["containers"][0]
        is_ray = any(variable["name"] == "KUBERAY_GEN_RAY_START_CMD" for variable in first.get("env", ()))
        self.ray_kind: str = metadata.get("labels", {}).get("ray.io/node-type", "") if is_ray else ""
        self._token = ""
        self.containers = [self._container(each, is_ray and each is first) for each in manifest["spec"]["containers"]]

    def step(self) -> None:
        """Start and restart what is due; crash a container for which there is a file in the node's `crash/`."""
        policy = self.manifest["spec"].get("restartPolicy", "Always")
        for container in self.containers:
            order = self._machine.root / "crash" / self.namespace / self.name / container.name
            if container.running and order.exists():
                container.crash(order.read_text())
                order.unlink()
            is_ray = bool(self.ray_kind) and container is self.containers[0]
            container.step(policy, self._ray_is_ready if is_ray else _at_once)

    def stop(self, seconds: float) -> None:
        """End all containers at the same time."""
        threads = [threading.Thread(target=each.stop, args=(seconds,)) for each in self.containers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """The pod's `status`."""
        containers = [container.status() for container in self.containers]
        ended = [status["state"]["terminated"] for status in containers if "terminated" in status["state"]]
        if len(ended) == len(containers):
            phase = "Failed" if any(state["exitCode"] for state in ended) else "Succeeded"
        else:
            phase = "Running" if any(container.started for container in self.containers) else "Pending"
        ready = str(phase == "Running" and all(status["ready"] for status in containers))
        conditions = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": ready, "Ready": ready}
        return {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": POD_ADDRESS,
            "podIPs": [{"ip": POD_ADDRESS}],
            "startTime": self.manifest["status"].get("startTime") or now(),
            "conditions": [
                {"type": name, "status": value, "lastTransitionTime": now()} for name, value in conditions.items()
            ],
            "initContainerStatuses": [] if phase == "Pending" else self._init_statuses(),
            "containerStatuses": containers,
        }

    def _init_statuses(self) -> list[dict[str, Any]]:
        """Return statuses of init containers that are done: KubeRay's own one waits for a head, as the node does."""
        done = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
        rest = {"imageID": "", "ready": True, "restartCount": 0, "state": {"terminated": done}}
        return [
            {"name": container["name"], "image": container.get("image", ""), **rest}
            for container in self.manifest["spec"].get("initContainers", ())
        ]

    def _container(self, manifest: Manifest, is_ray: bool) -> Container:
        logs = self._machine.logs / self.namespace / self.name / manifest["name"]
        return Container(manifest, logs, self._preparing(manifest, is_ray))

    def _preparing(self, container: Manifest, is_ray: bool) -> Callable[[], Launch]:
        def prepare() -> Launch:
            inputs = self._machine.inputs
            declared = inputs.environment(self.manifest, container)
            inputs.mount(self.manifest, container)
            variables = {name: value for name, value in os.environ.items() if name in KEPT}
            # An entrypoint's `python` and a submitter's `ray` are those of the environment that the node was given.
            variables["PATH"] = f"{self._machine.ray.parent}{os.pathsep}{os.environ['PATH']}"
            if is_ray:
                variables |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": f"{UP_SECONDS:.0f}"}
                variables |= {name: value for name, value in declared.items() if not KUBERAYS.fullmatch(name)}
                self._token = variables.get("RAY_AUTH_TOKEN", "")
                command = self._ray_command(declared["KUBERAY_GEN_RAY_START_CMD"])
            else:
                variables |= {name: self._reachable(value) for name, value in declared.items()}
                command = list(map(self._reachable, container.get("command", []) + container.get("args", [])))
            folder = Path(container.get("workingDir", "/missing"))
            return Launch(command, variables, folder if folder.is_dir() else self._folder)

        return prepare

    def _reachable(self, text: str) -> str:
        """Replace the addresses of Services by those of this machine."""
        if self.ray_kind == "head":  # a submitter beside it
            text = re.sub(r"(localhost|127\.0\.0\.1):8265", f"127.0.0.1:{self.ports.dashboard}", text)
        return SERVICE.sub(lambda found: f"127.0.0.1:{self._machine.dashboard(found[1], found[2])}", text)

    def _ray_command(self, kuberays: str) -> list[str]:
        options = [word for word in shlex.split(kuberays) if word.partition("=")[0] in OPTIONS]
        if self.ray_kind == "head":
            self.ports = HeadPorts(free_port(), free_port())
            place = [
                *("--head", f"--port={self.ports.gcs}", "--include-dashboard=true"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.ports.dashboard}"),
                f"--ray-client-server-port={free_port()}",
            ]
        else:
            head = self._machine.head(self.namespace, self.ray_cluster)
            if head is None:
                raise MissingInputError("PodInitializing", "the Ray head is not ready")
            place = [f"--address=127.0.0.1:{head.gcs}"]
        return [
            *(str(self._machine.ray), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--object-store-memory={100 * 2**20}"),
            # Its own, as every pod has one: nodes that share it replace each other's working folders of jobs.
            *(f"--temp-dir={self._folder}", "--min-worker-port=0", "--max-worker-port=0", *place, *options),
        ]

    def _ray_is_ready(self) -> bool:
        if self.ray_kind == "worker":
            return STARTED in self.containers[0].log().read_text(errors="replace")
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports.dashboard}/api/jobs/")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _at_once() -> bool:
    return True

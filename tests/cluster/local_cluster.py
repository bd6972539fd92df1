"""A whole cluster on this machine: a control plane, KubeRay's operator and a node whose containers are processes."""

import contextlib
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.cluster.api_client import JSON, MERGE
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.daemon import free_port

GONE_SECONDS = 180.0
"""Seconds that a namespace's pods may take to end."""


class Cluster(Protocol):
    """The methods of any cluster, this machine's or a real one, that tests use."""

    def request(self, method: str, path: str, body: Any = None, *, content: str = JSON) -> Any:
        """Send a request as an admin and return the object in the answer; raises ApiError."""

    def kubeconfig(self) -> Path:
        """Return the path of the admin's kubeconfig."""

    def wait(self, what: str, reached: Callable[[], bool], seconds: float = ...) -> None:
        """Wait until a condition holds; fail when time is up."""


class LocalCluster:
    """A cluster on this machine, made by `local_cluster`.

    Attributes:
        root: folder of the nodes, see `process_node`.
        mounts: containers find their volumes where a `mountPath` below it says; other mounts do not exist.
        proxy: HTTP proxy by which a process of this machine reaches http://SERVICE.NAMESPACE.svc of a Ray head.
    """

    def __init__(self, plane: ControlPlane, folder: Path, root: Path, mounts: Path) -> None:
        self._plane, self._folder, self.root, self.mounts = plane, folder, root, mounts
        port = free_port()
        self.proxy = f"http://127.0.0.1:{port}"
        plane.start_operator(self.proxy)
        self._start_node("local-0", "--proxy-port", str(port))

    def request(self, method: str, path: str, body: Any = None, *, token: str = "admin", content: str = JSON) -> Any:
        """Send a request and return the object in the answer; a user's token is the user's name."""
        return self._plane.request(method, path, body, token=token, content=content)

    def text(self, path: str) -> str:
        """Return the text of an answer, such as a log; wait for the end of one that is followed."""
        return self._plane.api.text("GET", path, seconds=600.0)

    def kubeconfig(self, user: str = "admin") -> Path:
        """Write a kubeconfig for kubectl, Helm and the Python client; `developer` and `nobody` have no rights yet."""
        return self._plane.kubeconfig(user)

    def wait(self, what: str, reached: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait until a condition holds; fail with the ends of all logs when time is up. A refusal means not yet."""
        self._plane.wait(what, reached, seconds)

    def restart_api_server(self) -> None:
        """Kill the API server and start it again on the same port."""
        self._plane.restart_api_server()

    def crash(self, namespace: str, pod: str, container: str, reason: str = "Error") -> None:
        """Kill a container with all of its processes; `reason` is what its status will say, such as OOMKilled."""
        order = self.root / "crash" / namespace / pod / container
        order.parent.mkdir(parents=True, exist_ok=True)
        part = order.with_suffix(".part")
        part.write_text(reason)
        part.replace(order)

    @contextlib.contextmanager
    def another_node(self, name: str) -> Iterator[None]:
        """Run a second node with the same folders while the block lasts; it may be lost meanwhile."""
        self._start_node(name)
        try:
            yield
        finally:
            self._plane.stop(name)
            if self._plane.api.exists(path := f"/api/v1/nodes/{name}"):
                self.request("DELETE", path)
            for pod in self.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={name}")["items"]:
                where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
                self.request("DELETE", where, {"gracePeriodSeconds": 0})

    def lose_node(self, name: str) -> None:
        """Kill a node with its pods without a notice; Kubernetes' own Node stays and becomes NotReady."""
        self._plane.lose(name)

    def claim_folder(self, namespace: str, claim: str) -> Path:
        """Return the folder with the contents of a claim."""
        return self.root / "claims" / namespace / claim

    def _start_node(self, name: str, *options: str) -> None:
        self._plane.spawn(
            name,
            *(sys.executable, "-m", "tests.cluster.process_node", "--name", name),
            *("--kubeconfig", self.kubeconfig(), "--certificates", self._folder),
            *("--root", self.root, "--logs", self._folder / "pods", "--mounts-below", self.mounts, *options),
            gently=True,  # it ends its pods
        )
        self._plane.wait(name, lambda: _is_open(self.request("GET", f"/api/v1/nodes/{name}")))


def _is_open(node: Any) -> bool:
    """Whether pods may go to the node: Kubernetes taints a new one until it has seen that it is ready."""
    return bool(node["status"].get("conditions")) and not node["spec"].get("taints")


@contextlib.contextmanager
def local_cluster(folder: Path, tools: Path) -> Iterator[LocalCluster]:
    """Run a cluster while the block lasts.

    Args:
        folder: an empty one for state and logs; those of containers are in its `pods/`.
        tools: what `tests.cluster.tools` found.
    """
    with (
        # Ray's sockets are in it, whose paths may have 107 characters.
        tempfile.TemporaryDirectory(prefix="n", dir="/tmp", ignore_cleanup_errors=True) as short,
        running_control_plane(folder, tools) as plane,
    ):
        root, mounts = Path(short, "pods"), Path(short, "mounts")
        root.mkdir()
        mounts.mkdir()
        yield LocalCluster(plane, folder, root, mounts)


@contextlib.contextmanager
def fresh_namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace whose pods are gone afterwards, so that the next test finds the node empty."""
    name = f"test-{secrets.token_hex(4)}"
    path = f"/api/v1/namespaces/{name}"
    jobs = f"/apis/ray.io/v1/namespaces/{name}"
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        cluster.wait("a service account", lambda: bool(cluster.request("GET", f"{path}/serviceaccounts/default")))
        yield name
    finally:
        for kind in ("rayjobs", "rayclusters"):  # first, for their finalizers still need the pods
            cluster.request("DELETE", f"{jobs}/{kind}")
        for kind in (f"{jobs}/rayjobs", f"{path}/pods"):
            cluster.wait(f"the end of {kind}", partial(_is_empty, cluster, kind), GONE_SECONDS)
            cluster.request("DELETE", f"{path}/pods")
        cluster.request("DELETE", path)


def _is_empty(cluster: Cluster, path: str) -> bool:
    return not cluster.request("GET", path)["items"]


def restrict(cluster: Cluster, namespace: str) -> None:
    """Let the namespace accept only pods that keep Kubernetes' `restricted` profile."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.request("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}}, content=MERGE)

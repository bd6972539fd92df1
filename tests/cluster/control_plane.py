"""A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, KubeRay's operator.

No node, no container and no root: `process_node` brings the node. Every port is a free one.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.api_client import JSON, ApiClient, ApiError
from tests.cluster.certificates import make_certificates
from tests.cluster.daemon import Daemon, free_port

USERS = {
    "admin": "system:masters",
    "developer": "",
    "nobody": "",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "kuberay-operator": "",
}
"""User -> group. `developer` and `nobody` may do nothing until a test lets them."""

READY_SECONDS = 300.0
"""Seconds that a part may take to start; on two idle cores all of them take ten."""

LOST_SECONDS = 20
"""Seconds without a heartbeat after which a node counts as lost; Kubernetes' default is 50."""

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class ControlPlane:
    """A control plane that `running_control_plane` starts and stops, with its state and logs in one folder.

    Attributes:
        api: client of the admin.
        url: address of the API server, the same after a restart.
    """

    def __init__(self, folder: Path, tools: Path) -> None:
        self._folder, self._tools = folder, tools
        self._daemons: dict[str, Daemon] = {}
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        make_certificates(folder)
        (folder / "tokens.csv").write_text(
            "".join(f'{user},{user},{user},"{group}"\n' for user, group in USERS.items())
        )
        self.api = ApiClient(self.url, folder / "ca.crt", "admin")

    def start(self) -> None:
        """Start the API server, the controllers and the scheduler, and return when they work."""
        peer = f"http://127.0.0.1:{free_port()}"
        self.spawn(
            "etcd",
            *(self._tools / "bin" / "etcd", "--data-dir", self._folder / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", self._etcd_url, "--advertise-client-urls", self._etcd_url),
            *(
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"default={peer}",
            ),
            *("--log-level", "warn"),
        )
        self._start_api_server()
        self.spawn(
            "kube-controller-manager",
            self._tools / "bin" / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            f"--service-account-private-key-file={self._folder}/sa.key",
            f"--root-ca-file={self._folder}/ca.crt",
            f"--node-monitor-grace-period={LOST_SECONDS}s",
            *("--use-service-account-credentials=true", "--leader-elect=false"),
            *("--bind-address=127.0.0.1", "--secure-port=0", "--pvclaimbinder-sync-period=2s"),
        )
        self.spawn(
            "kube-scheduler",
            self._tools / "bin" / "kube-scheduler",
            f"--kubeconfig={self.kubeconfig('system:kube-scheduler')}",
            *("--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"),
        )
        # Pods are refused until it exists.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait("the default service account", lambda: self.api.exists(account))

    def start_operator(self, proxy: str | None) -> None:
        """Add Ray's kinds and KubeRay's operator, with the rights that it publishes; return when it is ready.

        Args:
            proxy: answers for http://SERVICE.NAMESPACE.svc, for there is no DNS here; None: pods have addresses of
                their own, to which the API server passes the operator's requests on.
        """
        for file in sorted((self._tools / "share" / "kuberay-crds").glob("*.yaml")):
            group, plural = file.stem.split("_")  # ray.io_rayjobs.yaml
            self.api.apply(f"{CRDS}/{plural}.{group}", file.read_text())
        self.wait("the operator's kinds", lambda: all(map(_established, self.api.request("GET", CRDS)["items"])))
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kuberay-operator"}
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kuberay-operator"}
        self.api.apply(
            f"{RBAC}/clusterroles/kuberay-operator",
            (self._tools / "share" / "kuberay-rbac" / "role.yaml").read_text(),
        )
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kuberay-operator"},
            "roleRef": role,
            "subjects": [user],
        }
        self.api.apply(f"{RBAC}/clusterrolebindings/kuberay-operator", json.dumps(binding))
        probe = free_port()
        self.spawn(
            "operator",
            self._tools / "bin" / "ray-operator",
            f"--kubeconfig={self.kubeconfig('kuberay-operator')}",
            f"--metrics-addr=127.0.0.1:{free_port()}",
            f"--health-probe-bind-address=127.0.0.1:{probe}",
            "--enable-leader-election=false",
            *(("--use-kubernetes-proxy",) if proxy is None else ()),
            **({} if proxy is None else {"HTTP_PROXY": proxy}),
        )
        ready = ApiClient(f"http://127.0.0.1:{probe}", self._folder / "ca.crt", "")
        self.wait("the operator", lambda: ready.text("GET", "/readyz") == "ok")

    def restart_api_server(self) -> None:
        """Kill the API server, as a lost machine does, and start it again on the same port."""
        self._daemons.pop("kube-apiserver").stop()
        self._start_api_server()

    def request(self, method: str, path: str, body: Any = None, *, token: str = "admin", content: str = JSON) -> Any:
        """Send a request and return the object in the answer; a user's token is the user's name."""
        return self.api.request(method, path, body, token=token, content=content)

    def kubeconfig(self, user: str) -> Path:
        """Write a kubeconfig for kubectl, Helm and the Python client."""
        file = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        server = {"server": self.url, "certificate-authority": str(self._folder / "ca.crt")}
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
        }
        file.write_text(json.dumps(tree))
        return file

    def spawn(self, name: str, *command: str | Path, gently: bool = False, **variables: str) -> None:
        """Start one more program, which is ended, `gently` or not, before all that were started earlier."""
        self._daemons[name] = Daemon(command, self._folder / f"{name}.log", variables, gently=gently)

    def lose(self, name: str) -> None:
        """Kill a program with all that it has started, as when a machine dies."""
        self._daemons.pop(name).lose()

    def stop(self, name: str) -> None:
        """End a program, unless it was killed before."""
        if name in self._daemons:
            self._daemons.pop(name).stop()

    def wait(self, what: str, reached: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Wait until a condition holds; fail with the ends of logs when time is up or a program ends meanwhile."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ApiError):
                if reached():
                    return
            for daemon in self._daemons.values():
                daemon.check()
            assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s\n{self.tails()}"
            time.sleep(0.1)

    def tails(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {name}\n{daemon.tail()}" for name, daemon in self._daemons.items())

    def close(self) -> None:
        """End all programs, the youngest first."""
        for daemon in reversed(self._daemons.values()):
            daemon.stop()
        self._daemons.clear()

    def _start_api_server(self) -> None:
        folder = self._folder
        self.spawn(
            "kube-apiserver",
            self._tools / "bin" / "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", "--service-cluster-ip-range=10.96.0.0/16"),
            "--endpoint-reconciler-type=none",  # otherwise it needs an address that other machines can reach
            *(f"--tls-cert-file={folder}/server.crt", f"--tls-private-key-file={folder}/server.key"),
            *(f"--client-ca-file={folder}/ca.crt", f"--token-auth-file={folder}/tokens.csv"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={folder}/sa.key", f"--service-account-signing-key-file={folder}/sa.key"),
            *("--authorization-mode=Node,RBAC", "--profiling=false"),
            # The rest is how it asks a node for a pod's log.
            f"--kubelet-certificate-authority={folder}/ca.crt",
            f"--kubelet-client-certificate={folder}/kubelet-client.crt",
            f"--kubelet-client-key={folder}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait("the API server", lambda: self.api.text("GET", "/readyz") == "ok")


def _established(kind: dict[str, Any]) -> bool:
    conditions = (kind.get("status") or {}).get("conditions") or ()  # for a moment there are none
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@contextlib.contextmanager
def running_control_plane(folder: Path, tools: Path) -> Iterator[ControlPlane]:
    """Run a control plane while the block lasts.

    Args:
        folder: an empty one for state, certificates and logs.
        tools: what `tests.cluster.tools` found.
    """
    plane = ControlPlane(folder, tools)
    try:
        plane.start()
        yield plane
    finally:
        plane.close()

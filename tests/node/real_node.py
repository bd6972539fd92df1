"""A real node on this machine: containerd, runc, a CNI bridge and a kubelet, for a control plane of tests/cluster.

Needs root on Linux. All its files are in one folder, except a bridge, an address on `lo` and what Kubernetes'
programs insist on writing elsewhere; all of it is removed again.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.api_client import MERGE
from tests.cluster.certificates import NODE_ADDRESS
from tests.cluster.control_plane import ControlPlane
from tests.cluster.daemon import Daemon
from tests.node.images import PAUSE
from tests.node.local_volumes import NODE

PROGRAMS = ("containerd", "runc", "ctr", "debootstrap", "unshare", "ip", "jq", "/usr/lib/cni/bridge")

PACKAGES = "containerd runc containernetworking-plugins debootstrap jq"
"""Programs that are Debian packages."""

BRIDGE, NETWORK, PODS = "hidfd-node", "hidfd-node", "10.244.7.0/24"

NUM_CPUS = 8
"""CPUs that the node reports: no study fits two, and the pods of a test may share what there is."""

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")

OUTSIDE = ("/var/log/pods", "/var/log/containers", "/var/lib/cni", "/var/lib/kubelet", "/etc/cni", "/run/containerd")
"""Folders that Kubernetes' programs make although they are given others."""


class RealNode:
    """A node, made by `real_node`."""

    def __init__(self, folder: Path, images: Path, plane: ControlPlane, kubelet: Path) -> None:
        self._folder, self._images, self._plane, self._kubelet = folder, images, plane, kubelet
        self._socket = folder / "containerd.sock"
        self._containerd: Daemon | None = None
        self._missing = [path for path in OUTSIDE if not Path(path).exists()]
        self._forwarded = FORWARD.read_text()  # the CNI plugin switches it on

    def start(self, state: Path, archives: Sequence[Path]) -> None:
        """Start the node and return when it is ready.

        Args:
            state: the control plane's folder, with the kubelet's certificate.
            archives: archives of images to import.
        """
        _quietly("ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", "lo")
        (self._folder / "cni").mkdir(parents=True, exist_ok=True)
        (self._folder / "cni/network.conflist").write_text(json.dumps(self._network()))
        config = self._folder / "containerd.toml"
        config.write_text(self._containerd_config())
        self._containerd = Daemon(["containerd", "--config", config], self._folder / "containerd.log", gently=True)
        self._plane.wait("containerd", lambda: self._ctr("version").returncode == 0)
        for archive in archives:
            imported = self._ctr("images", "import", archive)
            assert imported.returncode == 0, imported.stderr
        (self._folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet_config(state)))
        services = ("--server", self._plane.url, "--authority", state / "ca.crt")
        module = (sys.executable, "-m")
        self._plane.spawn("dns", *module, "tests.node.cluster_dns", *services, "--listen", NODE_ADDRESS)
        self._plane.spawn(
            "volumes", *module, "tests.node.local_volumes", *services, "--folder", self._folder / "volumes"
        )
        self._plane.spawn(
            "kubelet",
            *(self._kubelet, "--config", self._folder / "kubelet.yaml", "--root-dir", self._folder / "kubelet"),
            *("--kubeconfig", self._plane.kubeconfig("admin"), "--hostname-override", NODE, "--node-ip", NODE_ADDRESS),
        )
        self._plane.wait("the node", self._is_ready)
        path = f"/api/v1/nodes/{NODE}/status"
        cpus = str(max(NUM_CPUS, os.cpu_count() or 1))
        self._plane.request(
            "PATCH", path, {"status": {"capacity": {"cpu": cpus}, "allocatable": {"cpu": cpus}}}, content=MERGE
        )

    def close(self) -> None:
        """End every container, then remove everything but the folder. The kubelet has to have ended before."""
        if self._containerd is not None:
            for task in self._ctr("tasks", "list", "--quiet").stdout.split():
                self._ctr("tasks", "delete", "--force", task)
            for container in self._ctr("containers", "list", "--quiet").stdout.split():
                self._ctr("containers", "delete", container)
            self._containerd.stop()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{self._folder}/")), reverse=True):
            _quietly("umount", mount)
        _quietly("ip", "link", "delete", BRIDGE)
        _quietly("ip", "address", "delete", f"{NODE_ADDRESS}/32", "dev", "lo")
        FORWARD.write_text(self._forwarded)
        for path in self._missing:
            _quietly("rm", "-rf", "--one-file-system", path)
        for top in Path("/sys/fs/cgroup").glob("*/kubepods"):
            for group in sorted([*top.glob("**/"), top], reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _ctr(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", self._socket, "--namespace", "k8s.io", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _is_ready(self) -> bool:
        conditions = self._plane.request("GET", f"/api/v1/nodes/{NODE}")["status"].get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _network(self) -> dict[str, Any]:
        """Make a bridge without a route out: pods reach each other and the node."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": PODS}]],
            "dataDir": str(self._folder / "addresses"),
            "routes": [{"dst": "10.244.0.0/16"}, {"dst": f"{NODE_ADDRESS}/32"}],
        }
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge, {"type": "loopback"}]}

    def _containerd_config(self) -> str:
        # An OOM score below one's own takes CAP_SYS_RESOURCE, which a root of a container or of a small VM may lack.
        return f"""version = 2
root = "{self._images}"
state = "{self._folder}/run"
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self._folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""

    def _kubelet_config(self, state: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{state}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "address": NODE_ADDRESS,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "tlsCertFile": f"{state}/kubelet.crt",
            "tlsPrivateKeyFile": f"{state}/kubelet.key",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "podLogsDir": f"{self._folder}/logs",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [NODE_ADDRESS],
            "resolvConf": "",
            # Seldom, so that the number of CPUs stays as `start` sets it; leases show that the node is healthy.
            "nodeStatusUpdateFrequency": "24h",
            # Images cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }


@contextlib.contextmanager
def real_node(
    folder: Path, images: Path, plane: ControlPlane, state: Path, kubelet: Path, archives: Sequence[Path]
) -> Iterator[None]:
    """Run a node while the block lasts.

    Args:
        folder: for its state, logs and volumes.
        images: containerd's folder of images, kept for the next node: it takes minutes to write and to delete.
        plane: the control plane, which has to end within the block: the kubelet would restart what is removed.
        state: the control plane's folder.
        kubelet: the program.
        archives: archives of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    node = RealNode(folder, images, plane, kubelet)
    try:
        node.start(state, archives)
        yield
    finally:
        plane.close()
        node.close()


def complaint() -> str | None:
    """Return what this machine lacks; None where it has everything."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a real node needs Linux and root"
    missing = [name for name in PROGRAMS if _quietly("which", name) != 0]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install --no-install-recommends {PACKAGES}"
    return None


def _quietly(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode

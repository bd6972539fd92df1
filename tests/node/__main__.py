"""The product on one real node: `make test-node`.

    python -m tests.node [--folder FOLDER] [--transcript FILE] [--s3]

Real are etcd, API server, controllers, scheduler, KubeRay's operator, kubelet, containerd, runc and a CNI bridge; the
project's image, built without Docker; PostgreSQL, Debian's. A short program takes the place of the cluster's DNS and
kube-proxy. Needs root on Linux, some 25 GB of disk, and a quarter of an hour on two cores.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from tests.cluster import tools
from tests.cluster.certificates import NODE_ADDRESS
from tests.cluster.control_plane import running_control_plane
from tests.integration.s3 import GET_IT, find_program, running_s3
from tests.node.dockerfile import ROOT
from tests.node.images import build_images
from tests.node.material import lay_out
from tests.node.real_node import complaint, real_node
from tests.node.terminal import CommandFailedError, Terminal, variables
from tests.node.walkthrough import walk_through

USERS = ("admin", "developer")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.node", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp/hidfd-node"), help="images stay in it, for the next time"
    )
    parser.add_argument("--transcript", type=Path, help="what was typed and answered; default FOLDER/transcript.txt")
    parser.add_argument(
        "--s3", action="store_true", help="store and artifacts on an S3 server beside the cluster, no claim"
    )
    given = parser.parse_args(arguments)
    found = tools.folder()
    programs = [found / name for name in ("bin/kubectl", "bin/kubelet", "helm4/helm")]
    problem = complaint() or tools.complaint()
    if problem is None and not all(program.exists() for program in programs):
        problem = "run python -m tests.cluster.tools build control-plane operator helm4 node"
    if problem is None and given.s3 and find_program() is None:
        problem = f"no S3 server here; get one: {GET_IT}"
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else nothing would be cleaned up
    given.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print("building the images (minutes the first time)", flush=True)
    archives = build_images(given.folder / "images")
    print(f"built in {time.monotonic() - began:.0f} s; starting the node", flush=True)
    return _run(given.folder, given.transcript or given.folder / "transcript.txt", found, archives, given.s3)


def _run(folder: Path, transcript: Path, found: Path, archives: list[Path], is_on_s3: bool) -> int:
    began = time.monotonic()
    state = Path(tempfile.mkdtemp(prefix="state-", dir=folder))
    node, desk = state / "node", state / "desk"
    desk.mkdir()
    images, kubelet = folder / "containerd", found / "bin/kubelet"
    with (
        running_control_plane(state, found) as plane,
        real_node(node, images, plane, state, kubelet, archives),
        running_s3(state / "s3", NODE_ADDRESS) if is_on_s3 else nullcontext() as server,
    ):
        s3 = None if server is None else server.environment
        lay_out(desk, ROOT / "charts", s3)
        plane.start_operator(None)
        print(f"the cluster is ready after {time.monotonic() - began:.0f} s", flush=True)
        terminal = Terminal(desk, transcript, variables(found, ROOT, {user: plane.kubeconfig(user) for user in USERS}))
        try:
            walk_through(terminal, desk, s3)
        except CommandFailedError as failure:
            print(f"error: {failure}\n{plane.tails()}\nlogs: {state}", file=sys.stderr)
            return 1
    shutil.rmtree(state)
    print(f"all of it: {time.monotonic() - began:.0f} s; transcript: {transcript}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The programs that the cluster tests run: a control plane, KubeRay's operator and two Helms, all built by Go.

    python -m tests.cluster.tools           says where they are, or how to get them
    python -m tests.cluster.tools build     builds what is missing; `build node` a kubelet, which only tests/node takes

They are in the folder named by HIDFD_KUBERNETES_TOOLS, else in the user's cache.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "HIDFD_KUBERNETES_TOOLS"

BUILD = Path(__file__).parent / "tools" / "build"

NEEDED = (
    *("bin/etcd", "bin/kube-apiserver", "bin/kube-controller-manager", "bin/kube-scheduler", "bin/ray-operator"),
    *("share/kuberay-crds", "share/kuberay-rbac"),
)
"""Programs without which no cluster starts. The tests that use a Helm check for it."""

GO = (1, 26)
"""The oldest Go that builds this Kubernetes."""


def folder() -> Path:
    """Return the folder of the programs."""
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else Path.home() / ".cache" / "hidfd" / "kubernetes-tools"


def complaint() -> str | None:
    """Return the sentence that says how to get what a cluster needs; None where all of it is there."""
    if all((folder() / name).exists() for name in NEEDED):
        return None
    command = "python -m tests.cluster.tools build"
    if _go_version() < GO:
        return f"no Kubernetes tools in {folder()}: install Go 1.26 or newer from https://go.dev/dl and run {command}"
    return f"no Kubernetes tools in {folder()}: run {command}, which takes ten minutes on two idle cores"


def need_tools() -> Path:
    """Return the folder with all that a cluster needs; without it the test skips, and fails where CI is set."""
    problem = complaint()
    if problem is not None:
        _do_without(problem)
    return folder()


def need_helm(major: int) -> Path:
    """Return the executable of Helm 3 or Helm 4; without it the test skips, and fails where CI is set."""
    program = folder() / f"helm{major}" / "helm"
    if not program.exists():
        _do_without(f"no {program}: run python -m tests.cluster.tools build")
    return program


def build(*names: str) -> int:
    """Build what is missing of all or of the named programs; return the exit status."""
    if _go_version() < GO:
        print(f"error: {complaint() or 'Go 1.26 or newer is needed: https://go.dev/dl'}", file=sys.stderr)
        return 2
    return subprocess.run([BUILD, folder(), *names], check=False).returncode


def _do_without(problem: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(problem, pytrace=False)
    pytest.skip(problem)


def _go_version() -> tuple[int, ...]:
    program = shutil.which("go")
    if program is None:
        return (0,)
    words = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", words)
    return tuple(map(int, found.groups())) if found else (0,)


def main(arguments: list[str]) -> int:
    """Run the command line."""
    if arguments[:1] == ["build"]:
        return build(*arguments[1:])
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    print(complaint() or folder())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

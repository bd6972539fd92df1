"""Build the images of the node without Docker: the project's by the Dockerfile, PostgreSQL's from Debian.

Nothing can be pulled from where this runs, so every base is a Debian that debootstrap has put together.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.node.archive import Layer, write_archive
from tests.node.dockerfile import ROOT, Dockerfile, read_dockerfile

PROJECT, POSTGRESQL, PAUSE = "local.test/hidfd:tests", "local.test/postgresql:15", "local.test/pause:tests"
"""Packages of Debian 12, whose PostgreSQL is 15."""

BASE = ("ca-certificates", "netbase", "tzdata", "python3")
"""Packages that the Dockerfile's base image, python:3.11-slim-bookworm, has beside the smallest Debian."""

NOT_NEEDED = frozenset({"dev", "proc", "sys", "run", "tmp", "var/cache/apt", "var/lib/apt/lists"})

POSTGRES_ID = 999
"""User and group of the official image, which the chart expects."""


def build_images(folder: Path) -> list[Path]:
    """Build the archives of all three images; one that was built before with the same lock is used again.

    Args:
        folder: folder of the archives and their contents, 17 GB, of which 7 are shared with uv's cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dockerfile = read_dockerfile()
    debian = _debian(folder / "debian", *BASE, *dockerfile.packages())
    return [
        _pause(folder / "pause.tar", debian),
        _postgresql(folder / "postgresql.tar", _debian(folder / "debian-postgresql", "postgresql-15")),
        _project(folder, debian, dockerfile),
    ]


def _debian(folder: Path, *packages: str) -> Layer:
    """Build the smallest Debian 12 with some packages."""
    done = folder.with_suffix(".packages")
    if not done.exists() or done.read_text().split() != list(packages):
        shutil.rmtree(folder, ignore_errors=True)
        # In a namespace of mounts: an interrupted debootstrap would leave its /proc, which the next one would delete.
        options = ("--variant=minbase", f"--include={','.join(packages)}")
        _run("unshare", "--mount", "debootstrap", *options, "bookworm", folder)
        done.write_text(" ".join(packages))
    return Layer({"": folder}, NOT_NEEDED)


def _pause(archive: Path, debian: Layer) -> Path:
    """Build the image that keeps a pod's network while its containers come and go."""
    if not archive.exists():
        write_archive(archive, PAUSE, [debian], {"Cmd": ["sleep", "infinity"], "Env": ["PATH=/usr/bin"]})
    return archive


def _postgresql(archive: Path, debian: Layer) -> Path:
    """Build PostgreSQL's from Debian, with the user, the variables and the entrypoint of the official image."""
    folder = archive.with_suffix("")
    entrypoint = folder / "usr/local/bin/docker-entrypoint.sh"
    entrypoint.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("postgresql-entrypoint"), entrypoint)
    for name, line in (("passwd", "postgres:x:{0}:{0}::/:/bin/sh\n"), ("group", "postgres:x:{0}:\n")):
        lines = (debian.folders[""] / "etc" / name).read_text().splitlines(keepends=True)  # type: ignore[operator]
        others = [each for each in lines if not each.startswith("postgres:")]
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc" / name).write_text("".join([*others, line.format(POSTGRES_ID)]))
    config = {
        "Env": ["PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["postgres"],
    }
    write_archive(
        archive, POSTGRESQL, [debian, Layer({"usr/local/bin": entrypoint.parent, "etc": folder / "etc"})], config
    )
    return archive


def _project(folder: Path, debian: Layer, dockerfile: Dockerfile) -> Path:
    """Build the project's own: Debian, its requirements and the project."""
    archive = folder / "hidfd.tar"
    needed, project, source = folder / "needed", folder / "project", folder / "source"
    lock = folder / "needed.lock"
    wanted = (ROOT / "requirements.lock").read_text() + (ROOT / "pyproject.toml").read_text()
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for name in dockerfile.copies():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    uv = Path(sys.executable).parent / "uv"
    if not lock.exists() or lock.read_text() != wanted:
        shutil.rmtree(needed, ignore_errors=True)
        # Its programs find Python beside themselves: what is a path of this machine here is /opt/hidfd in the image.
        _run(uv, "venv", "--quiet", "--seed", "--relocatable", "--python", sys.executable, needed)
        _install(uv, dockerfile.installs(0), needed, project, source)
        (needed / "bin/python").unlink()
        (needed / "bin/python").symlink_to("/usr/bin/python3")
        settings = (needed / "pyvenv.cfg").read_text().splitlines()
        settings = [line if not line.startswith("home") else "home = /usr/bin" for line in settings]
        (needed / "pyvenv.cfg").write_text("\n".join(settings) + "\n")
        lock.write_text(wanted)
    shutil.rmtree(project, ignore_errors=True)
    _install(uv, dockerfile.installs(1), needed, project, source)
    _run(sys.executable, "-m", "compileall", "-q", "-s", project, "-p", "/opt/project", project)
    layers = [debian, Layer({"opt/hidfd": needed}), Layer({"opt/project": project, "work": None})]
    write_archive(archive, PROJECT, layers, dockerfile.config())
    return archive


def _install(uv: Path, arguments: Sequence[str], needed: Path, project: Path, source: Path) -> None:
    """Run `uv pip install` of the Dockerfile from this machine's cache, by hard links instead of copies."""
    places = {"/opt/hidfd/bin/python": str(needed / "bin/python"), "/opt/project": str(project)}
    words = [places.get(word, word) for word in arguments if word != "--no-cache"]
    if "--python" not in words:
        words = ["--python", sys.executable, *words]
    _run(uv, "pip", "install", "--quiet", *words, folder=source)


def _run(*command: str | Path, folder: Path | None = None) -> None:
    """Run a command that prints only if it fails: builds take minutes."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

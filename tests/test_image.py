"""The image is made of what the package needs, runs as nobody in particular, and takes its versions from the lock."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
STAGES = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[1:]
FINAL = STAGES[-1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COPIED = [word for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", "\n".join(STAGES)) for word in line.split()[:-1]]


def is_sent(path: Path) -> bool:
    """Whether .dockerignore lets a file in: the last pattern that matches it or a folder above decides."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!")
            names = [path, *path.parents][:-1]
            if any(
                fnmatch.fnmatch(name.as_posix(), bare) or fnmatch.fnmatch(name.name, bare.removeprefix("**/"))
                for name in names
            ):
                sent = pattern.startswith("!")
    return sent


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the project's stage holds: the copied parts of the sent files."""
    folder = tmp_path_factory.mktemp("context")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        if is_sent(Path(name)) and (name in COPIED or name.split("/")[0] in COPIED) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_package_of_the_distribution_is_copied(context: Path) -> None:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = [name for name in find_packages(str(ROOT), include=include) if "." not in name]
    assert sorted(packages) == ["hidfd", "k8s", "tune"]
    assert {path.name for path in context.iterdir() if path.is_dir()} == set(packages)
    for package in packages:
        there = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".html")}
        assert {path.relative_to(context) for path in (context / package).rglob("*") if path.is_file()} >= there


def test_the_three_programs_start_from_what_is_copied_alone(context: Path) -> None:
    for program in ("hidfd", "tune", "k8s"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {program}.__main__ as m; print(m.__file__)"],
            cwd=context,
            env={"PATH": "", "PYTHONPATH": str(context)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(str(context))


def test_what_the_distribution_names_is_there_when_it_is_built(context: Path) -> None:
    for name in (PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"):
        assert (context / name).exists(), name


@pytest.mark.parametrize(
    "name", [".git/config", ".hidfd/store/x", ".venv/bin/python", "tests/x.py", "studies/a.yaml", ".env"]
)
def test_secrets_caches_and_data_are_not_even_sent(name: str) -> None:
    assert not is_sent(Path(name))


def test_image_runs_as_an_ordinary_user_without_build_tools() -> None:
    assert re.search(r"(?m)^USER 1000:1000$", FINAL)
    assert not re.search(r"gcc|build-essential|\buv\b|pip install", FINAL)
    assert "HOME=/tmp" in FINAL


def test_versions_are_those_of_the_lock_and_python_is_a_supported_one() -> None:
    assert "--constraint requirements.lock" in STAGES[0]
    assert re.search(r"pip install --no-cache-dir uv==\d+\.\d+\.\d+ ", STAGES[0]), "what resolves them is pinned too"
    base = re.search(r"ARG BASE=python:(\d\.\d+)", (ROOT / "Dockerfile").read_text())
    assert base is not None
    assert base[1] in ("3.11", "3.12")

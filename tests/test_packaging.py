"""The lock installs what pyproject.toml asks for, anywhere: every requirement met, and no address in it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCK = Path("requirements.lock").read_text()


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_lock_meets_every_requirement(python: str) -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    environment |= {"platform_python_implementation": "CPython", "platform_machine": "x86_64"}
    locked = {}
    for line in LOCK.splitlines():
        if line and not line.startswith((" ", "#")):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                locked[pin.name] = str(pin.specifier).removeprefix("==")
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    for text in project["dependencies"] + extras:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name]), f"{text}, locked {locked[wanted.name]}; run make lock"


def test_lock_holds_no_address_and_no_path_of_a_machine() -> None:
    assert not re.search(r"://|file:|--index|--find-links|--extra-index|^-e|^/| @ ", LOCK, re.MULTILINE)

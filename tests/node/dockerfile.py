"""Read the project's Dockerfile on a machine without Docker."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile.

    Attributes:
        stages: the instructions of each stage in their order, as (`RUN`, the rest of the line).
    """

    stages: tuple[tuple[tuple[str, str], ...], ...]

    def packages(self) -> list[str]:
        """Return the Debian packages of the last stage."""
        (words,) = self._commands(len(self.stages) - 1, "apt-get", "install")
        return [word for word in words[2:] if not word.startswith("-")]

    def installs(self, stage: int) -> list[str]:
        """Return the arguments of the only `uv pip install` of a stage."""
        (words,) = self._commands(stage, "uv", "pip", "install")
        return words[3:]

    def copies(self) -> list[str]:
        """Return the files and folders of the repository that are copied."""
        return [
            word for stage in self.stages[:-1] for name, rest in stage if name == "COPY" for word in rest.split()[:-1]
        ]

    def config(self) -> dict[str, Any]:
        """Return the settings by the names of an OCI image. $PATH is the base image's, which is Debian's."""
        given = dict(self.stages[-1])
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for word in shlex.split(given["ENV"]):
            name, _, value = word.partition("=")
            environment[name] = value.replace("$PATH", environment["PATH"])
        return {
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "User": given["USER"],
            "WorkingDir": given["WORKDIR"],
            "Cmd": shlex.split(given["CMD"].strip("[]").replace(",", " ")),
            "Labels": dict(word.split("=", 1) for word in shlex.split(given["LABEL"])),
        }

    def _commands(self, stage: int, *begin: str) -> list[list[str]]:
        lines = [rest for name, rest in self.stages[stage] if name == "RUN"]
        commands = [shlex.split(command) for line in lines for command in line.split("&&")]
        return [words for words in commands if tuple(words[: len(begin)]) == begin]


def read_dockerfile() -> Dockerfile:
    """Read the Dockerfile of the repository."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, rest = line.split(None, 1)
        if name == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((name, rest))
    return Dockerfile(tuple(map(tuple, stages)))

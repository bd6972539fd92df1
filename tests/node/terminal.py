"""A terminal whose commands and their output are recorded."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from tests.cluster.daemon import without_proxies


class CommandFailedError(Exception):
    """A command of the walkthrough ended with another exit code than expected."""


class Terminal:
    """A terminal that prints to standard output and to a file.

    Args:
        folder: folder in which commands run.
        transcript: the file, which is replaced.
        variables: environment variables of every command.
    """

    def __init__(self, folder: Path, transcript: Path, variables: Mapping[str, str]) -> None:
        self._folder, self._stream = folder, transcript.open("w")
        self._environment = without_proxies() | dict(variables)
        self._began = time.monotonic()

    def say(self, words: str) -> None:
        """Print a heading, with the time since the beginning."""
        self._write(f"\n# {words} ({time.monotonic() - self._began:.0f} s)\n")

    def run(self, command: str, *, code: int | None = 0, user: str = "admin") -> str:
        """Run a command and return what it prints to both streams.

        Args:
            command: a command line of a shell.
            code: the expected exit code; None if it does not matter.
            user: the user whose kubeconfig it gets.

        Raises:
            CommandFailedError: it ended with another code.
        """
        self._write(f"$ {command}\n")
        with self._started(command, user) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                self._write(line)
                lines.append(line)
        if process.returncode != 0:
            self._write(f"(exit code {process.returncode})\n")
        if code is not None and process.returncode != code:
            raise CommandFailedError(f"{command}: exit code {process.returncode} instead of {code}")
        return "".join(lines)

    def ask(self, command: str) -> str:
        """Run a command unseen and return its standard output; empty where it fails."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment_of("admin"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else ""

    @contextlib.contextmanager
    def beside(self, command: str, *, user: str = "admin") -> Iterator[None]:
        """Run a command beside others, its lines marked, and wait for its end.

        Raises:
            CommandFailedError: it failed.
        """
        self._write(f"$ {command} &\n")
        process = self._started(command, user)

        def show() -> None:
            for line in process.stdout or ():
                self._write(f"    | {line}")

        reader = threading.Thread(target=show)
        reader.start()
        try:
            yield
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            reader.join()
        if process.returncode != 0:
            raise CommandFailedError(f"{command}: exit code {process.returncode}")

    def _started(self, command: str, user: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment_of(user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _environment_of(self, user: str) -> dict[str, str]:
        return self._environment | {"KUBECONFIG": self._environment[f"KUBECONFIG_{user.upper()}"]}

    def _write(self, words: str) -> None:
        streams: tuple[TextIO, ...] = (self._stream, sys.stdout)
        for stream in streams:
            stream.write(words)
            stream.flush()


def variables(tools: Path, root: Path, kubeconfigs: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables by which commands find kubectl, helm, this project, and the cluster as one of its users."""
    places = (Path(sys.executable).parent, tools / "bin", tools / "helm4")
    return {
        "PATH": os.pathsep.join([*map(str, places), os.environ["PATH"]]),
        "PYTHONPATH": str(root),
        **{f"KUBECONFIG_{user.upper()}": str(file) for user, file in kubeconfigs.items()},
    }

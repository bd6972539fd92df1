"""What workers write on their own disks, brought beside the driver: MLflow and the study's page take it from there.

Where all nodes share the study's results, nothing travels. An actor of its own takes the files, so that no slow disk
keeps the mailbox from answering.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from hidfd.store.disk import file_sha256

BRING_SECONDS = 60.0
"""How long the driver's disk may take for a picture, or for a folder: a worker waits as long."""

CONFIG = "config.yaml"
"""In a trial's folder, written first; pictures beside another one are those of a forgotten study of that name."""


class ResultsFolder:
    """An actor on the driver's node.

    Args:
        folder: of the study's results.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def lacks(self, digests: dict[str, str]) -> list[str]:
        """Which of these files, by path below the folder, are not there or have other contents."""
        paths = {name: self._folder / name for name in digests}
        return [name for name, path in paths.items() if not path.is_file() or file_sha256(path) != digests[name]]

    def take(self, name: str, content: bytes) -> None:
        """A file as a worker has it; whole, or not at all."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == CONFIG:
            for picture in (*path.parent.glob("samples/*.png"), *path.parent.glob("pictures/*.png")):
                picture.unlink(missing_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)


class HandOver:
    """A worker's side. What the work has built is in the store: if its pages do not arrive, that is told once, no more.

    Args:
        folder: of the study's results, on this node.
        results: handle of the actor.
        tell: a line for the user.
    """

    def __init__(self, folder: str, results: Any, tell: Callable[[str], None]) -> None:
        self._folder, self._results, self._tell = Path(folder), results, tell
        self._has_failed = False

    def bring_file(self, path: Path) -> None:
        """One that was just written into the folder of a task; left for later once a file did not arrive."""
        if not self._has_failed:
            self._safely(lambda: self._bring(self._folder / path.relative_to(self._folder).parts[0], [path]))

    def bring_all(self, label: str) -> None:
        """The folder of a task, as it is now."""
        self._safely(lambda: self._bring(self._folder / label, sorted((self._folder / label).rglob("*"))))

    def _bring(self, folder: Path, paths: list[Path]) -> None:
        until = time.monotonic() + BRING_SECONDS
        paths = [path for path in dict.fromkeys([folder / CONFIG, *paths]) if path.is_file()]
        digests = {str(path.relative_to(self._folder)): file_sha256(path) for path in paths}
        lacks = self._ask(until, "lacks", digests) if digests else []
        for name in lacks:
            self._ask(until, "take", name, (self._folder / name).read_bytes())

    def _ask(self, until: float, method: str, *arguments: Any) -> Any:
        answer = getattr(self._results, method).remote(*arguments)
        return ray.get(answer, timeout=max(until - time.monotonic(), 0.0))

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ray.exceptions.RayError) as error:
            if not self._has_failed:
                self._has_failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                self._tell(f"pages and pictures do not reach the driver's node, so MLflow may lack them: {reason}")

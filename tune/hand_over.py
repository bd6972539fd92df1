"""What workers write on their own disks, brought beside the driver: MLflow and the study's page take it from there.

Where all nodes share the study's results, nothing travels. An actor of its own takes the files, so that no slow disk
keeps the mailbox from answering.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from hidfd.disk import file_sha256

ANSWER_SECONDS = 60.0
"""How long the driver's disk may take."""

PICTURES = ("samples", "pictures")
"""In a trial's folder; the newest of them go to MLflow, so none may be left from a forgotten study."""


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
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)

    def drop_pictures(self, label: str, names: list[str]) -> None:
        """Takes away a piece of work's pictures but for these."""
        for part in PICTURES:
            for path in (self._folder / label / part).glob("*.png"):
                if str(path.relative_to(self._folder)) not in names:
                    path.unlink(missing_ok=True)


class HandOver:
    """A worker's side. What the work has built is in the store: if its pages do not arrive, that is told once, no more.

    Args:
        folder: of the study's results, on this node.
        results: handle of the actor.
        tell: a line for the user.
    """

    def __init__(self, folder: str, results: Any, tell: Callable[[str], None]) -> None:
        self._folder, self._results, self._tell = Path(folder), results, tell
        self._has_told = False

    def bring_file(self, path: Path) -> None:
        """One that was just written."""
        self._safely(lambda: self._bring([path]))

    def bring_all(self, label: str) -> None:
        """The folder of a piece of work, as it is now."""
        self._safely(lambda: self._bring_all(label))

    def _bring_all(self, label: str) -> None:
        paths = [path for path in sorted((self._folder / label).rglob("*")) if path.is_file()]
        if paths:
            self._ask("drop_pictures", label, [self._name(path) for path in paths])
            self._bring(paths)

    def _bring(self, paths: list[Path]) -> None:
        digests = {self._name(path): file_sha256(path) for path in paths}
        for name in self._ask("lacks", digests):
            self._ask("take", name, (self._folder / name).read_bytes())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._results, method).remote(*arguments), timeout=ANSWER_SECONDS)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ray.exceptions.RayError) as error:
            if not self._has_told:
                self._has_told = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                self._tell(f"pages and pictures do not reach the driver's node, so MLflow may lack them: {reason}")

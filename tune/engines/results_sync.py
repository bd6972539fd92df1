"""Upload of a worker's results to the driver's disk, from which MLflow and the study's page are made.

A file that the driver has already, as where all nodes share the results folder, is not sent. An actor of its own
receives the files, so that a slow disk does not delay stop requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from hidfd.report.live_metrics import METRICS
from hidfd.store.disk import file_sha256

UPLOAD_SECONDS = 60.0
"""Seconds that the upload of a picture or of a folder may take; the worker waits for it."""

CONFIG = "config.yaml"
"""The file of a trial's folder that is written first. Pictures and rows beside another `config.yaml` are those of a
forgotten study of the same name."""


class ResultsReceiver:
    """An actor on the driver's node that writes uploaded files.

    Args:
        folder: of the study's results.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def outdated(self, digests: dict[str, str]) -> list[str]:
        """Return the files that are missing here or have other contents.

        Args:
            digests: path below the folder -> sha256 of the worker's file.
        """
        paths = {name: self._folder / name for name in digests}
        return [name for name, path in paths.items() if not path.is_file() or file_sha256(path) != digests[name]]

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == CONFIG:
            for stale in (
                *path.parent.glob("samples/*.png"),
                *path.parent.glob("pictures/*.png"),
                path.parent / METRICS,
            ):
                stale.unlink(missing_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)


class ResultsUploader:
    """A worker's side of the upload.

    An upload that fails does not fail the task, whose artifacts are in the store; the user is told once.

    Args:
        folder: of the study's results, on this node.
        receiver: handle of the `ResultsReceiver`.
        note: takes a line for the user.
    """

    def __init__(self, folder: str, receiver: Any, note: Callable[[str], None]) -> None:
        self._folder, self._receiver, self._note = Path(folder), receiver, note
        self._has_failed = False

    def upload_file(self, path: Path) -> None:
        """Upload a file of a task's folder; once an upload has failed, leave it to `upload_folder`."""
        if not self._has_failed:
            self._safely(lambda: self._upload(self._folder / path.relative_to(self._folder).parts[0], [path]))

    def upload_folder(self, label: str) -> None:
        """Upload the folder of a task as it is now."""
        self._safely(lambda: self._upload(self._folder / label, sorted((self._folder / label).rglob("*"))))

    def _upload(self, folder: Path, paths: list[Path]) -> None:
        until = time.monotonic() + UPLOAD_SECONDS
        paths = [path for path in dict.fromkeys([folder / CONFIG, *paths]) if path.is_file()]
        digests = {str(path.relative_to(self._folder)): file_sha256(path) for path in paths}
        outdated = self._call(until, "outdated", digests) if digests else []
        for name in outdated:
            self._call(until, "write", name, (self._folder / name).read_bytes())

    def _call(self, until: float, method: str, *arguments: Any) -> Any:
        answer = getattr(self._receiver, method).remote(*arguments)
        return ray.get(answer, timeout=max(until - time.monotonic(), 0.0))

    def _safely(self, upload: Callable[[], None]) -> None:
        try:
            upload()
        except (OSError, ray.exceptions.RayError) as error:
            if not self._has_failed:
                self._has_failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                self._note(f"pages and pictures do not reach the driver's node, so MLflow may lack them: {reason}")

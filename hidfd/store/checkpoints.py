"""Checkpoints of a training loop, from which a killed run resumes and a longer generator continues a shorter one.

checkpoints/<digest>/<images>/      written like an artifact: files first, then the manifest; the newest two are kept
checkpoints/<digest>/<images>-end/  the end of one generator length; kept, so that longer ones can continue from it
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hidfd.errors import StoreError
from hidfd.store.artifacts import ATTEMPT_NAME, DIGEST, MANIFEST, Artifact, open_writer, read_artifact
from hidfd.store.backend import StorageBackend
from hidfd.store.disk import claimed

NUM_KEPT = 2
"""Number of checkpoints that are kept: the crash that ended a run may have damaged the newest one."""

END = "-end"
"""Suffix of the folder of a checkpoint that was saved where a generator length ended."""

_NAME = re.compile(f"(0|[1-9][0-9]{{0,17}})({END})?")
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A complete checkpoint.

    Attributes:
        images: images that the loop had seen.
        folder: local folder with its files.
        is_end: whether a generator length ended here. Such a checkpoint is saved before the final measurements, because
            a longer generator measures at other points.
    """

    images: int
    folder: Path
    is_end: bool


class Checkpoints:
    """The checkpoints of one digest: of an artifact, or of a generator's trajectory, which several lengths share."""

    def __init__(self, backend: StorageBackend, digest: str) -> None:
        assert DIGEST.fullmatch(digest), digest
        self._backend = backend
        self._digest = digest
        self._stage = f"checkpoints/{digest}"

    def save(self, images: int, write: Callable[[Path], object], *, is_end: bool = False) -> None:
        """Write a checkpoint and delete all but the newest two. An intact one of the same name is not replaced.

        Args:
            images: images that the loop has seen.
            write: called with a folder, into which it writes the files.
            is_end: see `Checkpoint`; such a checkpoint is never deleted here, nor counted among the two.

        Raises:
            StoreError: it could not be written; earlier checkpoints are intact.
        """
        name = f"{images}{END if is_end else ''}"
        if self._intact(name) is None:
            self._drop(name)
            with open_writer(self._backend, self._stage, name, {"digest": self._digest}) as writer:
                write(writer.folder)
                writer.commit({"images": images})
        # Those beyond `images` are damaged or belong to a longer run, so they do not count among the newest two.
        before = [kept for kept, (at, ended) in self._kept().items() if at <= images and not ended]
        for name in before[NUM_KEPT:]:
            self._drop(name)

    def latest(self, end: int | None = None) -> Checkpoint | None:
        """Return the newest complete checkpoint, None if there is none.

        Args:
            end: images at which the loop ends: only checkpoints before `end` count, and at `end` itself only one with
                `is_end`; None = any.
        """
        for name, (images, is_end) in self._kept().items():
            if end is None or images < end or (images == end and is_end):
                artifact = self._intact(name)
                if artifact is not None:
                    return Checkpoint(images, self._folder(name, artifact), is_end)
        return None

    def seen_here(self, checkpoint: Checkpoint) -> Path:
        """Return the local folder of a checkpoint that another process has found complete.

        Raises:
            StoreError: it is missing or damaged as seen from this process.
        """
        name = f"{checkpoint.images}{END if checkpoint.is_end else ''}"
        artifact = self._intact(name)
        if artifact is None:
            raise StoreError(
                f"{self._backend.where(f'{self._stage}/{name}')}: the first process reads this checkpoint, this one "
                f"cannot; all processes of a trial need the same store"
            )
        return self._folder(name, artifact)

    def clear(self, up_to: int | None = None) -> None:
        """Delete the checkpoints up to `up_to` images (None = all) except those with `is_end`, once the loop has ended.

        A checkpoint that another process is writing is left alone.
        """
        for name, (images, is_end) in self._kept().items():
            if not is_end and (up_to is None or images <= up_to):
                self._drop(name)

    def _kept(self) -> dict[str, tuple[int, bool]]:
        """Return the checkpoints that have a manifest, newest first: name -> (images, is_end)."""
        suffix = f"/{MANIFEST}"
        keys = (file.key.removeprefix(f"{self._stage}/") for file in self._backend.walk(self._stage))
        names = {key.removesuffix(suffix) for key in keys if key.endswith(suffix)}
        names = {name for name in names if _NAME.fullmatch(name)}
        found = {name: (int(name.removesuffix(END)), name.endswith(END)) for name in names}
        return dict(sorted(found.items(), key=lambda checkpoint: checkpoint[1], reverse=True))

    def _folder(self, name: str, artifact: Artifact) -> Path:
        return self._backend.local(f"{self._stage}/{name}/{artifact.attempt}")

    def _intact(self, name: str) -> Artifact | None:
        try:
            artifact = read_artifact(self._backend, self._stage, name)
            if artifact is not None:
                for file in artifact.files:
                    artifact.path(file)
            return artifact
        except StoreError as error:
            _log.warning("skipping the checkpoint at %s images: %s", f"{int(name.removesuffix(END)):,}", error)
            return None

    def _drop(self, name: str) -> None:
        key = f"{self._stage}/{name}"
        self._backend.delete(f"{key}/{MANIFEST}")  # first, so that no reader finds a manifest without its files
        names = {file.key.removeprefix(f"{key}/").split("/")[0] for file in self._backend.walk(key)}
        for attempt in filter(ATTEMPT_NAME.fullmatch, names):
            folder = self._backend.local(f"{key}/{attempt}")
            with claimed(folder) as free:
                if free or not folder.exists():
                    self._backend.delete(f"{key}/{attempt}")

"""Checkpoints of a training loop: what a killed run goes on from.

checkpoints/<digest>/<images>/      written like an artifact: files first, then the manifest; the newest two stay
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hidfd.artifacts import DIGEST, MANIFEST, Artifact, open_attempt, read_artifact
from hidfd.disk import claimed
from hidfd.errors import StoreError
from hidfd.places import Place

KEPT = 2
"""The newest may be damaged by what ended the run; the one before it is then still there."""

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one digest."""

    def __init__(self, place: Place, digest: str) -> None:
        assert DIGEST.fullmatch(digest), digest
        self._place = place
        self._digest = digest
        self._stage = f"checkpoints/{digest}"

    def save(self, images: int, write: Callable[[Path], object]) -> None:
        """Writes a checkpoint and drops all but the newest two. An intact one at the same place stays as it is.

        Args:
            images: how far the loop has come.
            write: puts the files into the folder that it is given.

        Raises:
            StoreError: it could not be written; earlier checkpoints are intact.
        """
        if self._intact(images) is None:
            self._drop(f"{images}")
            with open_attempt(self._place, self._stage, f"{images}", {"digest": self._digest}) as attempt:
                write(attempt.folder)
                attempt.commit({"images": images})
        # Those beyond `images` were damaged, or the loop would have gone on from them: they replace no good one.
        for name in [name for name in self._images_kept() if int(name) <= images][KEPT:]:
            self._drop(name)

    def latest(self) -> tuple[int, Path] | None:
        """The newest checkpoint that is whole: images, and the folder of its files; None if there is none."""
        for name in self._images_kept():
            artifact = self._intact(int(name))
            if artifact is not None:
                return int(name), self._folder(int(name), artifact)
        return None

    def at(self, images: int) -> Path:
        """The folder of a checkpoint that another process has found whole.

        Raises:
            StoreError: it is not there, or not whole here.
        """
        artifact = self._intact(images)
        if artifact is None:
            raise StoreError(
                f"{self._place.where(f'{self._stage}/{images}')}: the first process reads this checkpoint, this one "
                f"cannot; all processes of a trial need the same store"
            )
        return self._folder(images, artifact)

    def clear(self) -> None:
        """Deletes all of them, but not what another process is writing."""
        for name in self._images_kept():
            self._drop(name)

    def _images_kept(self) -> list[str]:
        """Places with a manifest, newest first."""
        suffix = f"/{MANIFEST}"
        keys = (entry.key.removeprefix(f"{self._stage}/") for entry in self._place.walk(self._stage))
        names = {key.removesuffix(suffix) for key in keys if key.endswith(suffix) and key.count("/") == 1}
        return sorted(names, key=int, reverse=True)

    def _folder(self, images: int, artifact: Artifact) -> Path:
        return self._place.base / self._stage / f"{images}" / artifact.attempt

    def _intact(self, images: int) -> Artifact | None:
        try:
            artifact = read_artifact(self._place, self._stage, f"{images}")
            if artifact is not None:
                for name in artifact.files:
                    artifact.path(name)
            return artifact
        except StoreError as error:
            _log.warning("skipping the checkpoint at %s images: %s", f"{images:,}", error)
            return None

    def _drop(self, name: str) -> None:
        key = f"{self._stage}/{name}"
        self._place.delete(f"{key}/{MANIFEST}")  # first, so that no reader finds it without its files
        for attempt in {entry.key.removeprefix(f"{key}/").split("/")[0] for entry in self._place.walk(key)}:
            with claimed(self._place.base / key / attempt) as free:
                if free or not (self._place.base / key / attempt).exists():
                    self._place.delete(f"{key}/{attempt}")

"""Checkpoints of a training loop: what a killed run goes on from, and a longer generator from a shorter one.

checkpoints/<digest>/<images>/      written like an artifact: files first, then the manifest; the newest two stay
checkpoints/<digest>/<images>-end/  where a length of a generator's trajectory ended; stays for longer ones
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hidfd.errors import StoreError
from hidfd.store.artifacts import DIGEST, MANIFEST, Artifact, open_writer, read_artifact
from hidfd.store.backend import StorageBackend
from hidfd.store.disk import claimed

KEPT = 2
"""The newest may be damaged by what ended the run; the one before it is then still there."""

END = "-end"

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint that is whole.

    Attributes:
        images: how far the loop had come.
        folder: of its files.
        is_end: a length ended here. It was taken before anything was measured: a longer one measures elsewhere.
    """

    images: int
    folder: Path
    is_end: bool


class Checkpoints:
    """The checkpoints of one digest: of an artifact, or of a trajectory, which several lengths share."""

    def __init__(self, place: StorageBackend, digest: str) -> None:
        assert DIGEST.fullmatch(digest), digest
        self._place = place
        self._digest = digest
        self._stage = f"checkpoints/{digest}"

    def save(self, images: int, write: Callable[[Path], object], *, is_end: bool = False) -> None:
        """Writes a checkpoint and drops all but the newest two. An intact one at the same place stays as it is.

        Args:
            images: how far the loop has come.
            write: puts the files into the folder that it is given.
            is_end: as in `Checkpoint`; such a one is not dropped, nor counted among the two.

        Raises:
            StoreError: it could not be written; earlier checkpoints are intact.
        """
        name = f"{images}{END if is_end else ''}"
        if self._intact(name) is None:
            self._drop(name)
            with open_writer(self._place, self._stage, name, {"digest": self._digest}) as attempt:
                write(attempt.folder)
                attempt.commit({"images": images})
        # Those beyond `images` were damaged or are of a longer run: they replace no good one.
        before = [kept for kept, (at, ended) in self._kept().items() if at <= images and not ended]
        for name in before[KEPT:]:
            self._drop(name)

    def latest(self, end: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that is whole, None if there is none.

        Args:
            end: images at which the loop ends: only what leads there counts, and there only what ended; None = any.
        """
        for name, (images, is_end) in self._kept().items():
            if end is None or images < end or (images == end and is_end):
                artifact = self._intact(name)
                if artifact is not None:
                    return Checkpoint(images, self._folder(name, artifact), is_end)
        return None

    def seen_here(self, checkpoint: Checkpoint) -> Path:
        """The folder of a checkpoint that another process has found whole.

        Raises:
            StoreError: it is not there, or not whole here.
        """
        name = f"{checkpoint.images}{END if checkpoint.is_end else ''}"
        artifact = self._intact(name)
        if artifact is None:
            raise StoreError(
                f"{self._place.where(f'{self._stage}/{name}')}: the first process reads this checkpoint, this one "
                f"cannot; all processes of a trial need the same store"
            )
        return self._folder(name, artifact)

    def clear(self, up_to: int | None = None) -> None:
        """Deletes those that no run needs once it has ended at `up_to` images (None = at all), but no length's end.

        What another process is writing stays.
        """
        for name, (images, is_end) in self._kept().items():
            if not is_end and (up_to is None or images <= up_to):
                self._drop(name)

    def _kept(self) -> dict[str, tuple[int, bool]]:
        """Places with a manifest: name -> images, and whether a length ended there; newest first."""
        suffix = f"/{MANIFEST}"
        keys = (entry.key.removeprefix(f"{self._stage}/") for entry in self._place.walk(self._stage))
        names = {key.removesuffix(suffix) for key in keys if key.endswith(suffix) and key.count("/") == 1}
        places = {name: (int(name.removesuffix(END)), name.endswith(END)) for name in names}
        return dict(sorted(places.items(), key=lambda place: place[1], reverse=True))

    def _folder(self, name: str, artifact: Artifact) -> Path:
        return self._place.base / self._stage / name / artifact.attempt

    def _intact(self, name: str) -> Artifact | None:
        try:
            artifact = read_artifact(self._place, self._stage, name)
            if artifact is not None:
                for file in artifact.files:
                    artifact.path(file)
            return artifact
        except StoreError as error:
            _log.warning("skipping the checkpoint at %s images: %s", f"{int(name.removesuffix(END)):,}", error)
            return None

    def _drop(self, name: str) -> None:
        key = f"{self._stage}/{name}"
        self._place.delete(f"{key}/{MANIFEST}")  # first, so that no reader finds it without its files
        for attempt in {entry.key.removeprefix(f"{key}/").split("/")[0] for entry in self._place.walk(key)}:
            with claimed(self._place.base / key / attempt) as free:
                if free or not (self._place.base / key / attempt).exists():
                    self._place.delete(f"{key}/{attempt}")

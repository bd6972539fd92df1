"""The store: every artifact under the digest of all that it depends on, on a local disk or on S3, for several writers.

import/ teacher/ collection/ ...    <stage>/<digest>/, see `hidfd.store.artifacts`
checkpoints/                        <digest>/<images>/, see `hidfd.store.checkpoints`
studies/<name>/references.json      the digests that a study still refers to; `remove` spares them
cache/                              local, derived, may be deleted
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from hidfd.errors import StoreError
from hidfd.store.artifacts import ATTEMPT_NAME, DIGEST, MANIFEST, Artifact, ArtifactWriter, open_writer, read_artifact
from hidfd.store.backend import Entry, StorageBackend
from hidfd.store.checkpoints import Checkpoints
from hidfd.store.disk import claimed
from hidfd.store.local import LocalBackend
from hidfd.store.object_store import ObjectStoreBackend

__all__ = ["Artifact", "ArtifactWriter", "Checkpoints", "Store", "StoreEntry"]

_RESERVED = {"checkpoints", "studies", "cache"}
_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RECORDS = {"opening"}
"""Artifacts that nothing can build again: that the test labels were opened, and when. Never removed."""
_REMOTE_LEFTOVER_SECONDS = 86_400.0
"""On S3 nothing tells whether an attempt's writer lives; one that is this old is taken for dead."""


@dataclass(frozen=True)
class StoreEntry:
    """One line of the store's table of contents.

    Attributes:
        kind: `artifact`, `checkpoints` of a loop, or a `leftover` of a killed or beaten attempt.
        stage: of an artifact or leftover; `checkpoints` otherwise.
        digest: 64 hex digits.
        bytes: size of all files.
        created: UTC, ISO 8601; None where no manifest says.
        referenced_by: names of studies.
        keys: what `remove` deletes, in this order.
    """

    kind: str
    stage: str
    digest: str
    bytes: int
    created: str | None
    referenced_by: tuple[str, ...]
    keys: tuple[str, ...] = field(repr=False)


class Store:
    """Artifacts by (stage, digest). What is in it never changes; what is not in it is built once."""

    def __init__(self, place: StorageBackend) -> None:
        self._place = place

    @classmethod
    def open(cls, uri: str | Path, *, cache: str | Path | None = None) -> Self:
        """A store on a local path or at `s3://bucket/prefix`, created if it is not there.

        Args:
            uri: a path, or a URI that `pyarrow.fs` knows.
            cache: where the files of a remote store are kept; default HIDFD_CACHE, then ./.hidfd/cache.

        Raises:
            StoreError: it cannot be written to.
        """
        text = str(uri)
        place: StorageBackend
        if "://" not in text or text.startswith("file://"):
            place = LocalBackend(Path(text.removeprefix("file://")).expanduser())
        else:
            shown = _without_secrets(text)
            try:
                filesystem, root = fs.FileSystem.from_uri(text)
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = str(error).replace(text, shown)
                raise StoreError(
                    f"{shown}: not a store that can be opened ({reason}); give a path or s3://BUCKET/PREFIX"
                ) from None  # its text may hold the secrets of the URI
            if not root.strip("/"):
                raise StoreError(f"{shown}: no bucket in it; give a path or s3://BUCKET/PREFIX")
            place = ObjectStoreBackend(
                filesystem, root, shown, Path(cache or os.environ.get("HIDFD_CACHE", ".hidfd/cache"))
            )
        place.probe()
        return cls(place)

    @property
    def uri(self) -> str:
        """Where it is, without secrets."""
        return self._place.uri

    def find(self, stage: str, digest: str) -> Artifact | None:
        """The artifact, or None if it has not been built."""
        return read_artifact(self._place, *_checked(stage, digest))

    def get(self, stage: str, digest: str) -> Artifact:
        """The artifact.

        Raises:
            StoreError: it has not been built.
        """
        artifact = self.find(stage, digest)
        if artifact is None:
            raise StoreError(
                f"{self._place.where(f'{stage}/{digest}')}: not in the store; run `python -m hidfd run FILE`, "
                f"which builds what is missing"
            )
        return artifact

    def writer(self, stage: str, digest: str, identity: dict[str, Any]) -> AbstractContextManager[ArtifactWriter]:
        """A folder to build an artifact in, for the length of a `with` block.

        Args:
            stage, digest, identity: as `hidfd.pipeline.graph.plan` gives them.

        Raises:
            StoreError: it cannot be written, or something in the block failed for want of space or permission.
        """
        return open_writer(self._place, *_checked(stage, digest), identity)

    def checkpoints(self, digest: str) -> Checkpoints:
        """The checkpoints of what is being built under a digest."""
        return Checkpoints(self._place, digest)

    def write_references(self, study: str, digests: Iterable[str]) -> None:
        """Says which digests a study refers to, in place of what it said before."""
        content = {"study": study, "digests": sorted(set(digests))}
        self._place.write(_references_key(study), json.dumps(content, indent=1).encode())

    def drop_references(self, study: str) -> None:
        """The study refers to nothing any more."""
        self._place.delete(_references_key(study))

    def references(self) -> dict[str, frozenset[str]]:
        """Study -> the digests that it refers to.

        Raises:
            StoreError: a references.json is damaged.
        """
        found = {}
        for entry in self._place.walk("studies"):
            parts = entry.key.split("/")
            if len(parts) == 3 and parts[2] == "references.json":
                try:
                    found[parts[1]] = frozenset(json.loads(self._place.read(entry.key) or b"")["digests"])
                except (ValueError, KeyError, TypeError) as error:
                    raise StoreError(
                        f"{self._place.where(entry.key)}: damaged ({error}); nothing can be removed safely. Run the "
                        f"study again, which writes it anew, or delete the file if the study is to be forgotten"
                    ) from error
        return dict(sorted(found.items()))

    def list(self) -> tuple[StoreEntry, ...]:
        """Everything in the store: artifacts, checkpoints, leftovers of attempts whose writer is gone."""
        references = self.references()
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in self._place.walk():
            stage, _, rest = entry.key.partition("/")
            digest, _, inner = rest.partition("/")
            known = stage == "checkpoints" or (_STAGE.fullmatch(stage) and stage not in _RESERVED)
            if known and inner and DIGEST.fullmatch(digest):
                groups.setdefault((stage, digest), []).append(entry)
        rows: list[StoreEntry] = []
        for (stage, digest), entries in sorted(groups.items()):
            studies = tuple(study for study, digests in references.items() if digest in digests)
            if stage == "checkpoints":
                size = sum(entry.bytes for entry in entries)
                rows.append(StoreEntry("checkpoints", stage, digest, size, None, studies, (f"{stage}/{digest}",)))
            else:
                rows.extend(self._rows_of(stage, digest, entries, studies))
        return tuple(rows)

    def remove(
        self, digests: Iterable[str] | None = None, *, dry_run: bool = False, forgotten: str | None = None
    ) -> tuple[StoreEntry, ...]:
        """Deletes what no study refers to, and what killed attempts left behind.

        Args:
            digests: only these; None = all that is unreferenced.
            forgotten: a study whose references do not count any more.
            dry_run: only say what would go.

        Returns:
            What was deleted.

        Raises:
            StoreError: a study refers to one of `digests`; then nothing is deleted.
        """
        rows = tuple(
            replace(row, referenced_by=tuple(study for study in row.referenced_by if study != forgotten))
            for row in self.list()
        )
        if digests is not None:
            wanted = set(digests)
            rows = tuple(row for row in rows if row.digest in wanted)
            for row in rows:
                if row.referenced_by and row.kind != "leftover":
                    raise StoreError(
                        f"{row.stage}/{row.digest}: studies refer to it ({', '.join(row.referenced_by)}); "
                        f"nothing was removed. Drop those studies first"
                    )
        removed = tuple(
            row for row in rows if row.kind == "leftover" or not (row.referenced_by or row.stage in _RECORDS)
        )
        if not dry_run:
            for row in removed:
                for key in row.keys:
                    with claimed(self._place.base / key):  # a new attempt waits, and then begins elsewhere
                        self._place.delete(key)
        return removed

    def _rows_of(
        self, stage: str, digest: str, entries: Iterable[Entry], studies: tuple[str, ...]
    ) -> Iterable[StoreEntry]:
        folder = f"{stage}/{digest}"
        sizes: dict[str, int] = {}
        modified: dict[str, float] = {}
        for entry in entries:
            attempt = entry.key.removeprefix(f"{folder}/").split("/")[0]
            if ATTEMPT_NAME.fullmatch(attempt):
                sizes[attempt] = sizes.get(attempt, 0) + entry.bytes
                modified[attempt] = max(modified.get(attempt, 0.0), entry.modified)
        artifact = read_artifact(self._place, stage, digest)
        if artifact is not None:
            keys = (f"{folder}/{MANIFEST}", f"{folder}/{artifact.attempt}", f"cache/{folder}")
            yield StoreEntry("artifact", stage, digest, sizes.pop(artifact.attempt, 0), artifact.created, studies, keys)
        for attempt, size in sizes.items():
            if not self._is_being_written(f"{folder}/{attempt}", modified[attempt]):
                yield StoreEntry("leftover", stage, digest, size, None, studies, (f"{folder}/{attempt}",))

    def _is_being_written(self, key: str, modified: float) -> bool:
        if isinstance(self._place, ObjectStoreBackend):
            return time.time() - modified < _REMOTE_LEFTOVER_SECONDS
        with claimed(self._place.base / key) as free:
            return not free


def _checked(stage: str, digest: str) -> tuple[str, str]:
    assert _STAGE.fullmatch(stage), stage
    assert stage not in _RESERVED, stage
    assert DIGEST.fullmatch(digest), digest
    return stage, digest


def _references_key(study: str) -> str:
    if not _STUDY.fullmatch(study):
        raise StoreError(
            f"study name {study!r}: use letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
        )
    return f"studies/{study}/references.json"


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

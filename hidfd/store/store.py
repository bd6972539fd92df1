"""The store: every artifact under the digest of all that it depends on, on a local disk or on S3, for several writers.

import/ teacher/ collection/ ...    <stage>/<digest>/, see `hidfd.store.artifacts`
checkpoints/                        <digest>/<images>/, see `hidfd.store.checkpoints`
studies/<name>/references.json      the digests that a study or a trial refers to; `remove` keeps them
cache/                              local, derived files, may be deleted
"""

from __future__ import annotations

import functools
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from hidfd.addresses import path_at
from hidfd.errors import DamagedManifestError, StoreError
from hidfd.store.artifacts import (
    ATTEMPT_NAME,
    DIGEST,
    MANIFEST,
    Artifact,
    ArtifactWriter,
    open_writer,
    parse_object,
    read_artifact,
)
from hidfd.store.backend import StorageBackend, StoredFile
from hidfd.store.checkpoints import Checkpoints
from hidfd.store.disk import claimed
from hidfd.store.local import LocalBackend
from hidfd.store.object_store import RemoteBackend

__all__ = ["Artifact", "ArtifactWriter", "Checkpoints", "Store", "StoreEntry"]

_RESERVED = {"checkpoints", "studies", "cache"}
"""Folders of a store that no stage may be named after."""
_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NEVER_REMOVED = {"opening"}
"""Stages whose artifacts are never removed: the test evaluations, whose date could not be recorded again."""
_REMOTE_LEFTOVER_SECONDS = 86_400.0
"""Age, by the store's own clock, from which an unfinished attempt on S3, where no lock tells whether its writer lives,
counts as a leftover."""


@dataclass(frozen=True)
class StoreEntry:
    """One row of `Store.list`.

    Attributes:
        kind: `artifact`, `checkpoints` of a training loop, or `leftover` of an attempt that was killed or came second.
        stage: of an artifact or leftover; `checkpoints` otherwise.
        digest: 64 hex digits.
        bytes: size of all files.
        created: UTC, ISO 8601; None for checkpoints and leftovers.
        referenced_by: names of the studies and trials that refer to the digest.
        keys: the keys that `remove` deletes, in this order.
    """

    kind: str
    stage: str
    digest: str
    bytes: int
    created: str | None
    referenced_by: tuple[str, ...]
    keys: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class References:
    """References of a study or a trial.

    Attributes:
        digests: of artifacts and checkpoints.
        owner: the ledger that wrote them, as plain JSON; None for a trial, and for references of older versions.
    """

    digests: frozenset[str]
    owner: Mapping[str, Any] | None


class Store:
    """Artifacts by (stage, digest). An artifact in the store never changes; one that is missing is built once."""

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, uri: str | Path, *, cache: str | Path | None = None, writes: bool = True) -> Self:
        """Open the store at a local path or at `s3://bucket/prefix`.

        Args:
            uri: a path, or a URI that `pyarrow.fs` knows.
            cache: local folder for the files of a remote store; default HIDFD_CACHE, then ./.hidfd/cache.
            writes: whether to make the store if it does not exist, and to try whether it can be written to; without,
                nothing is touched, and a store that does not exist is empty.

        Raises:
            StoreError: it cannot be written to.
        """
        text = str(uri)
        backend: StorageBackend
        if "://" not in text or text.startswith("file://"):
            backend = LocalBackend(path_at(text, "file://"))
        else:
            shown = _without_secrets(text)
            try:
                filesystem, root = fs.FileSystem.from_uri(text)
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = str(error).replace(text, shown)
                raise StoreError(
                    f"{shown}: not a store that can be opened ({reason}); give a path or s3://BUCKET/PREFIX"
                ) from None  # the original error may show the secrets of the URI
            if not root.strip("/"):
                raise StoreError(f"{shown}: no bucket in it; give a path or s3://BUCKET/PREFIX")
            backend = RemoteBackend(
                filesystem, root, shown, Path(cache or os.environ.get("HIDFD_CACHE", ".hidfd/cache"))
            )
        if writes:
            backend.probe()
        return cls(backend)

    @property
    def uri(self) -> str:
        """Path or URI of the store, without secrets."""
        return self._backend.uri

    def find(self, stage: str, digest: str) -> Artifact | None:
        """Return an artifact, or None if it is not in the store."""
        return read_artifact(self._backend, *_checked(stage, digest))

    def get(self, stage: str, digest: str) -> Artifact:
        """Return an artifact that must be in the store.

        Raises:
            StoreError: it is not in the store.
        """
        artifact = self.find(stage, digest)
        if artifact is None:
            raise StoreError(
                f"{self._backend.where(f'{stage}/{digest}')}: not in the store; run `python -m hidfd run FILE`, "
                f"which builds what is missing"
            )
        return artifact

    def writer(self, stage: str, digest: str, identity: dict[str, Any]) -> AbstractContextManager[ArtifactWriter]:
        """Open a writer for an artifact, for the length of a `with` block.

        Args:
            stage, digest, identity: as `hidfd.pipeline.graph.plan` returns them.

        Raises:
            StoreError: the artifact cannot be written, or the block failed for lack of disk space or permissions.
        """
        return open_writer(self._backend, *_checked(stage, digest), identity)

    def checkpoints(self, digest: str) -> Checkpoints:
        """Return the checkpoints of a training loop by its digest."""
        return Checkpoints(self._backend, digest)

    def write_references(self, study: str, digests: Iterable[str], owner: Mapping[str, Any] | None = None) -> None:
        """Record which digests a study refers to, replacing its earlier record.

        Args:
            study: its name.
            digests: of artifacts and checkpoints.
            owner: see `References`.
        """
        content: dict[str, Any] = {"study": study, "digests": sorted(set(digests))}
        if owner is not None:
            content["owner"] = dict(owner)
        self._backend.write(_references_key(study), json.dumps(content, indent=1).encode())

    def drop_references(self, study: str) -> None:
        """Delete the record of the digests that a study refers to."""
        self._backend.delete(_references_key(study))

    def references(self) -> dict[str, frozenset[str]]:
        """Return study -> the digests that it refers to.

        Raises:
            StoreError: a references.json is damaged.
        """
        found = {}
        for file in self._backend.walk("studies"):
            parts = file.key.split("/")
            if len(parts) == 3 and parts[2] == "references.json":
                known = self._read_references(parts[1], file.key)
                if known is not None:  # else it was dropped since it was listed
                    found[parts[1]] = known.digests
        return dict(sorted(found.items()))

    def references_of(self, study: str) -> References:
        """Return what a study refers to; nothing, of nobody, where the store does not know it.

        Raises:
            StoreError: its references.json is damaged.
        """
        return self._read_references(study, _references_key(study)) or References(frozenset(), None)

    def _read_references(self, study: str, key: str) -> References | None:
        content = self._backend.read(key)
        if content is None:
            return None
        try:
            return _parse_references(study, content)
        except ValueError as error:
            raise StoreError(
                f"{self._backend.where(key)}: damaged ({error}); nothing can be removed safely. Run the "
                f"study again, which writes it anew, or delete the file if the study is to be forgotten"
            ) from error

    def list(self, on_damaged: Callable[[str], object] | None = None) -> tuple[StoreEntry, ...]:
        """List the artifacts, the checkpoints, and the leftovers of attempts whose writer has ended.

        Args:
            on_damaged: called with a line for each artifact whose manifest is damaged, all of which is then passed
                over; None = that is raised.

        Raises:
            StoreError: the store cannot be read, or references.json or a manifest is damaged.
        """
        groups: dict[tuple[str, str], list[StoredFile]] = {}
        files = self._backend.walk()
        references = self.references()  # after the files, as references are written before what they refer to
        for file in files:
            stage, _, rest = file.key.partition("/")
            digest, _, inner = rest.partition("/")
            known = stage == "checkpoints" or (_STAGE.fullmatch(stage) and stage not in _RESERVED)
            if known and inner and DIGEST.fullmatch(digest):
                groups.setdefault((stage, digest), []).append(file)
        entries: list[StoreEntry] = []
        now = functools.cache(self._now_seconds)  # asked at most once, and only where there may be a leftover
        for (stage, digest), files in sorted(groups.items()):
            studies = tuple(study for study, digests in references.items() if digest in digests)
            if stage == "checkpoints":
                size = sum(file.bytes for file in files)
                entries.append(StoreEntry("checkpoints", stage, digest, size, None, studies, (f"{stage}/{digest}",)))
            else:
                try:
                    entries.extend(self._entries_of(stage, digest, files, studies, now))
                except DamagedManifestError as error:
                    if on_damaged is None:
                        raise
                    on_damaged(f"passed over: {error}")
        return tuple(entries)

    def remove(
        self,
        digests: Iterable[str] | None = None,
        *,
        dry_run: bool = False,
        forgotten: str | None = None,
        on_damaged: Callable[[str], object] | None = None,
    ) -> tuple[StoreEntry, ...]:
        """Delete what no study refers to, and the leftovers of killed attempts.

        Args:
            digests: delete only these; None = all that no study refers to.
            dry_run: delete nothing, only return what would be deleted.
            forgotten: a study whose references no longer count.
            on_damaged: see `list`; what is passed over stays.

        Returns:
            The deleted entries.

        Raises:
            StoreError: a study refers to one of `digests`; then nothing is deleted.
        """
        entries = tuple(
            replace(entry, referenced_by=tuple(study for study in entry.referenced_by if study != forgotten))
            for entry in self.list(on_damaged)
        )
        if digests is not None:
            wanted = set(digests)
            entries = tuple(entry for entry in entries if entry.digest in wanted)
            for entry in entries:
                if entry.referenced_by and entry.kind != "leftover":
                    raise StoreError(
                        f"{entry.stage}/{entry.digest}: studies refer to it ({', '.join(entry.referenced_by)}); "
                        f"nothing was removed. Forget those studies first"
                    )
        removed = tuple(
            entry
            for entry in entries
            if entry.kind == "leftover" or not (entry.referenced_by or entry.stage in _NEVER_REMOVED)
        )
        if not dry_run:
            for entry in removed:
                for key in entry.keys:
                    # A writer that has just created this folder waits for the lock, then creates the folder anew.
                    with claimed(self._backend.local(key)):
                        self._backend.delete(key)
        return removed

    def _entries_of(
        self,
        stage: str,
        digest: str,
        files: Iterable[StoredFile],
        studies: tuple[str, ...],
        now: Callable[[], float | None],
    ) -> Iterable[StoreEntry]:
        folder = f"{stage}/{digest}"
        sizes: dict[str, int] = {}
        modified: dict[str, float] = {}
        for file in files:
            attempt = file.key.removeprefix(f"{folder}/").split("/")[0]
            if ATTEMPT_NAME.fullmatch(attempt):
                sizes[attempt] = sizes.get(attempt, 0) + file.bytes
                modified[attempt] = max(modified.get(attempt, 0.0), file.modified)
        artifact = read_artifact(self._backend, stage, digest)
        if artifact is not None:
            attempt = f"{folder}/{artifact.attempt}"
            keys = (f"{folder}/{MANIFEST}", attempt, f"cache/{attempt}")
            yield StoreEntry("artifact", stage, digest, sizes.pop(artifact.attempt, 0), artifact.created, studies, keys)
        for attempt, size in sizes.items():
            if not self._is_being_written(f"{folder}/{attempt}", modified[attempt], now):
                yield StoreEntry("leftover", stage, digest, size, None, studies, (f"{folder}/{attempt}",))

    def _now_seconds(self) -> float | None:
        """Return the time by a remote store's clock; None where it has none, or nobody may write to learn it."""
        if not isinstance(self._backend, RemoteBackend):
            return None
        try:
            return self._backend.now_seconds()
        except StoreError:  # whoever may only read the store lists it without leftovers
            return None

    def _is_being_written(self, key: str, modified: float, now: Callable[[], float | None]) -> bool:
        if isinstance(self._backend, RemoteBackend):
            seconds = now()
            return seconds is None or seconds - modified < _REMOTE_LEFTOVER_SECONDS
        with claimed(self._backend.local(key)) as free:
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


def _parse_references(study: str, content: bytes) -> References:
    found = parse_object(content)
    digests, owner = found.get("digests"), found.get("owner")
    if not _STUDY.fullmatch(study):
        raise ValueError("its folder has no name of a study")
    if not isinstance(digests, list) or not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in digests):
        raise ValueError(f"digests: {reprlib.repr(digests)}")
    if owner is not None and not (
        isinstance(owner, dict)
        and isinstance(owner.get("ledger"), str)
        and isinstance(owner.get("where"), str)
        and type(owner.get("epoch")) is int
    ):
        raise ValueError(f"owner: {reprlib.repr(owner)}")
    return References(frozenset(digests), owner)


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

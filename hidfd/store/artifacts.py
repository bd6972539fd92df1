"""One artifact: files of one attempt, and the manifest that names them, which is written last and only once.

<stage>/<digest>/<attempt>/...      files; several attempts may be under way, or left behind by a kill
<stage>/<digest>/manifest.json      names one attempt, with the hash of every file; readers use nothing else
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from hidfd.errors import HidfdError, StoreError
from hidfd.store.backend import FileRecord, StorageBackend
from hidfd.store.disk import ADVISED_ERRORS, Workspace, explain, file_sha256, store_errors

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
ATTEMPT_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NEARLY_FULL_BYTES = 1 << 20
"""With less than this free, a failed write is put down to the disk, whatever its exception says."""

_VERSIONS_OF = ("hidfd", "torch", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Artifact:
    """Something that a stage made, as its manifest describes it.

    Attributes:
        stage, digest: its name in the store.
        attempt: the folder that holds its files.
        identity: what the digest was taken of.
        files: name -> size and hash.
        meta: small results: counts, seconds, accuracies.
        created: UTC time, ISO 8601.
        environment: versions, and the device if one was named: they may differ between equal artifacts.
    """

    place: StorageBackend = field(repr=False, compare=False)
    stage: str
    digest: str
    attempt: str
    identity: dict[str, Any] = field(repr=False)
    files: Mapping[str, FileRecord] = field(repr=False)
    meta: dict[str, Any]
    created: str
    environment: dict[str, Any] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record.bytes for record in self.files.values())

    @property
    def cache(self) -> Path:
        """Local folder for what is derived from this artifact's files; it may vanish at any time between runs."""
        return self.place.cache / self.stage / self.digest / self.attempt

    def path(self, name: str) -> Path:
        """A local path of one of its files; a remote one is fetched once.

        Raises:
            StoreError: the manifest lists no such file, or the file is missing or damaged.
        """
        record = self.files.get(name)
        if record is None:
            where = self.place.where(f"{self.stage}/{self.digest}/{MANIFEST}")
            raise StoreError(f"{where}: lists no file {name!r}; it lists: {', '.join(sorted(self.files))}")
        return self.place.fetch(f"{self.stage}/{self.digest}/{self.attempt}/{name}", record)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of its `metrics.jsonl`; none if it has no such file."""
        if METRICS not in self.files:
            return []
        return [json.loads(line) for line in self.path(METRICS).read_text().splitlines()]


class ArtifactWriter:
    """A folder to write an artifact's files into; nothing of it counts until `commit`."""

    def __init__(self, place: StorageBackend, stage: str, digest: str, identity: dict[str, Any]) -> None:
        self.name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._keep = False
        self._place, self._stage, self._digest, self._identity = place, stage, digest, identity
        self._key = f"{stage}/{digest}/{self.name}"
        self._workspace: Workspace = place.workspace(self._key)

    @property
    def folder(self) -> Path:
        """The attempt's own folder."""
        return self._workspace.folder

    def path(self, name: str) -> Path:
        """Where to write a file of this name (`/` makes folders)."""
        relative = PurePosixPath(name)
        assert relative.parts, "a file needs a name"
        assert not relative.is_absolute(), name
        assert ".." not in relative.parts, name
        path = self.folder / relative
        with store_errors("writing to", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes `metrics.jsonl`, one JSON object per row; numbers that are not finite become null."""
        lines = [json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows]
        path = self.path(METRICS)
        with store_errors("writing", path):
            path.write_text("".join(lines))

    def commit(
        self, meta: dict[str, Any], *, device: str | None = None, consumed: Sequence[Artifact] | None = None
    ) -> Artifact:
        """Makes the files last, then writes the manifest, unless another attempt was first: that one stands.

        Args:
            meta: small results, JSON types; numbers that are not finite become null.
            device: what it was computed on.
            consumed: artifacts that were read, whose content hashes the manifest then records; default: what the
                identity's inputs name.

        Returns:
            The artifact that stands in the store.

        Raises:
            StoreError: the files or the manifest could not be written; earlier artifacts are intact.
        """
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        assert names, "an attempt without files"
        with store_errors("reading back", self.folder):
            files = {
                name: FileRecord(file_sha256(self.folder / name), (self.folder / name).stat().st_size) for name in names
            }
        manifest = {
            "stage": self._stage,
            "digest": self._digest,
            "attempt": self.name,
            "identity": self._identity,
            "files": {name: asdict(record) for name, record in files.items()},
            "meta": _plain(meta),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": {"versions": _versions(), "device": device, "machine": platform.machine()},
            "consumed": {
                f"{artifact.stage}/{artifact.digest}": {name: record.sha256 for name, record in artifact.files.items()}
                for artifact in (self._inputs() if consumed is None else consumed)
            },
        }
        content = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()
        self._place.publish(self._key, names)
        self._keep = True  # from here on the manifest may stand, whatever an error says
        try:
            self._keep = self._place.create(f"{self._stage}/{self._digest}/{MANIFEST}", content)
        except StoreError:
            standing = read_artifact(self._place, self._stage, self._digest)
            self._keep = standing is not None and standing.attempt == self.name
            raise
        standing = read_artifact(self._place, self._stage, self._digest)
        if standing is None:
            raise StoreError(f"{self._place.where(self._key)}: was deleted while it was written; run again")
        return standing

    def _inputs(self) -> list[Artifact]:
        """The artifacts that the identity's inputs name, as far as they stand in the store."""
        inputs = self._identity.get("inputs", {})
        # Imports are stored as what they are, whatever their role in a trial.
        found = [read_artifact(self._place, name, inputs[role]) for role in inputs for name in ("import", role)]
        return [artifact for artifact in found if artifact is not None]

    def close(self) -> None:
        """Ends the attempt; its folder goes unless it was committed."""
        self._workspace.release(keep=self._keep)
        if not self._keep:
            self._place.delete(self._key)


@contextlib.contextmanager
def open_writer(place: StorageBackend, stage: str, digest: str, identity: dict[str, Any]) -> Iterator[ArtifactWriter]:
    """An attempt for the length of a block; uncommitted, it leaves nothing behind.

    Raises:
        StoreError: it cannot be written, or something in the block failed for want of space or permission.
    """
    attempt = ArtifactWriter(place, stage, digest, identity)
    try:
        yield attempt
    except HidfdError:
        raise
    except Exception as error:
        translated = _storage_failure(error, attempt.folder)
        if translated is None:
            raise
        raise translated from error
    finally:
        attempt.close()


def read_artifact(place: StorageBackend, stage: str, digest: str) -> Artifact | None:
    """The artifact of that name; None if there is no manifest.

    Raises:
        StoreError: the manifest cannot be read.
    """
    key = f"{stage}/{digest}/{MANIFEST}"
    content = place.read(key)
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        return Artifact(
            place=place,
            stage=stage,
            digest=digest,
            attempt=manifest["attempt"],
            identity=manifest["identity"],
            files={name: FileRecord(**record) for name, record in manifest["files"].items()},
            meta=manifest["meta"],
            created=manifest["created"],
            environment=manifest["environment"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        folder = place.where(f"{stage}/{digest}")
        raise StoreError(
            f"{place.where(key)}: damaged manifest ({error}). Delete {folder} and run again: it is built anew"
        ) from error


def _storage_failure(error: Exception, folder: Path) -> StoreError | None:
    """What a failure inside an attempt says about the store, if anything."""
    if isinstance(error, OSError) and error.errno in ADVISED_ERRORS:
        of_folder = error.filename is None or Path(str(error.filename)).is_relative_to(folder)
        if of_folder:
            return explain(error, "writing to", folder)
    # Writers of other libraries hide the error number; then only the disk can tell.
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < NEARLY_FULL_BYTES:
            return StoreError(
                f"writing to {folder}: the disk is full ({free:,} bytes free): {error}. Free some space "
                f"(`python -m hidfd store remove` drops what no study refers to). What was finished earlier is intact"
            )
    return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _plain(value: Any) -> Any:
    """JSON types of nested containers, numpy's scalars included; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

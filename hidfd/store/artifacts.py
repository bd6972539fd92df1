"""One artifact: the files of one attempt, and the manifest that names them, which is written last and only once.

<stage>/<digest>/<attempt>/...      files; several attempts may be under way, or left behind by killed runs
<stage>/<digest>/manifest.json      names one attempt, with the hash of every file; only what it names is ever read
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import re
import reprlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hidfd.errors import DamagedManifestError, HidfdError, StoreError
from hidfd.store.backend import FileRecord, StorageBackend
from hidfd.store.disk import ADVISED_ERRORS, Workspace, explain, file_sha256, store_errors

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
ATTEMPT_NAME = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""Names of the files of an attempt: below its folder, and the same on every disk."""
DIGEST = re.compile(r"[0-9a-f]{64}")
NEARLY_FULL_BYTES = 1 << 20
"""Free bytes below which a failed write is reported as a full disk, whatever its exception says."""

_CREATED = re.compile(r"[0-9T:.+Z -]{10,40}")
_MAX_QUANTITY = 1e30
"""Bound on the seconds and operations of a manifest, and on the bytes of a file, that are believed."""
_RECORDED_PACKAGES = ("hidfd", "torch", "torchvision", "timm", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Artifact:
    """The output of a stage, as its manifest describes it.

    Attributes:
        backend: the storage that holds its files.
        stage, digest: its name in the store.
        attempt: name of the folder that holds its files.
        identity: the settings and inputs that the digest was computed from.
        files: name -> size and hash.
        meta: small results: counts, seconds, accuracies.
        created: UTC time, ISO 8601.
        environment: versions, and the device if one was named: they may differ between equal artifacts.
    """

    backend: StorageBackend = field(repr=False, compare=False)
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
        """Total size of its files in bytes."""
        return sum(record.bytes for record in self.files.values())

    @property
    def cache(self) -> Path:
        """Local folder for files derived from this artifact; it may be deleted at any time between runs."""
        return self.backend.cache / self.stage / self.digest / self.attempt

    def path(self, name: str) -> Path:
        """Return a local path of one of its files; a remote file is downloaded once.

        Raises:
            StoreError: the manifest lists no such file, or the file is missing or damaged.
        """
        record = self.files.get(name)
        if record is None:
            where = self.backend.where(f"{self.stage}/{self.digest}/{MANIFEST}")
            raise StoreError(f"{where}: lists no file {name!r}; it lists: {', '.join(sorted(self.files))}")
        return self.backend.fetch(f"{self.stage}/{self.digest}/{self.attempt}/{name}", record)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of its `metrics.jsonl`; an empty list if it has no such file."""
        if METRICS not in self.files:
            return []
        path = self.path(METRICS)
        try:
            return [parse_object(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            raise StoreError(f"{path}: a row is no JSON object ({error}). {self._advice()}") from error

    def reading(self) -> AbstractContextManager[None]:
        """Turn what fails inside a block into a StoreError, as `meta` and files may not be what their stage writes."""
        where = self.backend.where(f"{self.stage}/{self.digest}")
        return reading(where, where)

    def _advice(self) -> str:
        return f"Delete {self.backend.where(f'{self.stage}/{self.digest}')} and run again, which builds it anew"


class ArtifactWriter:
    """Write one artifact: files into a folder of its own, which readers do not see before `commit`."""

    def __init__(self, backend: StorageBackend, stage: str, digest: str, identity: dict[str, Any]) -> None:
        self.name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._keep = False
        self._backend, self._stage, self._digest, self._identity = backend, stage, digest, identity
        self._key = f"{stage}/{digest}/{self.name}"
        self._workspace: Workspace = backend.workspace(self._key)

    @property
    def folder(self) -> Path:
        """Local folder that the files are written into."""
        return self._workspace.folder

    def path(self, name: str) -> Path:
        """Return the local path to write a file of this name to, with its folders created (names may hold `/`)."""
        assert FILE_NAME.fullmatch(name), name
        path = self.folder / name
        with store_errors("writing to", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl`, one JSON object per row; numbers that are not finite become null."""
        lines = [json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows]
        path = self.path(METRICS)
        with store_errors("writing", path):
            path.write_text("".join(lines), encoding="utf-8")

    def commit(
        self, meta: dict[str, Any], *, device: str | None = None, consumed: Sequence[Artifact] | None = None
    ) -> Artifact:
        """Make the files durable, then write the manifest, unless another writer of the same artifact was first.

        Args:
            meta: small results, JSON types; numbers that are not finite become null.
            device: the device that computed it.
            consumed: artifacts that were read, whose content hashes the manifest records; default: those that the
                identity's inputs name.

        Returns:
            The artifact that is in the store now: this one, or that of the writer who was first.

        Raises:
            StoreError: the files or the manifest could not be written; earlier artifacts are intact.
        """
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        assert names, "an artifact without files"
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
        self._backend.publish(self._key, names)
        self._keep = True  # from here on the manifest may exist, whatever an error says
        try:
            self._keep = self._backend.create(f"{self._stage}/{self._digest}/{MANIFEST}", content)
        except StoreError:
            stored = read_artifact(self._backend, self._stage, self._digest)
            self._keep = stored is not None and stored.attempt == self.name
            raise
        stored = read_artifact(self._backend, self._stage, self._digest)
        if stored is None:
            raise StoreError(f"{self._backend.where(self._key)}: was deleted while it was written; run again")
        return stored

    def _inputs(self) -> list[Artifact]:
        """Return the artifacts that the identity's inputs name, as far as they are in the store."""
        inputs = self._identity.get("inputs", {})
        # An import is stored under the stage `import`, whatever its role in a trial.
        found = [read_artifact(self._backend, name, inputs[role]) for role in inputs for name in ("import", role)]
        return [artifact for artifact in found if artifact is not None]

    def close(self) -> None:
        """End the writing; delete the folder unless it was committed."""
        self._workspace.release(keep=self._keep)
        if not self._keep:
            self._backend.delete(self._key)


@contextlib.contextmanager
def open_writer(backend: StorageBackend, stage: str, digest: str, identity: dict[str, Any]) -> Iterator[ArtifactWriter]:
    """Open a writer for the length of a block; what is not committed by its end is deleted.

    Raises:
        StoreError: the folder cannot be written, or the block failed for lack of disk space or permissions.
    """
    writer = ArtifactWriter(backend, stage, digest, identity)
    try:
        yield writer
    except HidfdError:
        raise
    except Exception as error:
        translated = _storage_failure(error, writer.folder)
        if translated is None:
            raise
        raise translated from error
    finally:
        writer.close()


def read_artifact(backend: StorageBackend, stage: str, digest: str) -> Artifact | None:
    """Read the manifest of an artifact; return None if there is none.

    Raises:
        StoreError: the manifest cannot be read.
        DamagedManifestError: it says what no writer of this store says.
    """
    key = f"{stage}/{digest}/{MANIFEST}"
    content = backend.read(key)
    if content is None:
        return None
    try:
        manifest = parse_object(content)
        attempt = _matching(_field(manifest, "attempt", str), ATTEMPT_NAME, "attempt")
        for name, expected in (("stage", stage), ("digest", digest)):
            if manifest.get(name) != expected:
                raise ValueError(f"{name}: {reprlib.repr(manifest.get(name))}, which is another artifact's")
        _field(_field(manifest, "environment", dict), "device", str | None)
        for name in ("seconds", "operations"):
            value = _field(manifest, "meta", dict).get(name)
            if value is not None and not _is_quantity(value):
                raise ValueError(f"meta.{name}: {reprlib.repr(value)}")
        return Artifact(
            backend=backend,
            stage=stage,
            digest=digest,
            attempt=attempt,
            identity=_field(manifest, "identity", dict),
            files=_parse_files(_field(manifest, "files", dict)),
            meta=manifest["meta"],
            created=_matching(_field(manifest, "created", str), _CREATED, "created"),
            environment=manifest["environment"],
        )
    except ValueError as error:
        folder = backend.where(f"{stage}/{digest}")
        raise DamagedManifestError(
            f"{backend.where(key)}: damaged manifest ({error}). Delete {folder} and run again, which builds it anew"
        ) from error


@contextlib.contextmanager
def reading(what: str, whole: str) -> Iterator[None]:
    """Turn what fails inside the block into a StoreError, except too little memory.

    Args:
        what: is read inside the block, and may not be what a stage writes.
        whole: has to be deleted in that case.
    """
    try:
        yield
    except (HidfdError, MemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error):  # torch says so of a machine's memory in a RuntimeError
            raise
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise StoreError(
            f"{what}: not what a stage of this version writes ({reason}). Delete {whole} and run again, which builds "
            f"it anew"
        ) from error


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse the JSON object of a small file that others may have written.

    Raises:
        ValueError: the content is none, or holds NaN, text that cannot be printed, or more levels than can be parsed.
    """
    try:
        parsed = json.loads(content, parse_constant=_refuse_constant)
        json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{type(parsed).__name__} instead of an object")
    return parsed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _field(record: dict[str, Any], name: str, kind: Any) -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {reprlib.repr(value)}")
    return value


def _matching(text: str, pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{name}: {reprlib.repr(text)}, expected {pattern.pattern}")
    return text


def _parse_files(records: dict[str, Any]) -> dict[str, FileRecord]:
    files = {}
    for name, record in records.items():
        _matching(name, FILE_NAME, "files")
        if not isinstance(record, dict) or record.keys() != {"sha256", "bytes"}:
            raise ValueError(f"files: {name}: {reprlib.repr(record)}")
        size = record["bytes"]
        if not (_is_quantity(size) and isinstance(size, int)):
            raise ValueError(f"files: {name}: bytes: {reprlib.repr(size)}")
        files[name] = FileRecord(_matching(_field(record, "sha256", str), DIGEST, f"files: {name}: sha256"), size)
    if not files:
        raise ValueError("files: none")
    return files


def _is_quantity(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_QUANTITY


def _storage_failure(error: Exception, folder: Path) -> StoreError | None:
    """Return a StoreError if a failure during writing was caused by the store, else None."""
    if isinstance(error, OSError) and error.errno in ADVISED_ERRORS:
        concerns_folder = error.filename is None or Path(str(error.filename)).is_relative_to(folder)
        if concerns_folder:
            return explain(error, "writing to", folder)
    # Other libraries hide the error number when they fail to write; then only the free space can tell.
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
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _plain(value: Any) -> Any:
    """Return nested containers and numpy scalars as JSON types; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""The storage backend for S3 and every other file system of `pyarrow.fs`."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from hidfd.errors import StoreError
from hidfd.store.backend import StorageBackend, StoredFile, is_safe
from hidfd.store.disk import store_errors

CONNECT_SECONDS, ANSWER_SECONDS, ATTEMPTS = 3, 5, 3
"""Seconds to wait for a connection and for an answer, and how often: what `from_uri` does takes 100 s to give up."""


def bucket_filesystem(bucket: str) -> Any:
    """Return the file system of a bucket on S3, of which AWS's own variables say where it is and who may read it.

    Raises:
        OSError, pa.ArrowException: as pyarrow words it, after seconds where nobody answers.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and not endpoint:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


class RemoteBackend(StorageBackend):
    """A prefix of a `pyarrow.fs` file system; files are written and read through a local folder.

    Two writers may both find no manifest and both write one. Then the later manifest replaces the earlier one, and the
    files of both are kept, so that a reader of the earlier manifest can finish.
    """

    def __init__(self, filesystem: Any, root: str, uri: str, cache: Path) -> None:
        super().__init__()
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.uri = uri.rstrip("/")
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        self.base = cache.absolute() / name
        self.cache = self.base / "cache"

    def read(self, key: str) -> bytes | None:
        with store_errors("reading", self.where(key)):
            if self._info(key).type != fs.FileType.File:
                return None
            with self.filesystem.open_input_stream(self._path(key)) as source:
                content: bytes = source.read()
                return content

    def write(self, key: str, content: bytes) -> None:
        with store_errors("writing", self.where(key)):
            self._create_parent(key)
            with self.filesystem.open_output_stream(self._path(key)) as target:
                target.write(content)

    def create(self, key: str, content: bytes) -> bool:
        with store_errors("writing", self.where(key)):
            if self._info(key).type != fs.FileType.NotFound:
                return False
        self.write(key, content)
        return True

    def publish(self, key: str, names: Sequence[str]) -> None:
        for name in names:
            with store_errors("uploading", self.where(f"{key}/{name}")):
                self._create_parent(f"{key}/{name}")
                with (
                    (self.local(key) / name).open("rb") as source,
                    self.filesystem.open_output_stream(self._path(f"{key}/{name}")) as target,
                ):
                    shutil.copyfileobj(source, target, 8 << 20)

    def walk(self, prefix: str = "") -> list[StoredFile]:
        with store_errors("listing", self.where(prefix)):
            selector = fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
            found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        try:
            files = [
                StoredFile(info.path[len(self.root) + 1 :], info.size, info.mtime_ns / 1e9 if info.mtime_ns else 0.0)
                for info in found
            ]
        except UnicodeDecodeError as error:
            raise StoreError(
                f"{self.where(prefix)}: a file's name below it is no UTF-8 ({error}); rename it"
            ) from error
        return [file for file in files if is_safe(file.key)]  # an object's name may hold `..`

    def delete(self, key: str) -> None:
        with store_errors("deleting", self.where(key)):
            kind = self._info(key).type
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self._path(key))
            elif kind == fs.FileType.File:
                self.filesystem.delete_file(self._path(key))
            shutil.rmtree(self.local(key), ignore_errors=True)

    def probe(self) -> None:
        key = f".probe-{secrets.token_hex(4)}"
        self.write(key, b"")
        self.delete(key)

    def now_seconds(self) -> float | None:
        """Return the time by the clock that dates the store's files, in seconds since 1970; None where it has none.

        The clocks of this machine and of the store may differ by any amount, and each may jump.
        """
        key = f".probe-{secrets.token_hex(4)}"
        self.write(key, b"")
        with store_errors("reading", self.where(key)):
            written: int | None = self._info(key).mtime_ns
        self.delete(key)
        return None if written is None else written / 1e9

    def _download(self, key: str, path: Path) -> None:
        if self._info(key).type != fs.FileType.File:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with self.filesystem.open_input_stream(self._path(key)) as source, temporary.open("xb") as target:
                shutil.copyfileobj(source, target, 8 << 20)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _create_parent(self, key: str) -> None:
        if self.filesystem.type_name != "s3":  # S3 has no folders: creating them would leave empty objects
            self.filesystem.create_dir(str(PurePosixPath(self._path(key)).parent), recursive=True)

    def _info(self, key: str) -> Any:
        return self.filesystem.get_file_info(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.root}/{self.checked(key)}" if key else self.root

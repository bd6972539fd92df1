"""Files and folders on S3, with what materials need of `pathlib.Path`. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs

from hidfd.addresses import S3, is_on_s3, why_no_path
from hidfd.config.storage import redacted
from hidfd.errors import InputError
from hidfd.store.disk import lacks_memory
from hidfd.store.object_store import bucket_filesystem

REQUESTS = 16
"""Number of requests to S3 at a time: each waits for the network most of its time."""

READ_BYTES = 8 << 20
"""Bytes that one request asks for: what is in memory of a large object that is read in a stream."""

_DENIED = {
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "MISSING_AUTHENTICATION_TOKEN"),
    *("INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT", "INVALID_SIGNATURE", "REQUEST_EXPIRED"),
}
"""Names of AWS's errors that concern credentials."""

_ABSENT = {"NO_SUCH_BUCKET": "there is no such bucket", "NO_SUCH_KEY": "there is no such object"}


@dataclass(frozen=True)
class ObjectPath:
    """An object on S3, or the objects below a prefix, with the methods of `pathlib.Path` that materials need.

    Every method raises OSError, as those of `pathlib.Path` do, with the reason in words.

    Attributes:
        key: the bucket, and the key or prefix in it.
        filesystem: of the bucket.
        known: key -> what a listing said of it, for all paths that come from the same one: none is asked for by itself.
    """

    key: str
    filesystem: Any = field(repr=False, compare=False)
    known: dict[str, fs.FileInfo] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{S3}{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot; empty if it has none."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """The prefix that the key lies below; that of a bucket is the bucket."""
        return replace(self, key=posixpath.dirname(self.key) or self.key)

    def __truediv__(self, name: str) -> ObjectPath:
        """Return the path of a name below this one, or of a whole address, as lists of files may have them."""
        key = name.removeprefix(S3) if is_on_s3(name) else f"{self.key}/{name}"
        if key not in self.known:
            key = posixpath.normpath(key)
            if key.partition("/")[0] != self.key.partition("/")[0]:
                raise OSError(
                    errno.EREMOTEIO, "it leads out of its bucket", name if is_on_s3(name) else f"{self}/{name}"
                )
        return replace(self, key=key)

    def is_file(self) -> bool:
        """Whether it is an object."""
        return bool(self._info().type == fs.FileType.File)

    def is_dir(self) -> bool:
        """Whether objects lie below it, or it is a bucket."""
        return bool(self._info().type == fs.FileType.Directory)

    def exists(self) -> bool:
        """Whether it is an object, or objects lie below it."""
        return bool(self._info().type != fs.FileType.NotFound)

    def stat(self) -> os.stat_result:
        """Return size, time of change and kind of an object; its number is 0."""
        info = self._info()
        if info.type != fs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self))
        changed = info.mtime_ns or 0
        numbers = (stat.S_IFREG, 0, 0, 1, 0, 0, info.size, 0, changed // 10**9, 0)
        return os.stat_result(numbers, {"st_mtime_ns": changed})

    @contextlib.contextmanager
    def open(self, mode: Literal["rb"]) -> Iterator[Any]:
        """Open an object to read its bytes in a stream; errors inside the block are worded too."""
        with (
            self._reading(),
            self.filesystem.open_input_stream(self.key, compression=None, buffer_size=READ_BYTES) as file,
        ):
            yield file

    def open_seekable(self) -> pa.NativeFile:
        """Open an object to read parts of it; `refusal_of` words the errors of reading."""
        with self._reading():
            return self.filesystem.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        """Return the content of an object."""
        with self._reading(), self.filesystem.open_input_stream(self.key, compression=None) as file:
            content: bytes = file.read()
            return content

    def iterdir(self) -> list[ObjectPath]:
        """List the objects and prefixes directly below it."""
        return [replace(self, key=info.path) for info in self._list(recursive=False)]

    def glob(self, pattern: str) -> list[ObjectPath]:
        """List the objects and prefixes directly below it whose names match a pattern."""
        return [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]

    def names_below(self) -> list[str]:
        """List the objects below it, with their names relative to it."""
        infos = self._list(recursive=True)
        return [info.path[len(self.key) + 1 :] for info in infos if info.type == fs.FileType.File]

    def look_at(self, names: Iterable[str]) -> None:
        """List the prefixes in which named objects lie, instead of asking for one object after the other."""
        folders = {(self / name).parent for name in names}
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda folder: folder._list(recursive=False), folders))

    def _info(self) -> fs.FileInfo:
        known = self.known.get(self.key)
        if known is not None:
            return known
        with self._reading():
            info = self.filesystem.get_file_info(self.key)
            bucket = info
            if info.type == fs.FileType.NotFound:
                bucket = self.filesystem.get_file_info(self.key.partition("/")[0])
        if bucket.type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, _ABSENT["NO_SUCH_BUCKET"], str(self))
        if info.type != fs.FileType.NotFound:
            self.known[self.key] = info
        return info

    def _list(self, *, recursive: bool) -> list[fs.FileInfo]:
        with self._reading():
            selector = fs.FileSelector(self.key, recursive=recursive, allow_not_found=True)
            infos: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
        self.known.update((info.path, info) for info in infos)
        return infos

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Word the errors of S3 inside the block."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, _ABSENT["NO_SUCH_KEY"], str(self)) from error
        except (OSError, pa.ArrowException) as error:
            if lacks_memory(error):
                raise
            reason = refusal_of(error) or str(error)
            number = errno.ENOENT if reason in _ABSENT.values() else errno.EREMOTEIO
            raise OSError(number, reason, str(self)) from error


Location = Path | ObjectPath
"""Path on this machine or on S3."""


def location_of(path: str | Path) -> Location:
    """Return a path as what can be read: on this machine, or on S3 if it begins with `s3://`.

    Raises:
        InputError: it is an address of nothing on S3.
        OSError: S3 refuses; the reason is in words.
    """
    text = str(path)
    if isinstance(path, Path) or not is_on_s3(text):
        return Path(path)
    why = why_no_path(text)
    if why is not None:
        raise InputError(f"{redacted(text)}: {why}")
    key = text.removeprefix(S3).rstrip("/")
    bare = ObjectPath(key, None)
    with bare._reading():
        return replace(bare, filesystem=bucket_filesystem(key.partition("/")[0]))


@contextlib.contextmanager
def local_copy(path: str | Path) -> Iterator[Path]:
    """Have a file on this machine for the length of a block: itself, or a copy of an object on S3.

    Raises:
        InputError: S3 refuses; or an error inside the block that names the copy, with the address in its place.
    """
    if isinstance(path, Path) or not is_on_s3(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="hidfd-") as folder:
        try:
            location = location_of(path)
            copy = Path(folder, location.name)
            with location.open("rb") as source, copy.open("xb") as target:
                shutil.copyfileobj(source, target, READ_BYTES)
        except OSError as error:
            raise InputError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), path)) from error


def refusal_of(error: Exception) -> str | None:
    """Return, in words, why S3 refuses; None if the error is none of S3's."""
    text = str(error)
    found = re.search(r"AWS Error (\w+)(?: \([^)]*\))? during \w+ operation: (.*)", text, re.DOTALL)
    if lacks_memory(error) or found is None:
        return None
    kind, details = found[1], found[2].strip()
    if kind in _ABSENT:
        return _ABSENT[kind]
    if kind in _DENIED or "access key" in details:  # not all servers give AWS's names
        return f"access is denied; {_credentials_in_words()}"
    region = re.search(r"located in '([\w-]+)'", text)
    if region is not None:
        return f"its bucket is in {region[1]}; set AWS_DEFAULT_REGION={region[1]}"
    if kind == "NETWORK_CONNECTION":
        reason = re.sub(r"curlCode: \d+, |; Details:.*", "", details, flags=re.DOTALL)
        return f"{_endpoint()} does not answer: {reason}; AWS_ENDPOINT_URL says where S3 is"
    return f"S3 says {kind}: {details.splitlines()[0] if details else text}"


def _credentials_in_words() -> str:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [name for name in keys if not os.environ.get(name)]
    if missing and not os.environ.get("AWS_PROFILE"):
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set in the environment"
    return f"check {' and '.join(keys)} in the environment, and that they may list and read it at {_endpoint()}"


def _endpoint() -> str:
    return redacted(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS")

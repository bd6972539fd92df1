"""Addresses of files, such as `sqlite:///path`, from paths and back: a folder may have any name. Torch-free."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    import pyarrow as pa

SQLITE = "sqlite:///"

S3 = "s3://"

ENCODED_SLASH = "%2F"


def path_at(address: str, scheme: str = SQLITE) -> Path:
    """Return the path of an address that begins with `scheme`, or of a plain path, as it was typed.

    A `?`, `#` or `%20` belongs to the name of a folder, as people paste paths behind a scheme. The path is decoded as a
    URL where `sqlite_address` or another program encoded it: it has an encoded slash or a query such as `?timeout=20`,
    or only the decoded path leads to a folder.
    """
    text = address.removeprefix(scheme)
    typed = Path(text).expanduser()
    if text == address:
        return typed
    without_query = re.sub(r"\?\w+=[^/]*$", "", text)
    decoded = Path(os.fsdecode(unquote_to_bytes(without_query))).expanduser()
    is_url = without_query != text or ENCODED_SLASH in text
    return decoded if is_url or (decoded.parent.is_dir() and not typed.parent.is_dir()) else typed


def absolute_address(address: str) -> str:
    """Return a path, or the path in an SQLite or `file://` address, from the root; other addresses are unchanged."""
    scheme = next((known for known in (SQLITE, "file://") if address.startswith(known)), "")
    if "://" in address.removeprefix(scheme):
        return address
    path = path_at(address, scheme).absolute() if scheme else Path(address).expanduser().absolute()
    return f"{scheme}{os.path.normpath(path)}"


def why_no_path(text: str) -> str | None:
    """Return, in words, why a text can be the path of nothing, whatever there is on the disk; None if it can."""
    if "\0" in text:
        return "holds a NUL character, which no path does"
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        return f"holds {text[error.start]!r}, half of a character, which no path does"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return f"there is no user whose home folder is {text.partition('/')[0]}; write ./~... for a folder of that name"
    return _why_no_object(text) if re.match("s3[an]?:", text, re.IGNORECASE) else None


def _why_no_object(text: str) -> str | None:
    """Return, in words, why a text is no address of an object or a prefix on S3; None if it is one."""
    if not is_on_s3(text):
        return "is no path; what lies on S3 is written s3://BUCKET/PREFIX"
    bucket = text.removeprefix(S3).partition("/")[0]
    if "@" in bucket or ":" in bucket:
        return "holds credentials; leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if re.search(r"\?\w+=", text):
        return "holds settings behind `?`; set AWS_ENDPOINT_URL and AWS_DEFAULT_REGION instead"
    return None if bucket else "names no bucket; what lies on S3 is written s3://BUCKET/PREFIX"


def is_on_s3(path: str) -> bool:
    """Whether an address is on S3."""
    return path.startswith(S3)


def is_text(path: Path) -> bool:
    """Whether the bytes of a path are UTF-8, as MLflow, pyarrow and safetensors need them."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def arrow_file(path: Path, mode: str = "rb") -> Path | pa.NativeFile:
    """Return what pyarrow opens: the path itself, or an open file where its name is not UTF-8."""
    if is_text(path):
        return path
    import pyarrow as pa

    return pa.OSFile(os.fsencode(path), mode)


def sqlite_address(path: Path) -> str:
    """Return the address of an SQLite file for SQLAlchemy and MLflow, without encoding where none is needed.

    Slashes are encoded as well where it is: MLflow makes the parents of a path that it has not decoded.
    """
    name = os.fsencode(path)
    return f"{SQLITE}{path}" if quote(name, safe="/ +~,:@=&()!$'*;") == str(path) else SQLITE + quote(name, safe="")

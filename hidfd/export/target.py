"""The place of an export: a folder that appears as a whole, in the place of nothing but an earlier export."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from hidfd.errors import ConfigError
from hidfd.store.disk import file_sha256

BUNDLE = "bundle.json"
"""Name of the file that says what an exported folder is."""

MAKER = "python -m hidfd export"
"""Value of `made_by` in it."""

_CACHE = "__pycache__"


def check_target(folder: Path) -> str | None:
    """Check that an export into a folder would overwrite nothing but an earlier export.

    Returns:
        The earlier export in words; None where there is none.

    Raises:
        ConfigError: says what is in the way, and what to do.
    """
    try:
        if not folder.parent.is_dir():
            raise ConfigError(f"--to {folder}: there is no folder {folder.parent}; make it first")
        if not os.path.lexists(folder):
            return None
        if not folder.is_dir():
            raise ConfigError(f"--to {folder}: is no folder, and nothing is overwritten; name another one")
        if not any(folder.iterdir()):
            return None
        return _earlier_export(folder)
    except OSError as error:
        raise ConfigError(
            f"--to {error.filename or folder}: cannot be looked at ({error.strerror or error})"
        ) from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Have a temporary folder that takes the place of `folder` at the end of the block, or is deleted after an error.

    Yields:
        The temporary folder, beside the other one, and the earlier export that it will replace, in words.

    Raises:
        ConfigError: something else is in the way, or it cannot be written to.
    """
    place = folder.resolve()  # a link to a folder stays a link
    temporary = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        yield temporary, check_target(folder)
        _take_place(temporary, place, earlier=check_target(folder) is not None)
    except OSError as error:
        raise ConfigError(
            f"--to {folder}: cannot be written ({error.strerror or error}); nothing is there that was not before"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, place: Path, *, earlier: bool) -> None:
    if not earlier:
        temporary.rename(place)  # also over an empty folder
        return
    former = place.with_name(f".{place.name}-former-{secrets.token_hex(4)}")
    place.rename(former)
    try:
        temporary.rename(place)
    except OSError:
        former.rename(place)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _earlier_export(folder: Path) -> str:
    """Return what an earlier export is, in words, after checking that nothing of it was changed or added."""
    advice = "nothing is overwritten: name another folder, or move or delete this one"
    try:
        bundle = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        is_ours, known = bundle["made_by"] == MAKER, dict(bundle["sha256"])
        words = f"{bundle['student']} of {bundle['study']} as {bundle['format']}"
    except (OSError, ValueError, LookupError, TypeError):
        is_ours, known, words = False, {}, ""
    if not is_ours:
        first = sorted(path.name for path in folder.iterdir())[:3]
        raise ConfigError(f"--to {folder}: is not empty ({', '.join(first)}, ...) and no earlier export; {advice}")
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in (BUNDLE, _CACHE)
        and (path.name not in known or not path.is_file() or file_sha256(path) != known[path.name])
    )
    if foreign:
        raise ConfigError(
            f"--to {folder}: an earlier export, with files that were changed or added ({', '.join(foreign[:5])}); "
            f"{advice}"
        )
    return words

"""The user's materials, identified by their content: images as folders or Parquet, checkpoints as files. Torch-free.

A material may be a folder of JPEG/PNG (nested), a Parquet file, a folder of Parquet shards, a pattern of shards such as
`data/train-*.parquet`, or (a checkpoint) one file. Its hash covers the files that import reads and their names within
the folder, but not the location of the folder.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hidfd.config.schema import Material, TrialConfig
from hidfd.data.decoding import IMAGE_SUFFIXES
from hidfd.errors import InputError
from hidfd.pipeline.graph import digest_of
from hidfd.store.disk import file_sha256

HASHING_THREADS = 4
"""Threads that hash files in parallel; reading and hashing release the interpreter lock."""

_content_hashes: dict[str, str] = {}
"""Digest of names, sizes and times of change -> content hash; one command asks several times, of up to 150 GB."""

_SHARD = re.compile(r"(?P<split>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class Files:
    """The files of a material.

    Attributes:
        kind: `images` (a folder of JPEG/PNG), `parquet` (shards), or `file` (a single file of another kind).
        root: the folder that names are relative to.
        names: sorted relative paths with `/`.
    """

    kind: Literal["images", "parquet", "file"]
    root: Path
    names: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """Paths of the files, in the order of `names`."""
        return [self.root / name for name in self.names]


def materials(config: TrialConfig) -> dict[str, Material]:
    """Return the materials of a trial by their settings below `trial`, such as `data.candidates`."""
    found = {
        "data.candidates": config.data.candidates,
        "data.validation": config.data.validation,
        "data.test": config.data.test,
        "data.synthetic": config.data.synthetic,
        "teacher.checkpoint": config.teacher.checkpoint,
        "teacher.train.images": None if config.teacher.train is None else config.teacher.train.images,
    }
    return {where: material for where, material in found.items() if material is not None}


def files_of(path: str | Path, where: str = "") -> Files:
    """List the files that a path or pattern refers to.

    Args:
        where: the setting that gives the path, for messages.

    Raises:
        InputError: the path does not exist, holds no file that import reads, or holds both images and Parquet.
    """
    path = Path(path)
    start = f"{where}: " if where else ""
    if path.is_file():
        return Files("parquet" if path.suffix.lower() == ".parquet" else "file", path.parent, (path.name,))
    if path.is_dir():
        return _files_of_folder(path, start)
    if any(sign in path.name for sign in "*?[") and path.parent.is_dir():
        names = tuple(sorted(p.name for p in path.parent.glob(path.name) if p.suffix.lower() == ".parquet"))
        if not names:
            raise InputError(f"{start}{path}: no Parquet file matches; {_content_in_words(path.parent)}")
        _check_shards(names, path, start, beside=tuple(p.name for p in path.parent.iterdir()))
        return Files("parquet", path.parent, names)
    expected = "a file of weights" if "teacher.checkpoint" in where else "a folder of JPEG/PNG, or Parquet"
    raise InputError(f"{start}{path}: no such file or folder; expected {expected}")


def content_sha256(path: str | Path, where: str = "") -> str:
    """Return the content hash of a material: of the bytes of one file, or of the (relative path, sha256) pairs of many.

    Raises:
        InputError: as `files_of`, or a file cannot be read.
    """
    return content_sha256_of(files_of(path, where))


def content_sha256_of(files: Files) -> str:
    """Return the content hash of listed files; they are read again only if a size or time of change differs.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        stats = [(name, path.stat()) for name, path in zip(files.names, files.paths, strict=True)]
        state = digest_of([str(files.root), *([n, s.st_size, s.st_mtime_ns, s.st_ino] for n, s in stats)])
        if state not in _content_hashes:
            _content_hashes[state] = _read_and_hash(files)
        return _content_hashes[state]
    except OSError as error:
        raise InputError(f"{error.filename or files.root}: cannot be read ({error.strerror or error})") from error


def _read_and_hash(files: Files) -> str:
    if len(files.names) == 1 and files.kind != "images":
        return file_sha256(files.paths[0])
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return digest_of([list(pair) for pair in zip(files.names, pool.map(file_sha256, files.paths), strict=True)])


def located(material: Material, sha256: str | None, where: str) -> Files:
    """List the files of a material after checking their content.

    Args:
        sha256: content hash that the files must have; None = unknown, not checked.
        where: the setting of the material, for messages.

    Raises:
        InputError: the material has no path, the path does not exist, or its content has another hash.
    """
    if material.path is None:
        raise InputError(
            f"{where}: sha256 {material.sha256} is not in the store and no path says where to find it; "
            f"run `python -m hidfd import FILE` on the machine that holds it"
        )
    files = files_of(material.path, where)
    if sha256 is not None:
        found = content_sha256_of(files)
        if found != sha256:
            raise InputError(
                f"{where}: {material.path} has content sha256 {found}, but the study file says {sha256}; "
                f"correct the path, or take the new sha256 if the content was changed on purpose"
            )
    return files


def _files_of_folder(folder: Path, start: str) -> Files:
    visible = _visible_files(folder)
    images = tuple(name for name in visible if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    shards = tuple(name for name in visible if name.lower().endswith(".parquet"))
    if images and shards:
        raise InputError(
            f"{start}{folder}: holds both images ({len(images):,}, first {images[0]}) and Parquet ({len(shards):,}, "
            f"first {shards[0]}); give a path that holds one of them"
        )
    if not images and not shards:
        raise InputError(
            f"{start}{folder}: no images in it; expected JPEG, PNG or Parquet files; {_content_in_words(folder)}"
        )
    _check_shards(shards, folder, start)
    return Files("images" if images else "parquet", folder, images or shards)


def _visible_files(folder: Path) -> list[str]:
    """Return the sorted relative names of all files that are not hidden; each link is followed once."""
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        relative = Path(root).relative_to(folder)
        names.extend((relative / name).as_posix() for name in files if not name.startswith("."))
    return sorted(names)


def _check_shards(names: tuple[str, ...], path: Path, start: str, beside: tuple[str, ...] = ()) -> None:
    """Refuse shards of several splits, which would mix test images into training, and incomplete sets.

    Args:
        names: shards to check.
        path, start: the path and the beginning of a message.
        beside: files in the same folder that a pattern leaves out on purpose, so that they do not count as missing.
    """
    splits = _shards_of(names)
    if len(splits) > 1:
        raise InputError(
            f"{start}{path}: holds shards of several splits ({', '.join(sorted(splits))}); "
            f"name one, as in {(path if path.is_dir() else path.parent) / min(splits)}-*.parquet"
        )
    present = _shards_of(names + beside)
    for split, shards in splits.items():
        missing = sorted(set(range(max(shards.values()))) - set(present[split]))
        if missing:
            raise InputError(
                f"{start}{path}: of {max(shards.values())} shards of {split} these are missing: "
                f"{', '.join(f'{index:05d}' for index in missing[:10])}; copy them too"
            )


def _shards_of(names: tuple[str, ...]) -> dict[str, dict[int, int]]:
    """Return split -> index of a shard -> number of shards of the split, all read from the file names."""
    splits: dict[str, dict[int, int]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match:
            splits.setdefault(match["split"], {})[int(match["index"])] = int(match["count"])
    return splits


def _content_in_words(folder: Path) -> str:
    """Return the number and the suffixes of the files in a folder, for messages."""
    names = _visible_files(folder)
    suffixes = sorted({Path(name).suffix.lower() or "no suffix" for name in names})
    return f"found {len(names):,} files ({', '.join(suffixes[:8])})" if names else "it is empty"

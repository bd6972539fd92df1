"""What the user gives, known by its content: images as folders or Parquet, checkpoints as files. Torch-free.

Material may be a folder of JPEG/PNG (nested), a Parquet file, a folder of Parquet shards, a pattern of shards such as
`data/train-*.parquet`, or (a checkpoint) one file. Its hash covers the files that import reads and their names within
the folder, never where the folder lies.
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
"""Reading and hashing run outside the interpreter lock."""

_content_hashes: dict[str, str] = {}
"""State of the files -> their content hash: `identify`, a trial and its import each ask, and a set may be 150 GB."""

_SHARD = re.compile(r"(?P<split>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class Files:
    """The files of a material.

    Attributes:
        kind: `images` (a folder of JPEG/PNG), `parquet` (shards), or `file` (one of any other kind).
        root: the folder that names are relative to.
        names: sorted relative paths with `/`.
    """

    kind: Literal["images", "parquet", "file"]
    root: Path
    names: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.names]


def materials(config: TrialConfig) -> dict[str, Material]:
    """Every material of a trial by its path in the file, below `trial`."""
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
    """The files that a path stands for.

    Args:
        where: the setting that gave the path, for messages.

    Raises:
        InputError: it does not exist, holds nothing that import reads, or holds more than one thing.
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
            raise InputError(f"{start}{path}: no Parquet file matches; {_holds(path.parent)}")
        _check_shards(names, path, start, beside=tuple(p.name for p in path.parent.iterdir()))
        return Files("parquet", path.parent, names)
    expected = "a file of weights" if "teacher.checkpoint" in where else "a folder of JPEG/PNG, or Parquet"
    raise InputError(f"{start}{path}: no such file or folder; expected {expected}")


def content_sha256(path: str | Path, where: str = "") -> str:
    """Content hash of a material: of a file its bytes; of several its sorted (relative path, sha256) pairs.

    Raises:
        InputError: as `files_of`, or a file cannot be read.
    """
    return content_sha256_of(files_of(path, where))


def content_sha256_of(files: Files) -> str:
    """The same of files that are known already; read once, as long as sizes and times of change stay."""
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
    """The files of a material, their content checked.

    Args:
        sha256: what the content must be; None = not yet known.

    Raises:
        InputError: no path, nothing there, or other content.
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
                f"{where}: {material.path} has content sha256 {found}, but the file says {sha256}; "
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
        raise InputError(f"{start}{folder}: no images in it; expected JPEG, PNG or Parquet files; {_holds(folder)}")
    _check_shards(shards, folder, start)
    return Files("images" if images else "parquet", folder, images or shards)


def _visible_files(folder: Path) -> list[str]:
    """Relative names of all files that are not hidden, sorted; links are followed, once each."""
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
    """Refuses shards of several splits, which would mix test images into training, and incomplete sets.

    Shards that stand `beside` those of a pattern are not missing: the pattern left them out on purpose.
    """
    splits = _shards_of(names)
    if len(splits) > 1:
        raise InputError(
            f"{start}{path}: holds shards of several splits ({', '.join(sorted(splits))}); "
            f"name one, as in {(path if path.is_dir() else path.parent) / min(splits)}-*.parquet"
        )
    there = _shards_of(names + beside)
    for split, shards in splits.items():
        missing = sorted(set(range(max(shards.values()))) - set(there[split]))
        if missing:
            raise InputError(
                f"{start}{path}: of {max(shards.values())} shards of {split} these are missing: "
                f"{', '.join(f'{index:05d}' for index in missing[:10])}; copy them too"
            )


def _shards_of(names: tuple[str, ...]) -> dict[str, dict[int, int]]:
    """Split -> index of a shard -> how many there are, as its name says."""
    splits: dict[str, dict[int, int]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match:
            splits.setdefault(match["split"], {})[int(match["index"])] = int(match["count"])
    return splits


def _holds(folder: Path) -> str:
    """What a folder holds instead, in words."""
    names = _visible_files(folder)
    suffixes = sorted({Path(name).suffix.lower() or "no suffix" for name in names})
    return f"found {len(names):,} files ({', '.join(suffixes[:8])})" if names else "it is empty"

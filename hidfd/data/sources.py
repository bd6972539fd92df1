"""The user's materials, identified by their content: images as folders or Parquet, checkpoints as files. Torch-free.

A material may be a folder of images (nested), a CSV that lists images, a Parquet file, a folder of Parquet shards, a
pattern of shards such as `data/train-*.parquet`, or (a checkpoint) one file; on this machine or on S3. Its hash covers
the files that import reads and their names within the folder, but not the location of the folder. An image that cannot
be read, such as a link to nowhere, is one of these files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hidfd.addresses import S3, is_on_s3
from hidfd.config.schema import Material, TrialConfig
from hidfd.data.csv_list import read_csv_list
from hidfd.data.decoding import FIRST_SUFFIXES, IMAGE_SUFFIXES, reason_of
from hidfd.data.object_path import REQUESTS, Location, ObjectPath, location_of
from hidfd.data.splits import check_shards, check_splits
from hidfd.errors import InputError
from hidfd.formatting import plain, plural
from hidfd.pipeline.graph import digest_of
from hidfd.store.disk import file_sha256

CHECKPOINT_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".t7", ".bin", ".tar"}
"""Suffixes of files that messages take for checkpoints."""

Watch = Callable[[int, int], None]
"""Function that is told how many files of how many are read."""

HASHING_THREADS = 4
"""Threads that hash files in parallel; reading and hashing release the interpreter lock."""

_content_hashes: dict[str, str] = {}
"""Digest of names, sizes and times of change -> content hash; one command asks several times, of up to 150 GB."""


@dataclass(frozen=True)
class _Listing:
    """The content of a folder and of those below it, apart from what is hidden.

    Attributes:
        names: sorted relative names of the files, and of links that lead nowhere.
        special: sorted relative names of pipes, sockets and devices.
        closed: sorted relative names of folders that cannot be listed.
    """

    names: list[str]
    special: list[str]
    closed: list[str]


@dataclass(frozen=True)
class Files:
    """The files of a material.

    Attributes:
        kind: `images` (single images), `parquet` (shards), or `file` (a single file of another kind).
        root: the folder that names are relative to.
        names: relative paths with `/`, sorted, or in the order of a CSV.
        left_out: sentences about what else lies in the folder and is not read.
        csv: the CSV that lists the images; None = they are those of a folder.
        csv_labels: the labels that it gives them, as text; None if it has none.
    """

    kind: Literal["images", "parquet", "file"]
    root: Location
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    csv: Location | None = None
    csv_labels: tuple[str, ...] | None = None

    @property
    def label_texts(self) -> tuple[str, ...] | None:
        """The label of each image as text: of a CSV, or the first folder; None if an image has none."""
        if self.csv is not None:
            return self.csv_labels
        return None if any("/" not in name for name in self.names) else tuple(n.split("/")[0] for n in self.names)

    @property
    def is_remote(self) -> bool:
        """Whether they are read over the network."""
        return isinstance(self.root, ObjectPath)

    @property
    def paths(self) -> list[Location]:
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
        "judge.checkpoint": None if config.judge is None else config.judge.checkpoint,
        "teacher.code": config.teacher.code,
        "judge.code": None if config.judge is None else config.judge.code,
        "distillation.code": config.distillation.code,
        "teacher.train.images": None if config.teacher.train is None else config.teacher.train.images,
    }
    return {where: material for where, material in found.items() if material is not None}


def files_of(path: str | Path, where: str = "", *, is_one_split: bool = True) -> Files:
    """List the files that a path or pattern refers to.

    Args:
        path: on this machine, or `s3://BUCKET/PREFIX`.
        where: the setting that gives the path, for messages.
        is_one_split: whether a path that holds several splits is refused; they do no harm where nothing is learned.

    Raises:
        InputError: the path does not exist, S3 refuses it, it holds no file that import reads, both images and
            Parquet, or several splits.
    """
    start = f"{where}: " if where else ""
    try:
        return _files_of(location_of(path), where, start, is_one_split=is_one_split)
    except OSError as error:
        raise InputError(f"{start}{error.filename or path}: cannot be read ({error.strerror or error})") from error


def _files_of(path: Location, where: str, start: str, *, is_one_split: bool) -> Files:
    if path.is_file() and path.suffix.lower() == ".csv":
        listed = read_csv_list(path, start)
        if isinstance(path, Path) and any(map(is_on_s3, listed.names)):
            raise InputError(f"{start}{path}: lists images on S3; put it there too, and give its address, {S3}...")
        return Files("images", path.parent, listed.names, csv=path, csv_labels=listed.labels)
    if path.is_file():
        return Files("parquet" if path.suffix.lower() == ".parquet" else "file", path.parent, (path.name,))
    if path.is_dir():
        if ".checkpoint" in where:
            raise InputError(f"{start}{path}: {_folder_of_weights(path)}")
        if where.removesuffix(".path").endswith(".code"):
            raise InputError(f"{start}{path}: a folder; expected the Python file of a network")
        return _files_of_folder(path, start, is_one_split=is_one_split)
    if any(sign in path.name for sign in "*?[") and path.parent.is_dir():
        found = [p for p in path.parent.glob(path.name) if p.is_file() or p.is_dir() or not p.exists()]  # no pipe
        names = tuple(sorted(p.name for p in found if p.suffix.lower() == ".parquet"))
        if not names:
            beside = _listing(path.parent).names if isinstance(path, Path) else [p.name for p in path.parent.iterdir()]
            raise InputError(f"{start}{path}: no Parquet file matches; {_content_in_words(beside)}")
        if is_one_split:
            check_shards(names, path, start, beside=tuple(p.name for p in path.parent.iterdir()))
        return Files("parquet", path.parent, names)
    expected = "a folder of images, or Parquet"
    if ".checkpoint" in where:
        expected = "a file of weights"
    elif where.removesuffix(".path").endswith(".code"):
        expected = "the Python file of a network"
    if path.exists():
        raise InputError(f"{start}{path}: is a pipe, a socket or a device; expected {expected}")
    raise InputError(f"{start}{path}: no such file or folder; expected {expected}")


def content_sha256(path: str | Path, where: str = "", watch: Watch = lambda done, total: None) -> str:
    """Return the content hash of a material: of the bytes of one file, or of the (relative path, sha256) pairs of many.

    Args:
        watch: called with the number of files that are read and of all; an error of it ends the reading.

    Raises:
        InputError: as `files_of`, or a file cannot be read.
    """
    return content_sha256_of(files_of(path, where), watch)


def content_sha256_of(files: Files, watch: Watch = lambda done, total: None) -> str:
    """Return the content hash of listed files; they are read again only if a size or time of change differs.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        if files.csv is not None and isinstance(files.root, ObjectPath):
            files.root.look_at(files.names)
        stats = [_state_of(path, files.kind) for path in files.paths]
        of_csv = [] if files.csv is None else [[str(files.csv), *_state_of(files.csv, "file")]]
        of_each = [[name, *state] for name, state in zip(files.names, stats, strict=True)]
        state = digest_of([str(files.root), *of_csv, *of_each])
        if state not in _content_hashes:
            _content_hashes[state] = _read_and_hash(files, watch)
        return _content_hashes[state]
    except OSError as error:
        raise InputError(f"{error.filename or files.root}: cannot be read ({error.strerror or error})") from error


def _read_and_hash(files: Files, watch: Watch) -> str:
    if len(files.names) == 1 and files.kind != "images":
        return _sha256_of(files.paths[0])
    hashed = _image_sha256 if files.kind == "images" else _sha256_of
    pairs: list[list[str]] = []
    pool = ThreadPoolExecutor(REQUESTS if files.is_remote else HASHING_THREADS)
    try:
        for name, sha256 in zip(files.names, pool.map(hashed, files.paths), strict=True):
            pairs.append([name, sha256])
            watch(len(pairs), len(files.names))
    finally:
        pool.shutdown(cancel_futures=True)
    return digest_of(pairs if files.csv is None else [pairs, _sha256_of(files.csv)])


def _state_of(path: Location, kind: str) -> tuple[int, ...]:
    """Return size, time of change and number of a file; nothing of an image that cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        if kind != "images":
            raise
        reason_of(path, error)
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _sha256_of(path: Location) -> str:
    if isinstance(path, Path):
        return file_sha256(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image_sha256(path: Location) -> str:
    """Return the sha256 of an image's bytes; of one that cannot be read the word `unreadable`."""
    try:
        return _sha256_of(path)
    except OSError as error:
        reason_of(path, error)
        return "unreadable"


def located(material: Material, sha256: str | None, where: str, watch: Watch = lambda done, total: None) -> Files:
    """List the files of a material after checking their content.

    A sha256 that was taken when JPEG and PNG were all that was read is accepted, and means these files alone.

    Args:
        sha256: content hash that the files must have; None = unknown, not checked.
        where: the setting of the material, for messages.
        watch: as for `content_sha256`.

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
        found = content_sha256_of(files, watch)
        if found != sha256:
            first = tuple(name for name in files.names if _suffix(name) in FIRST_SUFFIXES)
            older = replace(files, names=first)
            if (
                files.kind == "images"
                and files.csv is None
                and 0 < len(first) < len(files.names)
                and content_sha256_of(older) == sha256
            ):
                others = [name for name in files.names if _suffix(name) not in FIRST_SUFFIXES]
                word = (
                    f"{_counted(others)}: {where}.sha256 was taken when JPEG and PNG were all that was read; "
                    f"with sha256 {found} they are read as well"
                )
                return replace(older, left_out=(word, *files.left_out))
            raise InputError(
                f"{where}: {material.path} has content sha256 {found}, but the study file says {sha256}; "
                f"correct the path, or take the new sha256 if the content was changed on purpose"
            )
    return files


def _files_of_folder(folder: Location, start: str, *, is_one_split: bool) -> Files:
    listing = _listing(folder)
    images = tuple(name for name in listing.names if _suffix(name) in IMAGE_SUFFIXES)
    shards = tuple(name for name in listing.names if _suffix(name) == ".parquet")
    if shards and not any(_suffix(name) in FIRST_SUFFIXES for name in images):
        images = ()  # such a folder was read as Parquet before other images were read at all
    if images and shards:
        raise InputError(
            f"{start}{folder}: holds both images ({len(images):,}, first {images[0]}) and Parquet ({len(shards):,}, "
            f"first {shards[0]}); give a path that holds one of them"
        )
    if not images and not shards:
        raise InputError(
            f"{start}{folder}: no images in it; expected JPEG, PNG, WebP, BMP, GIF, TIFF or Parquet files; "
            f"{_content_in_words(listing.names)}"
        )
    if is_one_split:
        check_shards(shards, folder, start)
        check_splits(images, folder, start, is_parquet=False)
    names = images or shards
    return Files("images" if images else "parquet", folder, names, _left_out(listing, set(names)))


def _folder_of_weights(folder: Location) -> str:
    """Return why a folder is no checkpoint, and what to give instead."""
    listed = _listing(folder).names
    names = [name for name in listed if _suffix(name) in CHECKPOINT_SUFFIXES]
    if len(names) == 1:
        return f"a folder, but a checkpoint is one file; give {folder / names[0]}"
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards and shards == names:
        pattern = f"pathlib.Path({json.dumps(str(folder))}).glob('**/*.safetensors')"
        return (
            f"a folder of {len(names):,} safetensors files, but a checkpoint is one file; if they are parts of one, "
            f"join them: `state = {{k: v for p in {pattern} for k, v in safetensors.torch.load_file(p).items()}}` and "
            f"`safetensors.torch.save_file(state, 'teacher.safetensors')`"
        )
    some = f"; it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
    return f"a folder, but a checkpoint is one file of weights{some or f'; {_content_in_words(listed)}'}"


def _left_out(listing: _Listing, read: set[str]) -> tuple[str, ...]:
    words = []
    if len(listing.names) > len(read):
        words.append(f"{_counted(name for name in listing.names if name not in read)} (suffixes that are not read)")
    if listing.special:
        words.append(f"pipes, sockets and devices: {len(listing.special):,}, the first {plain(listing.special[0])}")
    if listing.closed:
        words.append(f"folders that cannot be opened: {len(listing.closed):,}, the first {plain(listing.closed[0])}")
    return tuple(words)


def _counted(names: Iterable[str]) -> str:
    """Return the numbers of files of each suffix, the most frequent first, such as `3 .txt, 1 without a suffix`."""
    counts = Counter(plain(_suffix(name)) or "without a suffix" for name in names)
    shown = [f"{count:,} {suffix}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(shown)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _listing(folder: Location) -> _Listing:
    """List all files that are not hidden, in all folders below; each link to a folder is followed once."""
    if isinstance(folder, ObjectPath):
        shown = [name for name in folder.names_below() if not any(map(_is_hidden, name.split("/")))]
        return _Listing(sorted(shown), [], [])
    names: list[str] = []
    special: list[str] = []
    closed: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        try:
            status = (folder / relative).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder / relative) as entries:
                visible = [entry for entry in entries if not _is_hidden(entry.name)]
        except OSError:
            if not relative:
                raise
            closed.append(relative)
            continue
        folders = []
        for entry in visible:
            name = f"{relative}/{entry.name}" if relative else entry.name
            kind = _kind_of(entry)
            if kind == "folder":
                folders.append(name)
            elif kind == "file":
                names.append(name)
            elif kind == "special":
                special.append(name)
        waiting.extend(sorted(folders, reverse=True))
    return _Listing(sorted(names), sorted(special), sorted(closed))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _kind_of(entry: os.DirEntry[str]) -> Literal["folder", "file", "special"]:
    """Return what an entry is after following links; a link that leads nowhere is a file, which cannot be read."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError:
        return "file"
    return "special"


def _content_in_words(names: Sequence[str]) -> str:
    """Return the number and the suffixes of files, for messages."""
    suffixes = sorted({plain(_suffix(name)) or "no suffix" for name in names})
    return f"found {plural(len(names), 'file')} ({', '.join(suffixes[:8])})" if names else "it is empty"

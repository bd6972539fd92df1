"""Names of splits in the names of folders and files: what shows that one source holds several of them. Torch-free.

A split is named by the words of `SPLIT_WORDS`. What counts is written so that a class folder `test_tube`, an image
`training_cat.jpg` or two web photos `test-1.jpg` and `train-station.jpg` are no splits:

* a folder whose whole name is such a word, also with a number or one of `SET_WORDS` (`train`, `val2017`,
  `test_images`);
* folders side by side that differ in such a word alone (`seg_train` and `seg_test`);
* a Parquet file whose name begins with such a word (`test.parquet`, `train-00000-of-00002.parquet`), and Parquet files
  side by side that differ in one alone (`mnist-train.parquet` and `mnist-test.parquet`); and
* image files side by side that differ in one alone, and in numbers, where they are at least half of their folder
  (`train_0001.png` and `test_0001.png`).

One such name by itself is no mixture: it may be a class, or the split that was asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from hidfd.data.object_path import Location
from hidfd.errors import InputError
from hidfd.formatting import plain

SPLIT_WORDS = (
    *("train", "training", "val", "valid", "validation", "dev"),
    *("test", "testing", "eval", "evaluation"),
)
"""Words that name a split."""

SET_WORDS = ("set", "data", "dataset", "images", "image", "imgs", "img", "split")
"""Words that may follow one in the name of a split's folder."""

MIN_SHARE = 0.5
"""Share of a folder's images that must be named by splits before their names count."""

_WORDS_OF_SETTING = {
    "data.validation": ("validation", "valid", "val", "dev", "test", "testing"),
    "data.test": ("test", "testing", "evaluation", "eval"),
    "data.candidates": ("train", "training"),
    "teacher.train": ("train", "training"),
}
"""Setting -> the splits that messages suggest for it, the likeliest first."""

_SHARD = re.compile(r"(?P<split>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")

_WORD = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_FOLDER = re.compile(rf"(?:partial-)?({_WORD})(?:[-_. ]*(?:{'|'.join(SET_WORDS)}))?(?:[-_. ]*\d[-_.x\d]*)?")
_FILE = re.compile(rf"({_WORD})(?![a-z])")
_PART = re.compile(rf"(?<![a-z])({_WORD})(?![a-z])")
_NUMBERED = re.compile(r"[a-z]*\d[a-z\d]*")


def splits_in(names: Iterable[str], *, is_parquet: bool) -> dict[str, str]:
    """Return the splits that files of one source belong to, if they are more than one.

    Args:
        names: relative paths of the files, with `/`.
        is_parquet: whether these are Parquet files, else images.

    Returns:
        Split word -> the first folder or file that shows it, relative; empty where there is no mixture.
    """
    beside: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: {"folders": set(), "files": set()})
    for name in names:
        *folders, file = name.split("/")
        for depth, folder in enumerate(folders):
            beside["/".join(folders[:depth])]["folders"].add(folder)
        beside["/".join(folders)]["files"].add(file)
    outermost: dict[str, str] = {}
    for parent in sorted(beside):  # a folder before what is inside it
        found = _named(beside[parent]["folders"], beside[parent]["files"], is_parquet=is_parquet)
        placed = {word: str(PurePosixPath(parent, name)) for word, name in sorted(found.items())}
        if len(placed) > 1:
            return placed
        if not any(PurePosixPath(parent).is_relative_to(place) for place in outermost.values()):
            for word, place in placed.items():  # of one split alone a folder inside it may be a class
                outermost.setdefault(word, place)
    return outermost if len(outermost) > 1 else {}


def _named(folders: set[str], files: set[str], *, is_parquet: bool) -> dict[str, str]:
    """Return split word -> the first of the entries of one folder that it names."""
    found: dict[str, str] = {}
    for name in sorted(folders):
        match = _FOLDER.fullmatch(name.lower())
        if match is not None:
            found.setdefault(match[1], name)
    for name, word in sorted(_differing({name: name for name in folders})):
        found.setdefault(word, name)
    stems = {name: PurePosixPath(name).stem for name in files}
    if is_parquet:
        starts = ((name, _FILE.match(name.lower())) for name in sorted(files))
        named = [(name, match[1]) for name, match in starts if match is not None]
        named += sorted(_differing(stems))
    else:
        named = sorted(_differing(stems))
        if len({name for name, _ in named}) < MIN_SHARE * len(files):
            named = []
    for name, word in named:
        found.setdefault(word, name)
    return found


def _differing(stems: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (name, split word) of the names that differ from another one in the split word, apart from numbers.

    Args:
        stems: name -> the part of it that is compared.
    """
    rests: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, stem in stems.items():
        lower = stem.lower()
        for match in _PART.finditer(lower):
            start, end = _NUMBERED.sub("#", lower[: match.start()]), _NUMBERED.sub("#", lower[match.end() :])
            rests[f"{start}*{end}"].append((name, match[1]))
    for found in rests.values():
        if len({word for _, word in found}) > 1:
            yield from found


def check_splits(names: tuple[str, ...], path: Location, start: str, *, is_parquet: bool) -> None:
    """Refuse several splits under one source, which would mix test images into training; see `hidfd.data.splits`."""
    splits = splits_in(names, is_parquet=is_parquet)
    if not splits:
        return
    folder = path if path.is_dir() else path.parent
    wanted = next((words for split, words in _WORDS_OF_SETTING.items() if split in start), ())
    chosen = splits[next((word for word in wanted if word in splits), min(splits))]
    shard = _SHARD.fullmatch(chosen)
    if shard is not None:
        one = f"name one, as in {folder / shard['split']}-*.parquet"
    elif is_parquet or (folder / chosen).is_dir():
        one = f"name one, as in {folder / chosen}"
    else:
        one = "move the images of each into a folder of its own, and name one"
    found = ", ".join(plain(place) for place in splits.values())
    raise InputError(
        f"{start}{path}: holds several splits ({', '.join(sorted(splits))}); {one} (found {found}; images of one split "
        f"must not get into another)"
    )


def check_shards(names: tuple[str, ...], path: Location, start: str, beside: tuple[str, ...] = ()) -> None:
    """Refuse shards of several splits, which would mix test images into training, and incomplete sets.

    Args:
        names: shards to check.
        path, start: the path and the beginning of a message.
        beside: files in the same folder that a pattern leaves out on purpose, so that they do not count as missing.
    """
    check_splits(names, path, start, is_parquet=True)
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

"""Names of labels, and the order in which they are those of the teacher's classes. Torch-free.

A labelled material has names of its own: those of its class folders, or the `ClassLabel` of a Parquet. They are matched
with `data.class_names`, so that the same names in another order mean the same classes. Names that are all numbers are
no names but the numbers of the classes, unless `data.class_names` has these very numbers for names.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from hidfd.config.schema import DataConfig
from hidfd.errors import InputError
from hidfd.formatting import plain

LISTED_NAMES = 20
"""Number of rows of names that a message shows."""

SHOWN_CHARACTERS = 36
"""Number of characters of a name in such a row."""


def order_of(
    names: Sequence[str], data: DataConfig, where: str, *, are_folders: bool = False, beside: str | None = None
) -> tuple[int, ...] | None:
    """Return the class of each label of a material, by its name.

    Args:
        names: of the labels 0, 1, ...; of class folders in alphabetical order.
        data: the section with the names of the classes.
        where: the setting of the material, for messages.
        are_folders: whether they are the names of folders, whose numbers are the labels themselves.
        beside: the setting whose material gave `data.class_names`; None where the study file did.

    Returns:
        A class number for each name; None where the labels are numbers of classes, or nothing names the classes.

    Raises:
        InputError: some names match no class; both lists are shown side by side.
    """
    numbers = [str(number) for number in range(data.num_classes)]
    known = [classes for classes in (data.label_names, data.readable_names) if classes and list(classes) != numbers]
    if all(name.isdecimal() for name in names):
        by_number = [int(name) for name in names]
        if not known or not set(names) <= set(known[0]):
            is_whole = not are_folders and sorted(by_number) == list(range(data.num_classes))
            return tuple(by_number) if is_whole else None
        if set(known[0]) == set(numbers) and [known[0].index(name) for name in names] != by_number:
            raise InputError(_side_by_side(names, data, where, beside, "are numbers of classes, and mean others there"))
    if not known:
        return None
    for classes in known:
        found = matches(names, classes)
        order = [number for number in found if number is not None]
        if len(order) == len(names):
            return tuple(order)
    unknown = ", ".join(
        plain(name) for name, number in zip(names, matches(names, known[0]), strict=True) if number is None
    )
    twice = ", ".join(plain(name) for name in dict.fromkeys(known[0]) if list(known[0]).count(name) > 1)
    several = f" (the same name for several classes: {twice[:200]})" if twice else ""
    raise InputError(_side_by_side(names, data, where, beside, f"match no class: {unknown[:200]}{several}"))


def matches(names: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """Match names with those of classes, each with at most one.

    Names match that are the same; else the same but for case, then for spaces and signs; else where all words of one
    are in the other (`boot` and `Ankle boot`). Where several match equally well, none does.

    Returns:
        For each name the number of its class, or None.
    """
    if [name.casefold() for name in names] == [name.casefold() for name in classes]:
        return list(range(len(names)))  # also where there is one name twice
    found: list[int | None] = [None] * len(names)
    for is_same in (str.__eq__, _same_but_for_case, _same_but_for_signs, _has_all_words):
        open_names = [k for k, number in enumerate(found) if number is None]
        open_classes = sorted(set(range(len(classes))) - set(found))
        pairs = [(a, b) for a in open_names for b in open_classes if is_same(names[a], classes[b])]
        times_name, times_class = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
        for a, b in pairs:
            if times_name[a] == times_class[b] == 1:
                found[a] = b
    return found


def differing(names: Sequence[str | None], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names of the same class that differ by more than case, spaces and signs.

    Args:
        names: of the classes; None for one without.
        classes: other names of the same classes.
    """
    pairs = ((name, other) for name, other in zip(names, classes, strict=True) if name is not None)
    return [(name, other) for name, other in pairs if not _same_but_for_signs(name, other)]


def _same_but_for_case(name: str, other: str) -> bool:
    return name.casefold() == other.casefold()


def _same_but_for_signs(name: str, other: str) -> bool:
    return _without_signs(name) == _without_signs(other)


def _has_all_words(name: str, other: str) -> bool:
    words, others = _words(name), _words(other)
    return bool(words and others) and (words <= others or others <= words)


@functools.cache
def _without_signs(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()) or name


@functools.cache
def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", name.casefold()))


def _side_by_side(names: Sequence[str], data: DataConfig, where: str, beside: str | None, problem: str) -> str:
    """Return a message with the names of a material beside those of the classes."""
    classes = data.label_names
    known = "trial.data.class_names" if beside is None else f"trial.{beside}"
    rows = list(zip_longest([_shown(name) for name in classes], [_shown(name) for name in names], fillvalue=""))
    width = max(len(known), *(len(left) for left, _ in rows)) if rows else len(known)
    number = len(str(len(rows)))
    lines = [f"{where}: names of its labels {problem}", f"  {'':{number}}  {known:{width}}  {where}"]
    lines += [
        f"  {k:>{number}}  {left:{width}}  {right}".rstrip() for k, (left, right) in enumerate(rows[:LISTED_NAMES])
    ]
    if len(rows) > LISTED_NAMES:
        lines.append(f"  and {len(rows) - LISTED_NAMES:,} more")
    example = f"{{{names[0]}: {classes[0]}, ...}}" if len(classes) == data.num_classes else "{FOLDER: NAME, ...}"
    lines.append(
        "Each name must be that of one class, in any order. If these are other names of the same classes, give both in "
        f"the order of the teacher's classes, as in trial.data.class_names: {plain(example)}; or say which class each "
        f"label is: {where}.label_order: [CLASS OF LABEL 0, ...]"
    )
    return "\n".join(lines)


def _shown(name: str) -> str:
    text = plain(name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."

"""Find the weights of a network in a state dict that names them differently, by what is known of such names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

COUNTER = "num_batches_tracked"
"""End of the names of batch counters, which a checkpoint may lack."""

MAX_LISTED_NAMES = 10
"""Number of names of each kind that a message lists."""

ALIASES = (
    (re.compile(r"(^|\.)(?:linear|classifier)(?=\.(?:weight|bias)$)"), r"\1fc"),
    (re.compile(r"(^|\.)(?:shortcut|convShortcut)(?=\.)"), r"\1downsample"),
    (re.compile(r"^(block\d+)\.layer(?=\.)"), r"\1"),
    (re.compile(r"^bn1(?=\.)"), "bn"),
)
"""Patterns and their replacements, which make one name of all that the data-free KD literature gives a part of a
ResNet, a wide ResNet, a VGG or a ShuffleNet: the release of CMI, DAFL, ZSKT, RepDistiller and SimKD."""


@dataclass(frozen=True)
class Match:
    """The weights of a network in a state dict with other names.

    Attributes:
        names: the network's name of a weight -> the state dict's.
        prefix: what all names of the state dict begin with, `""` if nothing.
        left_out: names of the state dict that are not of this network.
    """

    names: Mapping[str, str]
    prefix: str
    left_out: tuple[str, ...]

    def in_words(self) -> str:
        """Return what was matched, for a message."""
        parts = [f"{self.prefix!r} before every name is taken off"] if self.prefix else []
        renamed: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, str]] = {}
        for ours, theirs in self.names.items():
            bare = theirs.removeprefix(self.prefix)
            if bare != ours:
                renamed.setdefault(_difference(bare, ours), (bare, ours))
        parts += [f"{theirs} is {ours} here" for theirs, ours in renamed.values()]
        if self.left_out:
            parts.append(f"not of this network, left out: {listed_names(self.left_out)}")
        return "; ".join(parts)


def matches(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Match]:
    """Return every way in which a state dict holds all weights of a network under known names.

    Args:
        state: names to tensors, of the checkpoint.
        expected: the same of the network.

    Returns:
        Matches by prefix, those with the network's shapes alone if there are any. Names with another prefix, and single
        numbers such as `total_ops`, are left out. Empty where names are unknown or weights are missing, and where
        others that begin with the prefix are of no such network.
    """
    own = {_canonical(name): name for name in expected}
    needed = {canonical: name for canonical, name in own.items() if not name.endswith(COUNTER)}
    found: dict[str, Match] = {}
    for prefix in sorted(_prefixes(state, needed), key=len, reverse=True):  # those inside others first
        inside = tuple(name for name in found if name.startswith(prefix))
        theirs = {
            name: _canonical(name.removeprefix(prefix))
            for name in state
            if name.startswith(prefix) and not name.startswith(inside)
        }
        names = {own[canonical]: name for name, canonical in theirs.items() if canonical in own}
        taken = set(names.values())
        others = [name for name in theirs if name not in taken and state[name].numel() > 1]  # one number is a counter
        if not others and all(name in names for name in needed.values()):
            found[prefix] = Match(names, prefix, tuple(name for name in state if name not in taken))
    fitting = [
        match
        for match in found.values()
        if all(state[theirs].shape == expected[ours].shape for ours, theirs in match.names.items())
    ]
    return sorted(fitting or found.values(), key=lambda match: match.prefix)


def listed_names(names: Sequence[str]) -> str:
    """Return names for a message, the first of many."""
    return f"{', '.join(names[:MAX_LISTED_NAMES])}{', ...' if len(names) > MAX_LISTED_NAMES else ''}"


def _prefixes(state: Mapping[str, Tensor], needed: Mapping[str, str]) -> set[str]:
    """Return all that precedes the shortest name of the network at the end of a name; `""` where nothing does."""
    shortest = min(needed, key=len)
    end = shortest.rsplit(".", 1)[-1]
    names = [name for name in state if name.endswith(end)]
    return {name[:at] for name in names for at in range(len(name)) if _canonical(name[at:]) == shortest}


def _canonical(name: str) -> str:
    for pattern, replacement in ALIASES:
        name = pattern.sub(replacement, name)
    return name


def _difference(theirs: str, ours: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the parts of two names that only one of them has."""
    a, b = theirs.split("."), ours.split(".")
    return tuple(part for part in a if part not in b), tuple(part for part in b if part not in a)

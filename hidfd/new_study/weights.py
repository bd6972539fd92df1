"""Architecture, classes and channels of a teacher, found by the names and shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hidfd.config.architectures import ARCHITECTURES
from hidfd.networks.backbone import Backbone
from hidfd.networks.build import build_backbone
from hidfd.networks.weight_names import COUNTER, matches
from hidfd.networks.weights import read_state_dict


@dataclass(frozen=True)
class Fit:
    """A network of the table that has the weights of a checkpoint.

    Attributes:
        architecture: its name.
        width: channels of its first stage, where that is not as published.
        weights: what the names of its weights begin with, where the checkpoint holds several such networks; else None.
    """

    architecture: str
    width: int | None
    weights: str | None


@dataclass(frozen=True)
class TeacherFacts:
    """Architecture, classes and channels of a checkpoint's network.

    Attributes:
        fits: the networks of the table that have these weights; empty = none has.
        num_classes: K, rows of its last matrix; None if it has no matrix.
        channels: of its images; None if no convolution begins with 1 or 3 channels.
        notes: what was said while it was read, such as which of several weights were taken.
    """

    fits: tuple[Fit, ...]
    num_classes: int | None
    channels: int | None
    notes: tuple[str, ...]


def teacher_facts(path: str | Path) -> TeacherFacts:
    """Read a checkpoint and find the networks that have its weights, by names and shapes.

    Raises:
        InputError: the file holds no state dict that can be read.
    """
    notes: list[str] = []
    state = read_state_dict(path, notes.append)
    matrices = [tensor.shape for tensor in state.values() if tensor.dim() == 2]
    inputs = {tensor.shape[1] for tensor in state.values() if tensor.dim() == 4}
    channels = next((count for count in (3, 1) if count in inputs), None)
    num_classes, features = matrices[-1] if matrices else (None, 0)
    fits: list[Fit] = []
    if num_classes is not None and num_classes > 1 and channels is not None:
        for name in ARCHITECTURES:
            fits += _fits_of(name, state, num_classes, features, channels)
    return TeacherFacts(tuple(fits), num_classes, channels, tuple(notes))


def _fits_of(name: str, state: Mapping[str, Tensor], num_classes: int, features: int, channels: int) -> list[Fit]:
    """Return the ways in which a network of the table has the weights of a checkpoint.

    Args:
        features: inputs of the last matrix.
    """
    row = ARCHITECTURES[name]
    width, rest = divmod(features * row.width, row.published_feature_width)
    if rest or not width or (width != row.width and not row.has_width_setting):
        return []
    with torch.device("meta"):
        network: Backbone = build_backbone(name, num_classes=num_classes, channels=channels, width=width)
    expected, other_width = network.state_dict(), None if width == row.width else width
    ways = matches(state, expected)
    if len(ways) > 1:
        return [Fit(name, other_width, way.prefix.removesuffix(".") or None) for way in ways]
    return [Fit(name, other_width, None)] if ways or _fits_as_it_is(state, expected) else []


def _fits_as_it_is(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    needed = {name: tensor.shape for name, tensor in expected.items() if not name.endswith(COUNTER)}
    theirs = {name: tensor.shape for name, tensor in state.items() if not name.endswith(COUNTER)}
    return needed == theirs

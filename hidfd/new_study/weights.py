"""Architecture, classes and channels of a teacher, found by the names and shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hidfd.config.architectures import ARCHITECTURES
from hidfd.data.object_path import local_copy
from hidfd.networks.build import build_backbone
from hidfd.networks.weight_names import matches
from hidfd.networks.weights import read_state_dict


@dataclass(frozen=True)
class Fit:
    """A network of the table that has the weights of a checkpoint.

    Attributes:
        architecture: its name.
        width: channels of its first stage, where that is not as published.
        num_classes: K.
        channels: of its images.
        prefix: what the names of its weights begin with.
    """

    architecture: str
    width: int | None
    num_classes: int
    channels: int
    prefix: str


@dataclass(frozen=True)
class TeacherFacts:
    """Architecture, classes and channels of a checkpoint's network.

    Attributes:
        fits: the networks of the table that have these weights; empty = none has.
        num_classes: K, rows of its last matrix; None if it has no matrix of two rows or more.
        channels: of its images; None if its first convolution has neither 1 nor 3.
        weights: the key that the weights were asked for by; None = found.
        notes: what was said while it was read, such as which of several weights were taken.
    """

    fits: tuple[Fit, ...]
    num_classes: int | None
    channels: int | None
    weights: str | None
    notes: tuple[str, ...]


def teacher_facts(path: str | Path, weights: str | None = None) -> TeacherFacts:
    """Read a checkpoint and find the networks that have its weights, by names and shapes.

    Args:
        weights: the key of the weights to take, where it holds several.

    Raises:
        InputError: the file holds no state dict that can be read.
    """
    notes: list[str] = []
    with local_copy(path) as local:
        state = read_state_dict(local, notes.append, wanted=weights, setting="--weights ")
    matrices = list(dict.fromkeys(tuple(tensor.shape) for tensor in state.values() if tensor.dim() == 2))
    inputs = [tensor.shape[1] for tensor in state.values() if tensor.dim() == 4]
    channels = 3 if 3 in inputs else 1 if inputs and inputs[0] == 1 else None  # others of 1 are depthwise
    fits = [
        fit
        for num_classes, features in matrices
        for count in ((1, 3) if channels is None else (channels,))
        for name in ARCHITECTURES
        for fit in _fits_of(name, state, num_classes, features, count)
    ]
    num_classes = fits[0].num_classes if fits else matrices[-1][0] if matrices else 0
    return TeacherFacts(
        tuple(fits),
        num_classes if num_classes > 1 else None,
        fits[0].channels if fits else channels,
        weights,
        tuple(notes),
    )


def _fits_of(name: str, state: Mapping[str, Tensor], num_classes: int, features: int, channels: int) -> list[Fit]:
    """Return the ways in which a network of the table has the weights of a checkpoint.

    Args:
        features: inputs of the matrix that would be its classifier.
    """
    row = ARCHITECTURES[name]
    width, rest = divmod(features * row.width, row.published_feature_width)
    if rest or not width or num_classes < 2 or (width != row.width and not row.has_width_setting):
        return []
    with torch.device("meta"):
        network = build_backbone(name, num_classes=num_classes, channels=channels, width=width)
    expected, other_width = network.state_dict(), None if width == row.width else width
    return [
        Fit(name, other_width, num_classes, channels, match.prefix)
        for match in matches(state, expected)
        if all(state[theirs].shape == expected[ours].shape for ours, theirs in match.names.items())
    ]

"""Architecture, classes and channels of a teacher, found by the names and shapes of its weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hidfd.config.architectures import ARCHITECTURES, OWN, is_outside
from hidfd.data.object_path import local_copy
from hidfd.errors import InputError
from hidfd.formatting import meant_or_known
from hidfd.networks.build import build_backbone
from hidfd.networks.weight_names import matches
from hidfd.networks.weights import read_state_dict

ANY_CLASSES = 2
"""Number of classes with which a network is built whose classifier a checkpoint may have with another one."""


@dataclass(frozen=True)
class Fit:
    """A network of the table, or of torchvision, that has the weights of a checkpoint.

    Attributes:
        architecture: its name in a study file.
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
        fits: the networks of the table that have these weights, or those of torchvision; empty = none has.
        num_classes: K, rows of its last matrix; None if it has no matrix of two rows or more.
        channels: of its images; None if its first convolution has neither 1 nor 3.
        weights: the key that the weights were asked for by; None = found.
        notes: what was said while it was read, such as which of several weights were taken.
        mean_and_std: of the images that timm's network of this name was trained with; None where they are not known.
    """

    fits: tuple[Fit, ...]
    num_classes: int | None
    channels: int | None
    weights: str | None
    notes: tuple[str, ...]
    mean_and_std: tuple[Sequence[float], Sequence[float]] | None = None


def teacher_facts(path: str | Path, weights: str | None = None, architecture: str | None = None) -> TeacherFacts:
    """Read a checkpoint and find the networks that have its weights, by names and shapes.

    Args:
        weights: the key of the weights to take, where it holds several.
        architecture: the only network to look for, of the table, torchvision or timm; None = all but timm's.

    Raises:
        InputError: the file holds no state dict that can be read, or weights of another network than the one named.
    """
    if architecture is not None and OWN.fullmatch(architecture):
        raise InputError(f"--architecture {architecture}: write a network of your own into the study file that is made")
    if architecture is not None and architecture not in ARCHITECTURES and not is_outside(architecture):
        known = meant_or_known(architecture, ARCHITECTURES)
        raise InputError(f"--architecture {architecture}: no such network; {known}; or torchvision:NAME, timm:NAME")
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
        for name in ([architecture] if architecture in ARCHITECTURES else [] if architecture else ARCHITECTURES)
        for fit in _fits_of(name, state, num_classes, features, count)
    ]
    if architecture is not None and is_outside(architecture):
        fits = _zoo_fits(state, [architecture], channels or 3)
    elif architecture is None and not fits and channels == 3:
        fits = _zoo_fits(state, _torchvision_names(), channels)
    if architecture is not None and not fits:
        raise InputError(f"{path}: its weights have other names or shapes than those of {architecture}")
    num_classes = fits[0].num_classes if fits else matrices[-1][0] if matrices else 0
    return TeacherFacts(
        tuple(fits),
        num_classes if num_classes > 1 else None,
        fits[0].channels if fits else channels,
        weights,
        tuple(notes),
        None if architecture is None else _mean_and_std_of(architecture),
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


def _torchvision_names() -> list[str]:
    """Return the classification networks of torchvision.

    Its RegNets are left out: they compute with weights while they are built, which here have no values.
    """
    from torchvision import models  # takes as long to import as torch

    return [f"torchvision:{name}" for name in models.list_models(module=models, exclude="regnet*")]


def _zoo_fits(state: Mapping[str, Tensor], names: Sequence[str], channels: int) -> list[Fit]:
    """Return the networks among those of torchvision and timm that have the weights of a checkpoint."""
    fits: list[Fit] = []
    for name in names:
        expected, classifier = _published_weights(name, channels)
        for match in matches(state, expected):
            if not classifier or classifier[0] not in match.names:
                continue
            num_classes = len(state[match.names[classifier[0]]])
            shapes = {ours: tuple(tensor.shape) for ours, tensor in expected.items()}
            shapes |= {ours: (num_classes, *shapes[ours][1:]) for ours in classifier if ours in shapes}
            if all(tuple(state[theirs].shape) == shapes[ours] for ours, theirs in match.names.items()):
                fits.append(Fit(name, None, num_classes, channels, match.prefix))
    return fits


@functools.cache
def _published_weights(name: str, channels: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights of a network of torchvision or timm, without values, and the names of its classifier's."""
    from hidfd.networks.backbones.factories import zoo_network

    has_values = name.startswith("timm:")  # some of timm's compute with them while they are built
    with torch.device("cpu" if has_values else "meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ways to initialise what has no values here
        network = zoo_network(name, ANY_CLASSES, channels).to("meta")
    linear = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    return network.state_dict(), tuple(f"{path}.{part}" for path in linear[-1:] for part in ("weight", "bias"))


def takes_side(fit: Fit, side: int) -> bool:
    """Return whether a network of torchvision or timm takes images of a side, in pixels."""
    from hidfd.networks.backbones.factories import outside_backbone

    try:
        outside_backbone(fit.architecture, fit.num_classes, fit.channels, None, side)
    except InputError:
        return False
    return True


def published_side(architecture: str) -> int:
    """Return the side of the images that a network of torchvision or timm was published for."""
    collection, _, name = architecture.partition(":")
    if collection != "timm":
        return 224
    import timm

    known = timm.get_pretrained_cfg(name)
    return 224 if known is None else int(known.input_size[-1])


def _mean_and_std_of(architecture: str) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return mean and standard deviation of the images that timm's weights of this name were trained with."""
    collection, _, name = architecture.partition(":")
    if collection != "timm":
        return None
    import timm

    known = timm.get_pretrained_cfg(name)
    return None if known is None else (known.mean, known.std)

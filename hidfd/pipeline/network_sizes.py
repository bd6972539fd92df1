"""Sizes of the networks of a trial: from the table, or found when a network from elsewhere was built. Torch-free.

What was found is kept in the store as a record that no stage reads, so that no digest depends on it. This process
remembers it, and the files of the user's own networks (`hidfd.pipeline.known_networks`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hidfd.config.architectures import ARCHITECTURES, OWN, is_outside
from hidfd.config.schema import DistillationConfig, JudgeConfig, Material, TeacherConfig, TrialConfig
from hidfd.errors import InputError

NetworkRole = Literal["teacher", "judge", "distillation"]
"""The section of a trial that describes a network."""

NETWORK_ROLES: tuple[NetworkRole, ...] = ("teacher", "judge", "distillation")

CODE_ROLES: dict[NetworkRole, str] = {"teacher": "teacher_code", "judge": "judge_code", "distillation": "student_code"}
"""Section of a network -> role of the artifact with its file, if it is the user's own."""


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network for the images of a trial.

    Attributes:
        parameters: number of its parameters.
        feature_width: channels of its last feature map.
        feature_side_pixels: side of that map.
        forward_flops: floating-point operations of a forward pass of one image.
    """

    parameters: float
    feature_width: int
    feature_side_pixels: int
    forward_flops: float


_known: dict[str, NetworkSize] = {}
"""Canonical description of a network from elsewhere -> its size."""

_code: dict[str, str] = {}
"""sha256 of the file of a network of the user's own -> its text."""


def network_of(config: TrialConfig, role: NetworkRole) -> TeacherConfig | JudgeConfig | DistillationConfig:
    """Return the section that describes a network of a trial."""
    section: TeacherConfig | JudgeConfig | DistillationConfig | None = getattr(config, role)
    assert section is not None
    return section


def outside_networks(config: TrialConfig) -> Iterator[NetworkRole]:
    """Yield the roles of a trial's networks from elsewhere."""
    for role in NETWORK_ROLES:
        if (role != "judge" or config.is_judged) and is_outside(network_of(config, role).architecture):
            yield role


def factory_of(architecture: str) -> str:
    """Return what of a name makes a network: the function in a file that is known by its content, timm's without a tag.

    The tag in `timm:resnet50.a1_in1k` names weights, and weights are the user's.
    """
    own = OWN.fullmatch(architecture)
    if own is not None:
        return own["factory"]
    return architecture.partition(".")[0] if architecture.startswith("timm:") else architecture


def description_of(config: TrialConfig, role: NetworkRole) -> dict[str, Any]:
    """Return all that the size of a network from elsewhere depends on, as JSON types.

    The installed version of torchvision or timm is part of it: another version may build another network.
    """
    network, num_classes = network_of(config, role), config.data.num_classes
    collection = network.architecture.partition(":")[0]
    if isinstance(network, JudgeConfig):
        num_classes = network.num_classes or num_classes
    return {
        "architecture": factory_of(network.architecture),
        "code": None if network.code is None else network.code.sha256,
        "version": _version_of(collection) if network.code is None else None,
        "num_classes": num_classes,
        "channels": config.data.channels,
        "image_size_pixels": config.data.image_size_pixels,
    }


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # as on a machine that only plans


def remember_network(description: dict[str, Any], size: NetworkSize) -> None:
    """Remember the size of a network from elsewhere in this process."""
    _known[repr(sorted(description.items()))] = size


def remember_code(sha256: str, text: str) -> None:
    """Remember the file of a network of the user's own in this process."""
    _code[sha256] = text


def code_of(code: Material) -> str:
    """Return the text of the file of a network of the user's own.

    Raises:
        InputError: this process has not read it.
    """
    assert code.sha256 is not None
    if code.sha256 not in _code:
        raise InputError(f"{code.path}: sha256 {code.sha256} is not in the store; run `python -m hidfd import FILE`")
    return _code[code.sha256]


def network_size(config: TrialConfig, role: NetworkRole) -> NetworkSize | None:
    """Return the size of a network of a trial; None while that of a network from elsewhere is not known."""
    network, side = network_of(config, role), config.data.image_size_pixels
    if is_outside(network.architecture):
        return _known.get(repr(sorted(description_of(config, role).items())))
    row = ARCHITECTURES[network.architecture]
    return NetworkSize(
        1e6 * row.published_parameters * ((network.width or row.width) / row.width) ** 2,
        row.feature_width(network.width),
        row.feature_side_pixels(side),
        row.forward_flops(side, network.width),
    )


def unknown_networks(config: TrialConfig) -> list[str]:
    """Return the names of a trial's networks from elsewhere whose size is not known, each once."""
    names = (
        network_of(config, role).architecture for role in outside_networks(config) if not network_size(config, role)
    )
    return list(dict.fromkeys(names))

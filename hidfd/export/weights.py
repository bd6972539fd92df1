"""A deployed student as safetensors: its weights, and the facts from which the network around them is built again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hidfd.config.architectures import OWN
from hidfd.config.schema import Material, TrialConfig
from hidfd.data.pixels import Normalization
from hidfd.errors import InputError
from hidfd.export.network import DeployedStudent, StudentInput
from hidfd.networks.build import build_backbone
from hidfd.networks.student import Student
from hidfd.store.disk import DAMAGE

SHAPE = "student"
"""Key of the metadata of the file with a `StudentShape`."""

_CLASSIFIER = "student.shared_classifier"


@dataclass(frozen=True)
class StudentShape:
    """The facts that make a network of weights.

    Attributes:
        architecture, width: of the backbone, as the study file has them.
        num_classes: K.
        channels, image_size_pixels: of its images.
        head, teacher_map_size, last_relu: see `hidfd.networks.student.Student`.
        mean, std: of images in [0, 1], per channel.
    """

    architecture: str
    width: int | None
    num_classes: int
    channels: int
    image_size_pixels: int
    head: str
    teacher_map_size: int
    last_relu: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: TrialConfig, network: DeployedStudent) -> Self:
        """Return the shape of a trial's student."""
        student, data = network.student, config.data
        return cls(
            architecture=config.distillation.architecture,
            width=config.distillation.width,
            num_classes=data.num_classes,
            channels=data.channels,
            image_size_pixels=data.image_size_pixels,
            head=config.distillation.head,
            teacher_map_size=student.teacher_map_size,
            last_relu=student.projector is not None and isinstance(student.projector[-1], nn.ReLU),
            mean=_numbers(network.normalization.mean),
            std=_numbers(network.normalization.std),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the shape that `to_json` wrote as this."""
        return cls(**{**content, "mean": tuple(content["mean"]), "std": tuple(content["std"])})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    def build(self, state: Mapping[str, Tensor], code: Material | None = None) -> DeployedStudent:
        """Return the network with these weights.

        Args:
            state: of a `DeployedStudent`.
            code: the file of a network of the user's own.
        """
        backbone = build_backbone(
            self.architecture,
            num_classes=self.num_classes,
            channels=self.channels,
            width=self.width,
            code=code,
            image_size_pixels=self.image_size_pixels,
        )
        classifier = backbone.classifier
        if self.head == "shared":
            num_features = state[f"{_CLASSIFIER}.weight"].shape[1]
            classifier = nn.Linear(num_features, self.num_classes, bias=f"{_CLASSIFIER}.bias" in state)
        student = Student(
            backbone,
            head=self.head,
            teacher_classifier=classifier,
            teacher_map_size=self.teacher_map_size,
            last_relu=self.last_relu,
        )
        network = DeployedStudent(student, StudentInput(Normalization(self.mean, self.std), self.image_size_pixels))
        network.load_state_dict(dict(state))
        return network


def write_weights(network: DeployedStudent, shape: StudentShape, path: Path) -> None:
    """Write the weights; the metadata has the name of the architecture, and the whole shape as JSON."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", "architecture": shape.architecture, SHAPE: json.dumps(shape.to_json())}
    safetensors.torch.save_file(state, path, metadata)


def read_weights(path: Path, code: Material | None = None) -> DeployedStudent:
    """Return the network of a file that `write_weights` wrote.

    Args:
        code: the file of a network of the user's own.

    Raises:
        InputError: the file is damaged, or its network is one of the user's own and `code` is missing.
    """
    try:
        with safe_open(path, "pt") as file:
            shape = StudentShape.from_json(json.loads((file.metadata() or {})[SHAPE]))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        if code is None and OWN.fullmatch(shape.architecture):
            raise InputError(
                f"{path}: weights of a network of your own, {shape.architecture}, whose code is not with them; export "
                f"it with --format onnx or torch, which need no code"
            )
        return shape.build(state, code)
    except (SafetensorError, OSError, RuntimeError, *DAMAGE) as error:
        raise InputError(f"{path}: not the weights of an exported student ({error}); export it again") from error


def _numbers(values: Tensor) -> tuple[float, ...]:
    """Return float32 numbers in the seven digits that they have."""
    return tuple(float(f"{value:.7g}") for value in values.flatten().tolist())

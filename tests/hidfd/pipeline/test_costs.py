"""Sizes that a plan foresees, held against the networks that are built."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from hidfd.config.architectures import ARCHITECTURES
from hidfd.config.schema import TrialConfig
from hidfd.losses.feature_integration import TeacherRegressor
from hidfd.networks.build import build_backbone
from hidfd.networks.discriminator import build_discriminator
from hidfd.networks.generator import generator_of
from hidfd.pipeline.costs import checkpoint_bytes, expected_bytes


def config(size: int, channels: int, num_classes: int, teacher: str, **generation: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {
                "num_classes": num_classes,
                "channels": channels,
                "image_size_pixels": size,
                "candidates": {"path": "photos"},
            },
            "teacher": {
                "architecture": teacher,
                "checkpoint": {"path": "teacher.safetensors"},
                "mean": [0.5] * channels,
                "std": [0.5] * channels,
            },
            "generation": {"image_size_pixels": size, **generation},
        }
    )


def bytes_of(parameters: Iterable[Tensor]) -> int:
    return sum(4 * parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("trial", "hidden"),
    [
        (config(28, 1, 3, "resnet8", networks="light", width=8, latent_dim=16), 1024),
        (config(32, 3, 10, "wrn-40-2", networks="light", width=32), 1024),
        (config(32, 3, 100, "resnet34-32px", networks="residual", width=64, integration={"hidden_width": 256}), 256),
        (config(28, 1, 10, "resnet18", networks="residual", width=16), 1024),
    ],
    ids=["light-28", "light-32", "residual-32", "residual-28"],
)
def test_last_checkpoint_of_a_generator_is_foreseen_with_both_networks_and_both_optimisers(
    trial: TrialConfig, hidden: int
) -> None:
    settings, data = trial.generation, trial.data
    with torch.device("meta"):
        generator = generator_of(settings, data)
        discriminator = build_discriminator(
            settings.networks,
            image_size_pixels=settings.image_size_pixels,
            width=settings.width,
            num_classes=data.num_classes,
            channels=data.channels,
        )
        teacher = build_backbone(trial.teacher.architecture, num_classes=data.num_classes, channels=data.channels)
        regressor = TeacherRegressor(discriminator.feature_width, hidden, teacher.feature_width)
    of_g = bytes_of(generator.parameters())
    of_d = bytes_of(discriminator.parameters()) + bytes_of(regressor.parameters())
    assert expected_bytes(trial)["generation"] == of_g
    assert checkpoint_bytes(trial) == (of_g + of_g + 2 * of_g) + (of_d + 2 * of_d)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_width_of_the_features_is_that_of_the_network(architecture: str) -> None:
    with torch.device("meta"):
        network = build_backbone(architecture, num_classes=3, channels=3)
    assert ARCHITECTURES[architecture].feature_width() == network.feature_width

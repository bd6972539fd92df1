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
from hidfd.pipeline.costs import bank_bytes, checkpoint_bytes, expected_bytes


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
        (config(64, 3, 10, "resnet18", networks="light", width=16), 1024),
        (config(64, 3, 10, "resnet18", networks="residual", width=24, attention=True), 1024),
    ],
    ids=["light-28", "light-32", "residual-32", "residual-28", "light-64", "residual-64-attention"],
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
            has_attention=settings.attention,
        )
        teacher = build_backbone(trial.teacher.architecture, num_classes=data.num_classes, channels=data.channels)
        regressor = TeacherRegressor(discriminator.feature_width, hidden, teacher.feature_width)
    of_g = bytes_of(generator.parameters())
    of_d = bytes_of(discriminator.parameters()) + bytes_of(regressor.parameters())
    assert expected_bytes(trial)["generation"] == of_g
    assert checkpoint_bytes(trial) == (of_g + of_g + 2 * of_g) + (of_d + 2 * of_d)


def test_bank_of_views_is_foreseen_with_a_map_of_each_view_and_no_longer_than_the_student() -> None:
    trial = config(28, 1, 10, "resnet14")
    assert bank_bytes(trial) == 0  # views are drawn anew
    with torch.device("meta"):
        teacher = build_backbone("resnet14", num_classes=10, channels=1).eval()
        of_a_view = 28 * 28 + 4 * teacher.forward_map(torch.empty(1, 1, 28, 28)).numel()
    for target_images, views in ((6_400, 4_000), (320, 320)):
        student = {"view_bank": 4_000, "target_images": target_images, "batch_images": 32}
        banked = trial.model_copy(update={"distillation": trial.distillation.model_copy(update=student)})
        assert bank_bytes(banked) == views * of_a_view


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_width_of_the_features_is_that_of_the_network(architecture: str) -> None:
    with torch.device("meta"):
        network = build_backbone(architecture, num_classes=3, channels=3)
    assert ARCHITECTURES[architecture].feature_width() == network.feature_width


@pytest.mark.parametrize("size_pixels", [28, 32, 45, 64, 224])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_side_of_the_features_is_that_of_the_network(architecture: str, size_pixels: int) -> None:
    with torch.device("meta"):
        network = build_backbone(architecture, num_classes=3, channels=3)
        feature_map = network.eval().forward_map(torch.empty(1, 3, size_pixels, size_pixels))
    assert ARCHITECTURES[architecture].feature_side_pixels(size_pixels) == feature_map.shape[-1]

"""Every network of the table goes the whole way: it learns as a teacher, and as a student that is then exported."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hidfd.config.architectures import ARCHITECTURES
from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.image_set import ImageSet
from hidfd.distributed.device import Device
from hidfd.export import DeployedStudent
from hidfd.networks.teacher import Teacher
from hidfd.stages.distillation import StudentTraining
from hidfd.stages.teacher import TeacherTraining

CPU = Device(torch.device("cpu"), "fp32")
SHA256 = "a" * 64
NUM_CLASSES, BATCH = 5, 3

LARGE_FLOPS = 0.6e9
"""Operations of one image above which a network is left to `make test`."""


def side_of(architecture: str) -> int:
    """Return the side of the images: the native one, or 64 for networks of 224 px, whose last maps are 2 x 2 then."""
    return min(64, ARCHITECTURES[architecture].native_size_pixels)


def config_of(architecture: str) -> TrialConfig:
    step = {"batch_images": BATCH, "target_images": 8 * BATCH, "learning_rate": 1e-3}
    train = step | {"images": {"sha256": SHA256}, "warmup_fraction": 0}
    return TrialConfig.model_validate(
        {
            "data": {
                "num_classes": NUM_CLASSES,
                "image_size_pixels": side_of(architecture),
                "candidates": {"sha256": SHA256},
            },
            "teacher": {"architecture": architecture, "train": train},
            "distillation": step | {"architecture": architecture},
            "synthesis": {"num_images": 0},
        }
    )


def step_of(training: TeacherTraining | StudentTraining, network: nn.Module, loss: str) -> None:
    """Take one step, and check that its loss is a number and that every weight that learns has moved."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # else one step leaves statistics that are far from the activations'
    before = {name: weight.detach().clone() for name, weight in network.named_parameters() if weight.requires_grad}
    assert training.step(0)[loss].isfinite()
    still = [name for name, weight in network.named_parameters() if weight.requires_grad and weight.equal(before[name])]
    assert not still
    assert all(weight.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[pytest.mark.slow] if row.forward_flops(side_of(name)) > LARGE_FLOPS else [])
        for name, row in ARCHITECTURES.items()
    ],
)
def test_network_learns_as_teacher_and_as_student_and_is_exported(architecture: str) -> None:
    config, side, draws = config_of(architecture), side_of(architecture), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * BATCH, 3, side, side), generator=draws, dtype=torch.uint8)
    labels = torch.arange(2 * BATCH) % NUM_CLASSES

    taught = TeacherTraining(config, ImageSet(pixels.numpy(), labels.numpy(), np.zeros(0, np.uint64), ()), CPU)
    step_of(taught, taught.backbone, "cross_entropy")
    teacher = Teacher(taught.backbone, taught.mean, taught.std, side).on(CPU)

    collection = Collection(pixels, labels, pixels[:BATCH], torch.ones(BATCH, dtype=torch.bool))
    training = StudentTraining(config, collection, None, teacher, CPU)
    step_of(training, training.student, "total")

    deployed = DeployedStudent(training.student, teacher)
    image_unit = torch.rand(2, 3, side, side, generator=draws)
    program = torch.export.export(deployed, (image_unit,))
    logits: Tensor = program.module()(image_unit)
    assert logits.shape == (2, NUM_CLASSES)
    torch.testing.assert_close(logits, deployed(image_unit))

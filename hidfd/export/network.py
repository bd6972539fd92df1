"""The deployed student: one network that takes images as they are, in [0, 1], and needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import Normalization, resize_unit
from hidfd.distributed.device import resolve_device
from hidfd.networks.student import Student, load_student
from hidfd.networks.teacher import Teacher, load_teacher
from hidfd.pipeline.graph import plan
from hidfd.pipeline.known_networks import recall_networks
from hidfd.store.store import Store

FAR_FROM_UNIT = "student: images must be in [0, 1]; divide uint8 ones by 255, and do not normalise: that is done inside"


@dataclass(frozen=True)
class StudentInput:
    """The normalisation and the size of the images that a student was trained with, where its teacher is not there."""

    normalization: Normalization
    image_size_pixels: int


class DeployedStudent(nn.Module):
    """A student behind the one normalisation of its teacher; the backbone's own classifier is removed if it is unused.

    Args:
        student: finished.
        teacher: whose normalisation and image size it was trained with.
    """

    def __init__(self, student: Student, teacher: Teacher | StudentInput) -> None:
        super().__init__()
        self.normalization = teacher.normalization
        self.image_size_pixels = teacher.image_size_pixels
        self.student = student
        if student.projector is not None:
            student.backbone.drop_classifier()
        self.requires_grad_(False)
        self.eval()

    def forward(self, image_unit: Tensor) -> Tensor:
        """Return the logits, `b x K`, of images `b x c x h x w` in [0, 1].

        Raises:
            RuntimeError: the images are far from [0, 1]; exported to ONNX, the logits are NaN instead.
        """
        # An exported network has no signature: it would give some logits for uint8 and for normalised images as well.
        # ONNX has no assertions, so there the logits are NaN; it translates `max`, and no `amax` over all dimensions.
        is_unit = (image_unit - 0.5).abs().max() <= 1.0
        torch._assert_async(is_unit, FAR_FROM_UNIT)
        image_normalised = self.normalization(resize_unit(image_unit, self.image_size_pixels))
        logits: Tensor = self.student(image_normalised).logits
        return torch.where(is_unit, logits, torch.nan)


def deployed_student(config: TrialConfig, store: Store) -> DeployedStudent:
    """Return the finished student of a trial, on the CPU.

    Args:
        config: with the sha256 of every material.
        store: that holds its teacher and its student.

    Raises:
        StoreError: the store lacks one of them.
    """
    recall_networks(config, store)
    device, stages = resolve_device("cpu", "fp32"), plan(config)
    teacher_stage, student_stage = stages["teacher"], stages["distillation"]
    teacher = load_teacher(store.get(teacher_stage.name, teacher_stage.digest), config, device)
    student = load_student(store.get(student_stage.name, student_stage.digest), config, teacher, device)
    network = DeployedStudent(student, teacher)
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # it was trained in channels_last, and is kept contiguous
    return network

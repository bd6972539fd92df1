"""Classifier sharing and feature alignment: the student learns the teacher's last feature map and uses its head.

**Source**: paper Eq. 14, in the form of SimKD (Chen et al. 2022). Plain KD (own head, KL only) is the control.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.networks.backbone import Backbone, num_parameters
from hidfd.networks.build import build_backbone
from hidfd.networks.teacher import Teacher, asked_at_once
from hidfd.networks.weights import load_safetensors
from hidfd.pipeline.watch import images_done
from hidfd.store.store import Artifact


class Projector(nn.Sequential):
    """Student map to teacher map: conv1x1 s->t/2, BN, ReLU, conv3x3, BN, ReLU, conv1x1 ->t, BN and, by default, ReLU.

    Args:
        student_width: s, channels of the student's map.
        teacher_width: t, channels of the teacher's map.
        last_relu: False for teachers whose maps go below zero.
    """

    def __init__(self, student_width: int, teacher_width: int, *, last_relu: bool = True) -> None:
        middle = max(1, teacher_width // 2)
        layers: list[nn.Module] = [
            nn.Conv2d(student_width, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, teacher_width, 1, bias=False),
            nn.BatchNorm2d(teacher_width),
        ]
        if last_relu:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


@dataclass(frozen=True)
class StudentOutput:
    """The outputs of a student for a batch.

    Attributes:
        logits: `b x K`.
        projected: `b x t x h x w`, the student's map in the teacher's space; None with an own head.
    """

    logits: Tensor
    projected: Tensor | None


class Student(nn.Module):
    """The deployed student: trunk + projector + the teacher's frozen classifier, or trunk + own head (plain KD).

    Args:
        backbone: the trunk with its own classifier, which `shared` removes.
        head: `shared` or `own`.
        teacher_classifier: the teacher's last linear layer; copied and frozen for `shared`.
        teacher_map_size: side of the teacher's last map; a larger student map is pooled to it before the projector.
        last_relu: see `Projector`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        head: str,
        teacher_classifier: nn.Linear,
        teacher_map_size: int,
        last_relu: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.teacher_map_size = teacher_map_size
        self.projector: Projector | None = None
        self.shared_classifier: nn.Linear | None = None
        if head == "shared":
            self.projector = Projector(backbone.feature_width, teacher_classifier.in_features, last_relu=last_relu)
            self.shared_classifier = copy.deepcopy(teacher_classifier).requires_grad_(False)
            backbone.classifier.requires_grad_(False)  # not part of the deployed student

    def forward(self, image_normalised: Tensor) -> StudentOutput:
        """Classify images, `b x c x h x w` in the teacher's normalised space."""
        feature_map = self.backbone.forward_map(image_normalised)
        if self.projector is None or self.shared_classifier is None:
            return StudentOutput(self.backbone.classifier(feature_map.mean(dim=(2, 3))), None)
        if feature_map.shape[-1] > self.teacher_map_size:
            feature_map = F.adaptive_avg_pool2d(feature_map, self.teacher_map_size)
        projected = self.projector(feature_map)
        return StudentOutput(self.shared_classifier(projected.mean(dim=(2, 3))), projected)

    def num_deployed_parameters(self) -> int:
        """Number of parameters that are deployed: with a shared head, without the backbone's own classifier."""
        total = num_parameters(self)
        if self.projector is not None:
            total -= num_parameters(self.backbone.classifier)
        return total

    def num_plain_parameters(self) -> int:
        """Number of parameters of the backbone with a classifier of its own."""
        return num_parameters(self.backbone)


@torch.no_grad()
def student_logits(
    student: Student, teacher: Teacher, images_uint8: Tensor, device: Device, batch_images: int | None = None
) -> Tensor:
    """Return the logits of unaugmented images, `n x K` float32 on the CPU; the student is left in eval mode.

    Args:
        batch_images: images at a time; None = see `hidfd.networks.teacher.asked_at_once`.

    Raises:
        Stopped: whoever watches asked for it (`hidfd.pipeline.watch`).
    """
    student.eval()
    parts = []
    for batch in torch.split(images_uint8, batch_images or asked_at_once(teacher.image_size_pixels, device)):
        with device.autocast():
            output = student(teacher.normalised(unit_from_uint8(device.images(batch))))
        parts.append(output.logits.float())
        images_done(len(batch))
    return torch.cat(parts).cpu()


def build_student(config: TrialConfig, teacher: Teacher, teacher_map_size: int, *, last_relu: bool) -> Student:
    """Build the student that the study file describes, with fresh weights."""
    return Student(
        build_student_backbone(config),
        head=config.distillation.head,
        teacher_classifier=teacher.backbone.classifier,
        teacher_map_size=teacher_map_size,
        last_relu=last_relu,
    )


def build_student_backbone(config: TrialConfig) -> Backbone:
    """Build the student's network that the study file describes, with fresh weights."""
    settings = config.distillation
    return build_backbone(
        settings.architecture,
        num_classes=config.data.num_classes,
        channels=config.data.channels,
        width=settings.width,
        code=settings.code,
        image_size_pixels=config.data.image_size_pixels,
    )


def load_student(artifact: Artifact, config: TrialConfig, teacher: Teacher, device: Device) -> Student:
    """Load the finished student of a trial, in eval mode on the device."""
    meta = artifact.meta
    with artifact.reading():
        student = build_student(config, teacher, int(meta["teacher_map_size"]), last_relu=meta["last_relu"])
        student.load_state_dict(load_safetensors(artifact.path("student.safetensors")))
    return device.module(student).eval()

"""The frozen teacher of every later stage: one normalisation, features, logits, and a head to share."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import Normalization, resize_unit, unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import stream
from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone
from hidfd.networks.build import build_backbone
from hidfd.networks.weights import load_safetensors
from hidfd.pipeline.watch import images_done
from hidfd.store.store import Artifact

CONTRACT_TOLERANCE = 1e-4
"""Largest difference of classifier(pool(map)) from the network's own logits at which its head can be shared. Both are
computed by the network as it was given: folding its batch norms rounds differently, by more than this if logits are
large."""

ASKED_IMAGES = 500
"""Number of images that a network is asked about at once, at most."""

MAX_REMEMBERED = 8
"""Number of image sets whose logits a process remembers."""

_remembered: dict[tuple[str, str, str], Tensor] = {}
"""(digest of the teacher, device, sha256 of the images) -> logits, the oldest first."""


class _MapNetwork(nn.Module):
    """A backbone up to its last map, as a network of its own."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image_normalised: Tensor) -> Tensor:
        return self.backbone.forward_map(image_normalised)


@dataclass(frozen=True)
class TeacherOutput:
    """The outputs of the teacher for a batch.

    Attributes:
        feature_map: `b x t x h x w`, its last map f_t.
        pooled: `b x t`, the penultimate feature t(x).
        logits: `b x K`.
    """

    feature_map: Tensor
    pooled: Tensor
    logits: Tensor


class Teacher(nn.Module):
    """A frozen backbone behind its one normalisation. Gradients flow through it to images, never into it.

    Args:
        backbone: with its weights. Where its layers can be traced, its batch norms are folded into its convolutions.
        mean, std: of unit images, per channel.
        image_size_pixels: side of the images it sees; others are resized (differentiably).
        digest: of its artifact, if it has one.
    """

    def __init__(
        self,
        backbone: Backbone,
        mean: Sequence[float],
        std: Sequence[float],
        image_size_pixels: int,
        digest: str | None = None,
    ) -> None:
        super().__init__()
        self.digest = digest
        self.backbone = backbone.eval()
        network = _MapNetwork(backbone)
        self.map_network = fuse(network) if backbone.can_be_folded else copy.deepcopy(network)
        self.normalization = Normalization(mean, std)
        self.image_size_pixels = image_size_pixels
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode, whatever is asked for: a teacher's statistics never move."""
        return super().train(False)

    def on(self, device: Device) -> Teacher:
        """Move it to the device that it answers on; its own weights stay in fp32, for heads that are shared."""
        device.frozen(self.map_network)
        return device.module(self)

    def normalised(self, image_unit: Tensor) -> Tensor:
        """Resize and normalise unit images of any side to what the teacher and its student see."""
        normalised: Tensor = self.normalization(resize_unit(image_unit, self.image_size_pixels))
        return normalised

    def ask(self, image_normalised: Tensor) -> TeacherOutput:
        """Return the outputs for images that `normalised` has prepared."""
        feature_map: Tensor = self.map_network(image_normalised)
        pooled = feature_map.mean(dim=(2, 3))
        return TeacherOutput(feature_map, pooled, self.backbone.classifier(pooled))

    def forward(self, image_unit: Tensor) -> TeacherOutput:
        """Return the outputs for unit images, `b x c x h x w` in [0, 1]."""
        return self.ask(self.normalised(image_unit))

    @torch.no_grad()
    def ask_all(self, images_uint8: Tensor, device: Device, batch_images: int | None = None) -> TeacherOutput:
        """Return pooled features and logits of many images, float32 on the CPU; `feature_map` is left empty.

        Args:
            batch_images: images at a time; None = see `asked_at_once`.

        Raises:
            Stopped: whoever watches asked for it (`hidfd.pipeline.watch`).
        """
        pooled, logits = [], []
        for batch in torch.split(images_uint8, batch_images or asked_at_once(self.image_size_pixels, device)):
            with device.autocast():
                output = self(unit_from_uint8(device.images(batch)))
            pooled.append(output.pooled.float())
            logits.append(output.logits.float())
            images_done(len(batch))
        return TeacherOutput(torch.empty(0), torch.cat(pooled).cpu(), torch.cat(logits).cpu())

    def logits_of(self, images_uint8: Tensor, device: Device) -> Tensor:
        """Return the logits of a set that one student after another is judged on; a process computes them once.

        Args:
            images_uint8: `n x c x h x w` on the CPU.

        Returns:
            `n x K` float32 on the CPU, as `ask_all` gives them; not to be changed in place.
        """
        if self.digest is None:
            return self.ask_all(images_uint8, device).logits
        content = hashlib.sha256(images_uint8.contiguous().numpy().tobytes()).hexdigest()
        key = self.digest, device.description, content
        if key in _remembered:
            images_done(len(images_uint8))
        else:
            while len(_remembered) >= MAX_REMEMBERED:
                del _remembered[next(iter(_remembered))]
            _remembered[key] = self.ask_all(images_uint8, device).logits
        return _remembered[key]


def asked_at_once(image_size_pixels: int, device: Device) -> int:
    """Return how many images a network is asked about at once.

    A GPU gets 500. A CPU gets as many large images as have the pixels of 500 with 32, so that it can be stopped within
    seconds.
    """
    if device.torch_device.type != "cpu":
        return ASKED_IMAGES
    return max(1, min(ASKED_IMAGES, ASKED_IMAGES * 32**2 // image_size_pixels**2))


def load_teacher(artifact: Artifact, config: TrialConfig, device: Device) -> Teacher:
    """Load the teacher of a trial onto the device.

    Raises:
        InputError: its classifier cannot be shared (see `CONTRACT_TOLERANCE`) though the student asks for it.
    """
    backbone = build_teacher_backbone(config)
    size = config.data.image_size_pixels
    with artifact.reading():
        backbone.load_state_dict(load_safetensors(artifact.path("weights.safetensors")))
        teacher = Teacher(backbone, artifact.meta["mean"], artifact.meta["std"], size, artifact.digest)
    if config.distillation.head == "shared":
        check_shareable(teacher, config)
    return teacher.on(device)


def load_judge(artifact: Artifact, config: TrialConfig, device: Device) -> Teacher:
    """Load the judge of a trial onto the device: a network like a teacher, from which nothing learns."""
    backbone = build_judge_backbone(config)
    with artifact.reading():
        backbone.load_state_dict(load_safetensors(artifact.path("weights.safetensors")))
    mean, std = artifact.meta["mean"], artifact.meta["std"]
    return Teacher(backbone, mean, std, config.data.image_size_pixels, artifact.digest).on(device)


@torch.no_grad()
def check_shareable(teacher: Teacher, config: TrialConfig) -> None:
    """Check that classifier(pool(f_t)) gives the network's own logits, as an MLP head does not.

    Raises:
        InputError: it does not; the message says what to set instead.
    """
    size = config.data.image_size_pixels
    backbone = teacher.backbone
    probe = torch.randn(2, config.data.channels, size, size, generator=stream(0, "teacher", "probe"))
    shared = backbone.classifier(backbone.forward_map(probe).mean(dim=(2, 3)))
    difference = (shared - backbone(probe)).abs().max().item()
    if not difference <= CONTRACT_TOLERANCE:
        raise InputError(
            f"trial.teacher.architecture {config.teacher.architecture}: its classifier on the pooled last map differs "
            f"from its own logits by {difference:.2g} (at most {CONTRACT_TOLERANCE:g}), so it cannot be shared; "
            f"set trial.distillation.head=own, trial.distillation.feature_weight=0 and trial.distillation.kl_weight=1"
        )


def build_teacher_backbone(config: TrialConfig) -> Backbone:
    """Build the teacher's network that the study file describes, with fresh weights."""
    return build_backbone(
        config.teacher.architecture,
        num_classes=config.data.num_classes,
        channels=config.data.channels,
        width=config.teacher.width,
        code=config.teacher.code,
        image_size_pixels=config.data.image_size_pixels,
    )


def build_judge_backbone(config: TrialConfig) -> Backbone:
    """Build the judge's network that the study file describes, with fresh weights."""
    assert config.judge is not None
    return build_backbone(
        config.judge.architecture,
        num_classes=config.judge.num_classes or config.data.num_classes,
        channels=config.data.channels,
        width=config.judge.width,
        code=config.judge.code,
        image_size_pixels=config.data.image_size_pixels,
    )

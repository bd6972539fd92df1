"""Build a teacher's or a student's network by the name of its architecture (`hidfd.config.architectures`)."""

from __future__ import annotations

from hidfd.config.architectures import ARCHITECTURES, Architecture, is_outside
from hidfd.config.schema import Material
from hidfd.networks.backbone import Backbone
from hidfd.networks.backbones.cifar_resnet import CifarResNet
from hidfd.networks.backbones.shufflenet import ShuffleNetV1
from hidfd.networks.backbones.vgg import VGG
from hidfd.networks.backbones.wide_resnet import WideResNet


def build_backbone(
    architecture: str,
    *,
    num_classes: int,
    channels: int,
    width: int | None = None,
    code: Material | None = None,
    image_size_pixels: int = 32,
) -> Backbone:
    """Build a network with fresh weights.

    Args:
        architecture: a name of `hidfd.config.architectures`, or of a network from elsewhere.
        num_classes: K.
        channels: of its images, 1 or 3.
        width: channels of the first stage, for families with a width setting.
        code: the file of a network of the user's own.
        image_size_pixels: side of the images that a network from elsewhere is tried with.

    Raises:
        InputError: a network from elsewhere cannot be built, or has no classifier that can be told from its features.
    """
    if is_outside(architecture):
        from hidfd.networks.backbones.factories import outside_backbone  # imports torchvision or timm

        return outside_backbone(architecture, num_classes, channels, code, image_size_pixels)
    known: Architecture = ARCHITECTURES[architecture]
    match known.family:
        case "resnet-cifar":
            return CifarResNet(known.depth, width or known.width, num_classes, channels)
        case "resnet-cifar-x4":
            return CifarResNet(known.depth, known.width, num_classes, channels, stem_width=known.width // 2)
        case "wrn":
            return WideResNet(known.depth, known.widen, num_classes, channels)
        case "vgg":
            return VGG(known.depth, num_classes, channels)
        case "shufflenetv1":
            return ShuffleNetV1(num_classes, channels)
        case _:
            return _torchvision_backbone(known, num_classes, channels)


def _torchvision_backbone(known: Architecture, num_classes: int, channels: int) -> Backbone:
    from hidfd.networks.backbones import torchvision_networks as networks  # takes as long to import as torch

    small_stem = known.native_size_pixels == 32
    match known.family:
        case "resnet-torchvision":
            return networks.TorchvisionResNet(known.depth, num_classes, channels, small_stem=small_stem)
        case "mobilenetv2":
            return networks.TorchvisionMobileNetV2(num_classes, channels, small_stem=small_stem)
        case "shufflenetv2":
            return networks.TorchvisionShuffleNetV2(num_classes, channels, small_stem=small_stem)
    raise AssertionError(f"no builder of {known.family}")

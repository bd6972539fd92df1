"""Build a teacher's or a student's network by the name of its architecture (`hidfd.config.architectures`)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.config.architectures import ARCHITECTURES, Architecture
from hidfd.networks.backbone import Backbone, init_kaiming
from hidfd.networks.layers import thin_out


class CifarResNet(Backbone):
    """ResNet-(6n+2) for 32-px images: three stages of n basic blocks, width 16-32-64.

    Shortcuts are 1x1 convolutions where shapes change.

    **Source**: He et al. 2016, section 4.2, with projection shortcuts as in the distillation literature.
    """

    def __init__(self, depth: int, width: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(_BasicBlock, blocks, width, width, stride=1)
        self.layer2 = _stage(_BasicBlock, blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(_BasicBlock, blocks, 2 * width, 4 * width, stride=2)
        self.feature_width = 4 * width
        self.fc = nn.Linear(self.feature_width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(image_normalised)), inplace=True)
        feature_map: Tensor = self.layer3(self.layer2(self.layer1(features)))
        return feature_map


class WideResNet(Backbone):
    """WRN-depth-widen for 32-px images: pre-activation blocks; the map is taken after the final BN and ReLU.

    **Source**: Zagoruyko & Komodakis 2016.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(_PreActivationBlock, blocks, 16, widths[0], stride=1)
        self.block2 = _stage(_PreActivationBlock, blocks, widths[0], widths[1], stride=2)
        self.block3 = _stage(_PreActivationBlock, blocks, widths[1], widths[2], stride=2)
        self.bn = nn.BatchNorm2d(widths[2])
        self.feature_width = widths[2]
        self.fc = nn.Linear(self.feature_width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(self.conv1(image_normalised))))
        return F.relu(self.bn(features), inplace=True)


class _BasicBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        # The shortcut sees every `stride`-th pixel; the stride is not the 1x1 convolution's own, because oneDNN's
        # backward pass of a strided 1x1 in channels_last writes beyond its memory below 8 channels (torch 2.15).
        self.stride = stride
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual.add_(self.downsample(thin_out(features, self.stride))), inplace=True)


class _PreActivationBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.stride = stride  # the shortcut's input is thinned out, see `_BasicBlock`
        self.shortcut = nn.Conv2d(in_width, width, 1, bias=False) if in_width != width else None

    def forward(self, features: Tensor) -> Tensor:
        activated = F.relu(self.bn1(features), inplace=True)
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        shortcut = features
        if self.shortcut is not None:
            shortcut = self.shortcut(thin_out(activated, self.stride))
        total: Tensor = residual.add_(shortcut)
        return total


def build_backbone(architecture: str, *, num_classes: int, channels: int, width: int | None = None) -> Backbone:
    """Build a network with fresh weights.

    Args:
        architecture: a name of `hidfd.config.architectures`.
        num_classes: K.
        channels: of its images, 1 or 3.
        width: channels of the first stage, for families with a width setting.
    """
    known: Architecture = ARCHITECTURES[architecture]
    match known.family:
        case "resnet-cifar":
            return CifarResNet(known.depth, width or known.width, num_classes, channels)
        case "wrn":
            return WideResNet(known.depth, known.widen, num_classes, channels)
        case "resnet-torchvision" | "resnet-torchvision-32px":
            from hidfd.networks.torchvision_resnet import (
                TorchvisionResNet,
            )  # importing it takes as long as importing torch

            return TorchvisionResNet(known.depth, num_classes, channels, small_stem=known.family.endswith("32px"))


def _stage(
    block: type[_BasicBlock] | type[_PreActivationBlock], blocks: int, in_width: int, width: int, *, stride: int
) -> nn.Sequential:
    first = block(in_width, width, stride)
    return nn.Sequential(first, *(block(width, width, 1) for _ in range(blocks - 1)))

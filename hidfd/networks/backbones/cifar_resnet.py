"""ResNets for 32-px images: those of He et al. 2016, and the wider ones of the distillation literature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.networks.backbone import Backbone, init_kaiming
from hidfd.networks.layers import thin_out


class CifarResNet(Backbone):
    """ResNet-(6n+2): three stages of n basic blocks, whose channels double from stage to stage.

    Shortcuts are 1x1 convolutions where shapes change.

    Args:
        depth: 6n+2.
        width: channels of the first stage; 16 as published.
        stem_width: channels of the first convolution; None = `width`.

    **Source**: He et al. 2016, section 4.2, with projection shortcuts as in the distillation literature; the x4
    networks (widths 64-128-256 behind 32 channels) Tian et al. 2020.
    """

    def __init__(
        self, depth: int, width: int, num_classes: int, channels: int, *, stem_width: int | None = None
    ) -> None:
        super().__init__()
        blocks, stem_width = (depth - 2) // 6, stem_width or width
        self.conv1 = nn.Conv2d(channels, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.layer1 = _stage(blocks, stem_width, width, stride=1)
        self.layer2 = _stage(blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.feature_width = 4 * width
        self.fc = nn.Linear(self.feature_width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(image_normalised)), inplace=True)
        feature_map: Tensor = self.layer3(self.layer2(self.layer1(features)))
        return feature_map


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


def _stage(blocks: int, in_width: int, width: int, *, stride: int) -> nn.Sequential:
    first = _BasicBlock(in_width, width, stride)
    return nn.Sequential(first, *(_BasicBlock(width, width, 1) for _ in range(blocks - 1)))

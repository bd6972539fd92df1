"""ShuffleNet (the first version) for 32-px images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.networks.backbone import Backbone, init_kaiming

GROUPS = 3
"""Groups of the 1x1 convolutions."""

STEM_WIDTH = 24
STAGES = ((240, 4), (480, 8), (960, 4))
"""Channels and blocks of each stage."""


class ShuffleNetV1(Backbone):
    """ShuffleNet 1x with 3 groups: three stages, each begins by halving the map.

    **Source**: Zhang et al. 2018, Table 1; the 1x1 stem without a pool, for 32-px images, Tian et al. 2020.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        width = STEM_WIDTH
        stages: list[nn.Module] = []
        for stage_width, blocks in STAGES:
            first = _ShuffleBlock(width, stage_width - width, halves=True, groups=1 if width == STEM_WIDTH else GROUPS)
            later = (_ShuffleBlock(stage_width, stage_width, halves=False, groups=GROUPS) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *later))
            width = stage_width
        self.layer1, self.layer2, self.layer3 = stages
        self.feature_width = width
        self.fc = nn.Linear(width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(image_normalised)), inplace=True)
        feature_map: Tensor = self.layer3(self.layer2(self.layer1(features)))
        return feature_map


class _ShuffleBlock(nn.Module):
    """A bottleneck of grouped 1x1 convolutions. One that halves puts its input, pooled, beside what it computes.

    Args:
        in_width: channels of its input.
        width: channels that it computes.
        halves: whether it halves the map.
        groups: of its first convolution; the last one has `GROUPS`.
    """

    def __init__(self, in_width: int, width: int, *, halves: bool, groups: int) -> None:
        super().__init__()
        middle = width // 4
        self.conv1 = nn.Conv2d(in_width, middle, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.shuffle = nn.ChannelShuffle(groups)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=2 if halves else 1, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, width, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.halves = halves

    def forward(self, features: Tensor) -> Tensor:
        residual = self.shuffle(F.relu(self.bn1(self.conv1(features)), inplace=True))
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        if self.halves:
            pooled = F.avg_pool2d(features, 3, stride=2, padding=1)
            return F.relu(torch.cat([residual, pooled], dim=1), inplace=True)
        return F.relu(residual.add_(features), inplace=True)

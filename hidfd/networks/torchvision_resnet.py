"""torchvision's ResNets as backbones, kept apart because importing torchvision takes as long as importing torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from hidfd.networks.backbone import Backbone, init_kaiming


class TorchvisionResNet(ResNet, Backbone):  # type: ignore[misc]  # torchvision has no stubs
    """torchvision's basic-block ResNet, whose state dicts load unchanged; `small_stem` for 32-px images."""

    def __init__(self, depth: int, num_classes: int, channels: int, *, small_stem: bool) -> None:
        layers = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}[depth]
        super().__init__(BasicBlock, layers, num_classes=num_classes)
        self.feature_width = 512
        if small_stem:
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features: Any = self.maxpool(self.relu(self.bn1(self.conv1(image_normalised))))  # type: ignore[operator]  # likewise
        feature_map: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(features))))  # type: ignore[operator]  # likewise
        return feature_map

    def forward(self, image_normalised: Tensor) -> Tensor:
        """Return the logits of torchvision's own forward pass, which the classifier contract is checked against."""
        logits: Tensor = super().forward(image_normalised)
        return logits

"""torchvision's networks as backbones, kept apart because importing torchvision takes as long as importing torch.

Their forward pass is torchvision's own, against which the contract of the classifier is checked. With `small_stem`
they are those of the CIFAR literature: a 3x3 stem of stride 1 without a pool, for 32-px images.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet, ShuffleNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck

from hidfd.networks.backbone import Backbone, init_kaiming

RESNETS: dict[int, tuple[type[nn.Module], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}
"""Depth -> block, and number of blocks in each stage."""


class TorchvisionResNet(ResNet, Backbone):  # type: ignore[misc]  # torchvision has no stubs
    """torchvision's ResNet, whose state dicts load unchanged."""

    def __init__(self, depth: int, num_classes: int, channels: int, *, small_stem: bool) -> None:
        block, layers = RESNETS[depth]
        super().__init__(block, layers, num_classes=num_classes)
        self.feature_width = self.classifier.in_features
        if small_stem:
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        parts: Any = self
        features = parts.maxpool(parts.relu(parts.bn1(parts.conv1(image_normalised))))
        feature_map: Tensor = parts.layer4(parts.layer3(parts.layer2(parts.layer1(features))))
        return feature_map


class TorchvisionMobileNetV2(MobileNetV2, Backbone):  # type: ignore[misc]  # likewise
    """torchvision's MobileNetV2, without its dropout. The small stem leaves out the first two halvings."""

    def __init__(self, num_classes: int, channels: int, *, small_stem: bool) -> None:
        super().__init__(num_classes=num_classes)
        self.feature_width = self.classifier.in_features
        self.classifier.__dict__["1"] = self.classifier  # torch.export asks for its path, `classifier.1`
        parts: Any = self
        if small_stem or channels != 3:
            parts.features[0][0] = nn.Conv2d(channels, 32, 3, stride=1 if small_stem else 2, padding=1, bias=False)
        if small_stem:
            parts.features[2].conv[1][0].stride = (1, 1)
        init_kaiming(self)

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer, also to torchvision's own forward pass."""
        layers = cast(nn.Sequential, self._modules["classifier"])  # the property hides the module of its name
        return cast(nn.Linear, layers[1])

    def drop_classifier(self) -> None:
        """Take the classifier out."""
        self._modules["classifier"] = nn.Identity()

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        parts: Any = self
        feature_map: Tensor = parts.features(image_normalised)
        return feature_map


class TorchvisionShuffleNetV2(ShuffleNetV2, Backbone):  # type: ignore[misc]  # likewise
    """torchvision's ShuffleNetV2 1x."""

    def __init__(self, num_classes: int, channels: int, *, small_stem: bool) -> None:
        super().__init__([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=num_classes)
        self.feature_width = self.classifier.in_features
        parts: Any = self
        if small_stem or channels != 3:
            parts.conv1[0] = nn.Conv2d(channels, 24, 3, stride=1 if small_stem else 2, padding=1, bias=False)
        if small_stem:
            parts.maxpool = nn.Identity()
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        parts: Any = self
        features = parts.maxpool(parts.conv1(image_normalised))
        feature_map: Tensor = parts.conv5(parts.stage4(parts.stage3(parts.stage2(features))))
        return feature_map

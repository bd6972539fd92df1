"""Wide ResNets for 32-px images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.networks.backbone import Backbone, init_kaiming
from hidfd.networks.layers import thin_out


class WideResNet(Backbone):
    """WRN-depth-widen for 32-px images: pre-activation blocks; the map is taken after the final BN and ReLU.

    **Source**: Zagoruyko & Komodakis 2016.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(blocks, 16, widths[0], stride=1)
        self.block2 = _stage(blocks, widths[0], widths[1], stride=2)
        self.block3 = _stage(blocks, widths[1], widths[2], stride=2)
        self.bn = nn.BatchNorm2d(widths[2])
        self.feature_width = widths[2]
        self.fc = nn.Linear(self.feature_width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(self.conv1(image_normalised))))
        return F.relu(self.bn(features), inplace=True)


class _PreActivationBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.stride = stride  # the shortcut's input is thinned out, see `cifar_resnet._BasicBlock`
        self.shortcut = nn.Conv2d(in_width, width, 1, bias=False) if in_width != width else None

    def forward(self, features: Tensor) -> Tensor:
        activated = F.relu(self.bn1(features), inplace=True)
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        shortcut = features
        if self.shortcut is not None:
            shortcut = self.shortcut(thin_out(activated, self.stride))
        total: Tensor = residual.add_(shortcut)
        return total


def _stage(blocks: int, in_width: int, width: int, *, stride: int) -> nn.Sequential:
    first = _PreActivationBlock(in_width, width, stride)
    return nn.Sequential(first, *(_PreActivationBlock(width, width, 1) for _ in range(blocks - 1)))

"""The discriminator D: from an image to features h, an adversarial score, and 2K auxiliary logits.

Spectral norm everywhere, no batch norm.

**Source**: paper supplement (ADC-GAN's network); the light trunk for CPUs is this project's, with the same heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from hidfd.networks.layers import SelfAttention, init_normal

HALVINGS = {28: 2, 32: 2, 64: 3}
"""Image side -> how often D halves the map."""


@dataclass(frozen=True)
class DiscriminatorOutput:
    """The outputs of D for a batch.

    Attributes:
        features: `b x f`, h.
        adversarial: `b`.
        adc: `b x 2K`; index 2y for a real image of class y, 2y+1 for a generated one.
    """

    features: Tensor
    adversarial: Tensor
    adc: Tensor


class Discriminator(nn.Module):
    """A trunk and two linear heads.

    Args:
        trunk: `b x c x s x s` to `b x f`.
        feature_width: f.
        num_classes: K.
    """

    def __init__(self, trunk: nn.Module, feature_width: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.feature_width = feature_width
        self.adversarial_head = spectral_norm(nn.Linear(feature_width, 1))
        self.adc_head = spectral_norm(nn.Linear(feature_width, 2 * num_classes))

    def forward(self, image_signed: Tensor) -> DiscriminatorOutput:
        """Judge images in [-1, 1]; real and generated ones come in one batch, so that spectral norm iterates once."""
        features = self.trunk(image_signed.contiguous(memory_format=torch.channels_last))
        return DiscriminatorOutput(features, self.adversarial_head(features).squeeze(1), self.adc_head(features))


class ResidualTrunk(nn.Module):
    """Residual blocks, ReLU, global sum pool. 4.2 M parameters at width 256 and 32 px.

    Args:
        num_halvings: blocks that halve the map; two that do not follow.
        has_attention: whether the map of half the image's side goes through self-attention.
    """

    def __init__(self, width: int, channels: int, num_halvings: int = 2, *, has_attention: bool = False) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_Block(channels, width, down=True, first=True)]
        if has_attention:
            blocks.append(SelfAttention(width))
        blocks += [_Block(width, width, down=True) for _ in range(num_halvings - 1)]
        blocks += [_Block(width, width, down=False) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image_signed: Tensor) -> Tensor:
        pooled: Tensor = F.relu(self.blocks(image_signed)).sum(dim=(2, 3))
        return pooled


class _Block(nn.Module):
    def __init__(self, in_width: int, width: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = spectral_norm(nn.Conv2d(in_width, width, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(in_width, width, 1)) if down or in_width != width else None

    def forward(self, features: Tensor) -> Tensor:
        residual = self.conv1(features if self.first else F.relu(features))
        residual = self.conv2(F.relu(residual, inplace=True))
        shortcut = features
        if self.down:
            residual = F.avg_pool2d(residual, 2)
            shortcut = F.avg_pool2d(shortcut, 2)  # before the 1x1: the same result at a quarter of the work
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        total: Tensor = residual.add_(shortcut)
        return total


class LightTrunk(nn.Sequential):
    """Strided convolutions, channels doubling as the side halves, then a global sum pool (by the last layer).

    Args:
        num_halvings: convolutions of stride 2; one more follows, with 4 x width channels.
    """

    def __init__(self, width: int, channels: int, num_halvings: int = 2) -> None:
        layers: list[nn.Module] = [
            spectral_norm(nn.Conv2d(channels, width, 3, padding=1, stride=2)),
            nn.LeakyReLU(0.1, inplace=True),
        ]
        inner = width
        for _ in range(num_halvings - 1):
            layers.append(spectral_norm(nn.Conv2d(inner, 2 * inner, 4, padding=1, stride=2)))
            layers.append(nn.LeakyReLU(0.1, inplace=True))
            inner *= 2
        layers.append(spectral_norm(nn.Conv2d(inner, 4 * width, 3, padding=1)))
        super().__init__(*layers, nn.LeakyReLU(0.1, inplace=True), _SumPool())


class _SumPool(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.sum(dim=(2, 3))


def build_discriminator(
    networks: str,
    *,
    image_size_pixels: int,
    width: int,
    num_classes: int,
    channels: int,
    has_attention: bool = False,
) -> Discriminator:
    """Build a discriminator with fresh weights: `residual` (h as wide as the trunk) or `light` (h of 4 x width)."""
    halvings = HALVINGS[image_size_pixels]
    if networks == "residual":
        trunk = ResidualTrunk(width, channels, halvings, has_attention=has_attention)
        discriminator = Discriminator(trunk, width, num_classes)
    else:
        discriminator = Discriminator(LightTrunk(width, channels, halvings), 4 * width, num_classes)
    init_normal(discriminator)
    return discriminator

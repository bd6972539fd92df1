"""The generator G: from noise and a class to an image. The paper's residual network, and a light one for CPUs.

**Source**: paper supplement (BigGAN-style network of ADC-GAN, per-layer class embedding, spectral norm). The light
pair is this project's: plain convolutions, class-conditional batch norm, no spectral norm in G.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from hidfd.config.methods import MethodGeneratorConfig
from hidfd.config.schema import DataConfig, GenerationConfig
from hidfd.networks.layers import ConditionalBatchNorm2d, SelfAttention, init_normal

BLOCKS = {28: (7, 2), 32: (4, 3), 64: (4, 4)}
"""Image side -> (side of the first map, number of doublings) of the residual generator."""

LIGHT_BLOCKS = {28: (7, 2), 32: (8, 2), 64: (8, 3)}
"""The same of the light one."""


class ResidualGenerator(nn.Module):
    """z -> linear start x start x width -> up-sampling residual blocks -> BN, ReLU, conv3x3, tanh.

    4.30 M parameters at width 256, 32 px, K = 10, RGB. With `has_attention`, the map of half the image's side goes
    through self-attention.
    """

    def __init__(
        self,
        image_size_pixels: int,
        width: int,
        latent_dim: int,
        num_classes: int,
        channels: int,
        *,
        has_attention: bool = False,
    ) -> None:
        super().__init__()
        self.start, doublings = BLOCKS[image_size_pixels]
        self.width = width
        self.linear = spectral_norm(nn.Linear(latent_dim, self.start**2 * width))
        self.blocks = nn.ModuleList([_UpBlock(width, num_classes) for _ in range(doublings)])
        self.attention = SelfAttention(width) if has_attention else None
        self.norm = nn.BatchNorm2d(width)
        self.to_image = spectral_norm(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate images, `b x c x s x s` float32 in [-1, 1], from noise `b x latent_dim` and labels `b` int64."""
        features = self.linear(z).view(-1, self.width, self.start, self.start)
        features = features.contiguous(memory_format=torch.channels_last)
        for position, block in enumerate(self.blocks, 1):
            features = block(features, labels)
            if self.attention is not None and position == len(self.blocks) - 1:
                features = self.attention(features)
        return torch.tanh(self.to_image(F.relu(self.norm(features), inplace=True)).float())


class _UpBlock(nn.Module):
    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(width, num_classes)
        self.conv1 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.norm2 = ConditionalBatchNorm2d(width, num_classes)
        self.conv2 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(width, width, 1))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        residual = F.interpolate(F.relu(self.norm1(features, labels), inplace=True), scale_factor=2.0)
        residual = self.conv1(residual)
        residual = self.conv2(F.relu(self.norm2(residual, labels), inplace=True))
        shortcut: Tensor = self.shortcut(features)  # before up-sampling: the same result at a quarter of the work
        total: Tensor = residual.add_(F.interpolate(shortcut, scale_factor=2.0))
        return total


class LightGenerator(nn.Module):
    """Transposed convolutions, channels halving as the side doubles, `width` at the largest.

    At 28 px: linear to 7x7, conv to 4 x width, up to 2 x width at 14, up to width at 28, image; at 64 px three
    doublings from 8x8 and 8 x width. A transposed 4x4
    convolution of stride 2 takes 4 products per output where up-sampling and a 3x3 takes 9: twice as fast on a CPU.
    """

    def __init__(self, image_size_pixels: int, width: int, latent_dim: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.start, doublings = LIGHT_BLOCKS[image_size_pixels]
        self.first_width = width // 2
        widths = [width * 2**k for k in range(doublings, -1, -1)]
        self.linear = nn.Linear(latent_dim, self.start**2 * self.first_width)
        self.expand = nn.Conv2d(self.first_width, widths[0], 3, padding=1, bias=False)
        self.ups = nn.ModuleList([_double(a, b) for a, b in itertools.pairwise(widths)])
        self.norms = nn.ModuleList([ConditionalBatchNorm2d(channels, num_classes) for channels in widths])
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate images, `b x c x s x s` float32 in [-1, 1], from noise `b x latent_dim` and labels `b` int64."""
        features = self.linear(z).view(-1, self.first_width, self.start, self.start)
        features = self.expand(features.contiguous(memory_format=torch.channels_last))
        features = F.relu(self.norms[0](features, labels), inplace=True)
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            features = F.relu(norm(up(features), labels), inplace=True)
        return torch.tanh(self.to_image(features).float())


def _double(in_width: int, width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_width, width, 4, stride=2, padding=1, bias=False)


def build_generator(
    networks: str,
    *,
    image_size_pixels: int,
    width: int,
    latent_dim: int,
    num_classes: int,
    channels: int,
    has_attention: bool = False,
) -> nn.Module:
    """Build a generator with fresh weights: `residual` or `light`, at 28, 32 or 64 px; `light` has no attention."""
    generator: nn.Module
    if networks == "residual":
        generator = ResidualGenerator(
            image_size_pixels, width, latent_dim, num_classes, channels, has_attention=has_attention
        )
    else:
        generator = LightGenerator(image_size_pixels, width, latent_dim, num_classes, channels)
    init_normal(generator)
    return generator


def generator_of(settings: GenerationConfig, data: DataConfig) -> nn.Module:
    """Build the generator that a study file describes, with fresh weights."""
    return build_generator(
        settings.networks,
        image_size_pixels=settings.image_size_pixels,
        width=settings.width,
        latent_dim=settings.latent_dim,
        num_classes=data.num_classes,
        channels=data.channels,
        has_attention=settings.attention,
    )


def classless_generator(settings: MethodGeneratorConfig, channels: int) -> nn.Module:
    """Build a generator that knows one class, 0, with fresh weights: for methods whose latents have no classes."""
    return build_generator(
        settings.networks,
        image_size_pixels=settings.image_size_pixels,
        width=settings.width,
        latent_dim=settings.latent_dim,
        num_classes=1,
        channels=channels,
    )

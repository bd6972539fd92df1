"""VGG networks of the distillation literature, for small images: convolutions, a global pool, one classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.networks.backbone import Backbone, init_kaiming

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages."""

LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Depth in the name -> convolutions of each stage. The name counts three linear layers, of which one is left."""

LARGE_PIXELS = 64
"""Side of images whose map is halved once more, before the last stage; larger ones are not, as in the source."""


class VGG(Backbone):
    """VGG-depth with batch norm: five stages of 3x3 convolutions, halved after each of the first three.

    **Source**: Simonyan & Zisserman 2015, configurations A, B and D; the form without its large linear layers, the
    8-layer network and the pooling are of Tian et al. 2020.
    """

    def __init__(self, depth: int, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = (channels, *WIDTHS)
        for stage, layers in enumerate(LAYERS[depth]):
            self.add_module(f"block{stage}", _stage(layers, widths[stage], widths[stage + 1]))
        self.feature_width = WIDTHS[-1]
        self.fc = nn.Linear(self.feature_width, num_classes)
        init_kaiming(self)

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = image_normalised
        for stage in range(len(WIDTHS)):
            features = F.relu(self.get_submodule(f"block{stage}")(features), inplace=True)
            if stage < 3:
                features = F.max_pool2d(features, 2)
            elif stage == 3:
                features = _halved_if_large(features, image_normalised)
        return features


@torch.fx.wrap
def _halved_if_large(features: Tensor, image: Tensor) -> Tensor:
    """Halve the map of images of `LARGE_PIXELS`; one call to `torch.fx`, which cannot follow the question."""
    return F.max_pool2d(features, 2) if image.shape[-1] == LARGE_PIXELS else features


def _stage(layers: int, in_width: int, width: int) -> nn.Sequential:
    """Return convolutions with batch norms and ReLUs, but for the last ReLU."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.Conv2d(in_width if layer == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width)]
        if layer < layers - 1:
            parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)

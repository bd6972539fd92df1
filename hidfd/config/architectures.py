"""The table of networks, one row each, and the names of networks from elsewhere. Torch-free.

Counts are those of the source named in the row, at its number of classes;
`tests/hidfd/networks/test_backbone.py` compares them with the built networks. What is to be known of networks from
elsewhere is found when they are built (`hidfd.pipeline.network_sizes`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "resnet-cifar", "resnet-cifar-x4", "resnet-torchvision", "wrn", "vgg", "mobilenetv2", "shufflenetv1", "shufflenetv2"
]
"""Name of a builder of `hidfd.networks.build`."""


@dataclass(frozen=True)
class Architecture:
    """A network and its published size.

    Attributes:
        name: name in a study file.
        family: the builder of `hidfd.networks.build` that builds it.
        depth: number of weighted layers, as in its name.
        width: channels of its first stage as published.
        widen: width multiplier (wide ResNets).
        published_feature_width: channels of its last feature map as published.
        halvings: how often the side is halved up to the last feature map.
        native_size_pixels: image side at which the operations were counted.
        published_parameters: parameters in millions, at `published_classes` classes and RGB input.
        published_classes: number of classes of the published counts.
        forward_gflops: multiply-adds x 2 of one image at the native size, in 10^9.
        source: publication of the numbers.
    """

    name: str
    family: Family
    depth: int
    width: int
    widen: int
    published_feature_width: int
    halvings: int
    native_size_pixels: int
    published_parameters: float
    published_classes: int
    forward_gflops: float
    source: str

    @property
    def has_width_setting(self) -> bool:
        """Whether a study file may set the width of this network."""
        return self.family == "resnet-cifar"

    def feature_width(self, width: int | None = None) -> int:
        """Return the channels of its last feature map, at another width of its first stage where one is given."""
        return self.published_feature_width * (width or self.width) // self.width

    def feature_side_pixels(self, image_size_pixels: int) -> int:
        """Return the side of its last feature map for images of a side."""
        if self.family == "vgg":
            # Max-pools round down; images of 64 pixels are halved once more (`hidfd.networks.backbones.vgg`).
            return (image_size_pixels >> self.halvings) // (2 if image_size_pixels == 64 else 1)
        return -(-image_size_pixels >> self.halvings)

    def forward_flops(self, image_size_pixels: int, width: int | None = None) -> float:
        """Return the floating-point operations of a forward pass of one image of that side."""
        scale = (image_size_pixels / self.native_size_pixels) ** 2
        return self.forward_gflops * 1e9 * scale * ((width or self.width) / self.width) ** 2


_HE = "He et al. 2016, Table 6; with 1x1 shortcuts as in the distillation literature"
_X4 = "Tian et al. 2020 (contrastive representation distillation), its resnet8x4 and resnet32x4; counted"
_TORCHVISION = "torchvision model weights page"
_STEM = "torchvision network with the 3x3 stem and no max-pool of the CIFAR literature (kuangliu/pytorch-cifar)"
_WRN = "Zagoruyko & Komodakis 2016 and 2017 (attention transfer), Tables"
_VGG = "Simonyan & Zisserman 2015 with batch norm, one classifier and the pooling of Tian et al. 2020; counted"
_SHUFFLE = "Zhang et al. 2018 with the 1x1 stem for 32 px of Tian et al. 2020; counted"

_ROWS = (
    Architecture("resnet8", "resnet-cifar", 8, 16, 1, 64, 2, 32, 0.08, 10, 0.025, _HE),
    Architecture("resnet14", "resnet-cifar", 14, 16, 1, 64, 2, 32, 0.18, 10, 0.053, _HE),
    Architecture("resnet20", "resnet-cifar", 20, 16, 1, 64, 2, 32, 0.27, 10, 0.082, _HE),
    Architecture("resnet32", "resnet-cifar", 32, 16, 1, 64, 2, 32, 0.47, 10, 0.138, _HE),
    Architecture("resnet56", "resnet-cifar", 56, 16, 1, 64, 2, 32, 0.86, 10, 0.251, _HE),
    Architecture("resnet8x4", "resnet-cifar-x4", 8, 64, 1, 256, 2, 32, 1.23, 100, 0.354, _X4),
    Architecture("resnet32x4", "resnet-cifar-x4", 32, 64, 1, 256, 2, 32, 7.43, 100, 2.17, _X4),
    Architecture("resnet18", "resnet-torchvision", 18, 64, 1, 512, 5, 224, 11.69, 1000, 3.63, _TORCHVISION),
    Architecture("resnet34", "resnet-torchvision", 34, 64, 1, 512, 5, 224, 21.80, 1000, 7.33, _TORCHVISION),
    Architecture("resnet50", "resnet-torchvision", 50, 64, 1, 2048, 5, 224, 25.56, 1000, 8.18, _TORCHVISION),
    Architecture("resnet18-32px", "resnet-torchvision", 18, 64, 1, 512, 3, 32, 11.17, 10, 1.11, _STEM),
    Architecture("resnet34-32px", "resnet-torchvision", 34, 64, 1, 512, 3, 32, 21.28, 10, 2.32, _STEM),
    Architecture("resnet50-32px", "resnet-torchvision", 50, 64, 1, 2048, 3, 32, 23.52, 10, 2.60, _STEM),
    Architecture("wrn-16-1", "wrn", 16, 16, 1, 64, 2, 32, 0.17, 10, 0.054, _WRN),
    Architecture("wrn-16-2", "wrn", 16, 16, 2, 128, 2, 32, 0.69, 10, 0.20, _WRN),
    Architecture("wrn-40-1", "wrn", 40, 16, 1, 64, 2, 32, 0.56, 10, 0.167, _WRN),
    Architecture("wrn-40-2", "wrn", 40, 16, 2, 128, 2, 32, 2.24, 10, 0.66, _WRN),
    Architecture("wrn-28-2", "wrn", 28, 16, 2, 128, 2, 32, 1.47, 10, 0.43, _WRN),
    Architecture("wrn-28-10", "wrn", 28, 16, 10, 640, 2, 32, 36.48, 10, 10.5, _WRN),
    Architecture("vgg8", "vgg", 8, 64, 1, 512, 3, 32, 3.92, 10, 0.192, _VGG),
    Architecture("vgg11", "vgg", 11, 64, 1, 512, 3, 32, 9.23, 10, 0.419, _VGG),
    Architecture("vgg13", "vgg", 13, 64, 1, 512, 3, 32, 9.42, 10, 0.570, _VGG),
    Architecture("vgg16", "vgg", 16, 64, 1, 512, 3, 32, 14.73, 10, 0.796, _VGG),
    Architecture("mobilenetv2", "mobilenetv2", 53, 32, 1, 1280, 5, 224, 3.50, 1000, 0.600, _TORCHVISION),
    Architecture("mobilenetv2-32px", "mobilenetv2", 53, 32, 1, 1280, 3, 32, 2.24, 10, 0.176, f"{_STEM}; counted"),
    Architecture("shufflenetv1-32px", "shufflenetv1", 50, 24, 1, 960, 3, 32, 0.95, 100, 0.077, _SHUFFLE),
    Architecture("shufflenetv2", "shufflenetv2", 51, 24, 1, 1024, 5, 224, 2.28, 1000, 0.289, _TORCHVISION),
    Architecture("shufflenetv2-32px", "shufflenetv2", 51, 24, 1, 1024, 3, 32, 1.26, 10, 0.090, _STEM),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}
"""Name in a study file -> architecture."""

OWN = re.compile(r"(?P<file>.+\.py):(?P<factory>[A-Za-z_]\w*)")
"""The name of a network of one's own: a Python file, and a function in it that makes the network."""

_ZOO = re.compile(r"(?:torchvision|timm):[A-Za-z0-9_.-]+")

OUTSIDE_FORMS = "torchvision:NAME, timm:NAME, or FILE.py:FUNCTION for a network of your own"
"""The forms of names of networks that are not in the table."""


def is_outside(name: str) -> bool:
    """Return whether a name has the form of a network from elsewhere, of which there may be none."""
    return bool(_ZOO.fullmatch(name) or OWN.fullmatch(name))

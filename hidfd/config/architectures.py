"""The table of networks, one row each. `hidfd.networks.build` builds exactly these. Torch-free.

Counts are those of the source named in the row, at its number of classes;
`tests/hidfd/networks/test_backbone.py` compares them with the built networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """A network and its published size.

    Attributes:
        name: name in a study file.
        family: the builder of `hidfd.networks.build` that builds it.
        depth: number of weighted layers, as in its name.
        width: channels of its first stage as published.
        widen: width multiplier (wide ResNets).
        native_size_pixels: image side at which the operations were counted.
        published_parameters: parameters in millions, at `published_classes` classes and RGB input.
        published_classes: number of classes of the published counts.
        forward_gflops: multiply-adds x 2 of one image at the native size, in 10^9.
        source: publication of the numbers.
    """

    name: str
    family: Literal["resnet-cifar", "resnet-torchvision", "resnet-torchvision-32px", "wrn"]
    depth: int
    width: int
    widen: int
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
        if self.family.startswith("resnet-torchvision"):
            return 512
        return 64 * self.widen if self.family == "wrn" else 4 * (width or self.width)

    def feature_side_pixels(self, image_size_pixels: int) -> int:
        """Return the side of its last feature map for images of a side."""
        stride = {"resnet-torchvision": 32, "resnet-torchvision-32px": 8}.get(self.family, 4)
        return math.ceil(image_size_pixels / stride)

    def forward_flops(self, image_size_pixels: int, width: int | None = None) -> float:
        """Return the floating-point operations of a forward pass of one image of that side."""
        scale = (image_size_pixels / self.native_size_pixels) ** 2
        return self.forward_gflops * 1e9 * scale * ((width or self.width) / self.width) ** 2


_HE = "He et al. 2016, Table 6; with 1x1 shortcuts as in the distillation literature"
_TORCHVISION = "torchvision model weights page"
_STEM = "torchvision network with the 3x3 stem and no max-pool of the CIFAR literature (kuangliu/pytorch-cifar)"
_WRN = "Zagoruyko & Komodakis 2016 and 2017 (attention transfer), Tables"

_ROWS = (
    Architecture("resnet8", "resnet-cifar", 8, 16, 1, 32, 0.08, 10, 0.025, _HE),
    Architecture("resnet14", "resnet-cifar", 14, 16, 1, 32, 0.18, 10, 0.053, _HE),
    Architecture("resnet20", "resnet-cifar", 20, 16, 1, 32, 0.27, 10, 0.082, _HE),
    Architecture("resnet32", "resnet-cifar", 32, 16, 1, 32, 0.47, 10, 0.138, _HE),
    Architecture("resnet56", "resnet-cifar", 56, 16, 1, 32, 0.86, 10, 0.251, _HE),
    Architecture("resnet18", "resnet-torchvision", 18, 64, 1, 224, 11.69, 1000, 3.63, _TORCHVISION),
    Architecture("resnet34", "resnet-torchvision", 34, 64, 1, 224, 21.80, 1000, 7.33, _TORCHVISION),
    Architecture("resnet18-32px", "resnet-torchvision-32px", 18, 64, 1, 32, 11.17, 10, 1.11, _STEM),
    Architecture("resnet34-32px", "resnet-torchvision-32px", 34, 64, 1, 32, 21.28, 10, 2.32, _STEM),
    Architecture("wrn-16-1", "wrn", 16, 16, 1, 32, 0.17, 10, 0.054, _WRN),
    Architecture("wrn-16-2", "wrn", 16, 16, 2, 32, 0.69, 10, 0.20, _WRN),
    Architecture("wrn-40-1", "wrn", 40, 16, 1, 32, 0.56, 10, 0.167, _WRN),
    Architecture("wrn-40-2", "wrn", 40, 16, 2, 32, 2.24, 10, 0.66, _WRN),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}
"""Name in a study file -> architecture."""

"""The interface of teachers' and students' networks; `hidfd.config.architectures` lists those that can be built.

Every network gives its last feature map and has one linear classifier over the globally averaged map, because feature
alignment and classifier sharing need both.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from torch import Tensor, nn


class Backbone(nn.Module):
    """A classification network.

    Attributes:
        feature_width: t, channels of the last feature map.
        can_be_folded: whether its layers can be traced, so that batch norms can be folded into convolutions.
    """

    feature_width: int
    can_be_folded = True
    fc: nn.Module

    @property
    def published(self) -> nn.Module:
        """The network by whose names of weights it is published and saved."""
        return self

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return cast(nn.Linear, self.fc)

    def drop_classifier(self) -> None:
        """Take the classifier out, for a network that is used up to its last map."""
        self.fc = nn.Identity()

    @abstractmethod
    def forward_map(self, image_normalised: Tensor) -> Tensor:
        """Return the last feature map, `b x t x h' x w'`, of images `b x c x h x w`."""

    def forward(self, image_normalised: Tensor) -> Tensor:
        """Return the logits, `b x K`."""
        logits: Tensor = self.classifier(self.forward_map(image_normalised).mean(dim=(2, 3)))
        return logits


def init_kaiming(module: nn.Module) -> None:
    """Initialise every convolution by He's method, and the biases of linear layers with zeros."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


def num_parameters(module: nn.Module) -> int:
    """Number of parameters of a network, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())

"""A network from elsewhere as a backbone: its features, and its last linear layer as the classifier.

Where the classifier reads the mean of a map over positions, that map is the network's last map. Else, as in a
transformer or after a hidden layer, the vector that it reads is taken as a map of one position: student and teacher
are then compared by that vector.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from torch import Tensor, nn

from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, of numbers that are taken for the same."""


class OutsideNetwork(Backbone):
    """A network whose layers are not this project's, so that batch norms are not folded.

    Args:
        network: becomes part of this one.
        name: of the network, for messages.
        num_classes: K.

    Attributes:
        is_map: whether the features are a map, and not a vector.

    Raises:
        InputError: it has no linear layer with K outputs.
    """

    can_be_folded = False
    is_map: bool
    network: nn.Module

    def __init__(self, network: nn.Module, name: str, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.path = _path_of_classifier(network, name, num_classes)
        self.feature_width = self.classifier.in_features

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return cast(nn.Linear, self.network.get_submodule(self.path))

    @property
    def published(self) -> nn.Module:
        """The network by whose names of weights it is published and saved."""
        return self.network

    def drop_classifier(self) -> None:
        """Take the classifier out, for a network that is used up to its last map."""
        self.network.set_submodule(self.path, nn.Identity())

    def forward_map(self, image_normalised: Tensor) -> Tensor:
        features = self.features(image_normalised)
        return features if self.is_map else features[:, :, None, None]

    @abstractmethod
    def features(self, image_normalised: Tensor) -> Tensor:
        """Return the last map, `b x t x h' x w'`, or the vector that the classifier reads, `b x t`."""


def are_same(values: Tensor, others: Tensor) -> bool:
    """Return whether two tensors have the same shape and, up to `TOLERANCE`, the same values."""
    if values.shape != others.shape:
        return False
    return bool((values - others).abs().max() <= TOLERANCE * others.abs().max())


def is_mean_of(vector: Tensor, value: object) -> bool:
    """Return whether a vector for each image, `b x t`, is the mean of a map over positions, or the value itself."""
    if not isinstance(value, Tensor):
        return False
    return are_same(value.mean(dim=(2, 3)) if value.dim() == 4 else value, vector)


def _path_of_classifier(network: nn.Module, name: str, num_classes: int) -> str:
    """Return the path of the last linear layer with K outputs."""
    linear: dict[str, int] = {
        path: layer.out_features for path, layer in network.named_modules() if isinstance(layer, nn.Linear)
    }
    fitting: list[str] = [path for path, outputs in linear.items() if outputs == num_classes and path]
    if not fitting:
        there = f"its last one has {list(linear.values())[-1]:,}" if linear else "it has none"
        raise InputError(
            f"{name}: expected a last linear layer with {num_classes:,} outputs, one for each class; {there}. A head "
            f"of another kind can be neither shared nor imitated"
        )
    return fitting[-1]

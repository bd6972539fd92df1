"""A network of timm as a backbone: timm's networks say themselves where their features end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hidfd.errors import InputError
from hidfd.networks.backbones.outside_network import OutsideNetwork, are_same, is_mean_of


class TimmNetwork(OutsideNetwork):
    """A network with timm's `forward_features` and `forward_head`.

    Args:
        network: becomes part of this one.
        name: of the network, for messages.
        num_classes: K.
        image_normalised: two images to try it with, of different content.

    Raises:
        InputError: it fails for such images, or its logits are not its classifier's answer to one vector.
    """

    def __init__(self, network: nn.Module, name: str, num_classes: int, image_normalised: Tensor) -> None:
        super().__init__(network, name, num_classes)
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad():
                whole, vector = self._whole_features(image_normalised)
                logits: Tensor = network(image_normalised)
                answer = self.classifier(vector)
        except Exception as error:  # timm's networks check sizes by assertions of many kinds
            size = "x".join(map(str, image_normalised.shape[1:]))
            raise InputError(f"{name}: cannot take images of {size} ({type(error).__name__}: {error})") from error
        finally:
            network.train(was_training)
        if vector.dim() != 2 or not are_same(answer, logits):
            raise InputError(
                f"{name}: its logits are not those of its last linear layer, {self.path}, for one vector; such a head "
                f"can be neither shared nor imitated"
            )
        self.is_map = whole.dim() == 4 and is_mean_of(vector, whole)

    def features(self, image_normalised: Tensor) -> Tensor:
        whole, vector = self._whole_features(image_normalised)
        return whole if self.is_map else vector

    def forward(self, image_normalised: Tensor) -> Tensor:
        logits: Tensor = self.network(image_normalised)
        return logits

    def _whole_features(self, image_normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Return timm's features of images, and the vector that the classifier reads."""
        network: Any = self.network
        whole: Tensor = network.forward_features(image_normalised)
        return whole, network.forward_head(whole, pre_logits=True)

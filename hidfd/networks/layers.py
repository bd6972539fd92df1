"""Layers that the generators and discriminators share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

POWER_ITERATIONS = 15
"""Number of power iterations of spectral norm on fresh weights: as many as torch itself begins with."""


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are learned per class.

    Args:
        num_features: channels.
        num_classes: K; gains start at 1, biases at 0.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.gain = nn.Embedding(num_classes, num_features)
        self.bias = nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Normalise features, `b x c x h x w`, with the gain and bias of their labels, `b` int64."""
        gain = self.gain(labels)[:, :, None, None]
        bias = self.bias(labels)[:, :, None, None]
        # In place, here and in all networks: a sum costs little, but another large map costs memory traffic.
        conditioned: Tensor = (self.norm(features) * gain).add_(bias)
        return conditioned


class SelfAttention(nn.Module):
    """Self-attention over the pixels of a map, added with a learned gain that starts at 0.

    Args:
        width: channels; the keys have an eighth of them, the values a half.

    **Source**: Zhang et al. 2019 (SAGAN), with keys and values pooled to a quarter of the pixels as in BigGAN.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 8)
        self.query = spectral_norm(nn.Conv2d(width, inner, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(width, inner, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(width, max(1, width // 2), 1, bias=False))
        self.out = spectral_norm(nn.Conv2d(max(1, width // 2), width, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return `b x c x h x w` features, each pixel with what it attends to; h and w even."""
        height, width = features.shape[-2:]
        pooled = F.max_pool2d(features, 2)
        query, key, value = (
            layer(inputs).flatten(2).transpose(1, 2)
            for layer, inputs in ((self.query, features), (self.key, pooled), (self.value, pooled))
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        seen = self.out(attended.transpose(1, 2).reshape(len(features), -1, height, width))
        total: Tensor = features + self.gain * seen
        return total


def thin_out(features: Tensor, stride: int) -> Tensor:
    """Return every `stride`-th pixel of both sides, `b x c x h x w`.

    Done by pooling single pixels: the gradient of a slice comes back contiguous, and adding it to one in channels_last
    is 30 times slower on a CPU than adding two of one layout.
    """
    return features if stride == 1 else F.avg_pool2d(features, 1, stride)


@contextmanager
def batch_norm_reestimation(module: nn.Module) -> Iterator[None]:
    """Re-estimate batch-norm statistics: every forward pass in the block adds its batch, all with the same weight.

    The statistics start afresh. Only batch norms are in training mode: spectral-norm vectors do not move. Afterwards
    the whole module is in eval mode.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw every convolution and linear weight from N(0, std), with zero biases (as DCGAN and the authors' release)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if is_parametrized(layer, "weight"):
                weights = dict(layer.named_parameters())
                nn.init.normal_(weights["parametrizations.weight.original"], 0.0, std)  # `weight` is computed from it
                for _ in range(POWER_ITERATIONS):
                    _ = layer.weight  # each access is one iteration towards the new largest singular value
            else:
                nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

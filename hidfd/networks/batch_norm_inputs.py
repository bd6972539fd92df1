"""Inputs of a network's batch norms, for losses that compare them with the statistics that these have kept."""

from __future__ import annotations

from torch import Tensor, nn

from hidfd.networks.backbone import Backbone


def batch_norms_of(backbone: Backbone) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a network; empty where it has none."""
    return [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]


def map_and_batch_norm_inputs(
    backbone: Backbone, image_normalised: Tensor
) -> tuple[Tensor, list[tuple[nn.BatchNorm2d, Tensor]]]:
    """Return the last feature map of images, and every batch norm with its input, `b x c x h x w`, as they are called.

    Args:
        backbone: in eval mode, with batch norms that are not folded into convolutions.
        image_normalised: `b x c x h x w`; gradients reach it.
    """
    seen: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        seen.append((norm, inputs[0]))

    handles = [norm.register_forward_pre_hook(note) for norm in batch_norms_of(backbone)]
    try:
        return backbone.forward_map(image_normalised), seen
    finally:
        for handle in handles:
            handle.remove()

"""Mixing of views: the teacher answers the mixed view, so no label has to be mixed.

**Source**: CutMix (Yun et al. 2019) and mixup (Zhang et al. 2018), both with lambda from Beta(1, 1); Wang et al.
(NeurIPS 2022) find CutMix the strongest augmentation for distillation. Departure: every view has a lambda, a box and a
partner of its own, where both papers draw one lambda for a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hidfd.distributed.device import to_device
from hidfd.distributed.random_streams import Draws


def partners(counts: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw a partner for each view of a batch.

    Args:
        counts: views of each group in the batch, one group after the other; partners are of one group.

    Returns:
        int64 indices into the batch: a permutation within each group.
    """
    offsets = [sum(counts[:number]) for number in range(len(counts))]
    return torch.cat(
        [offset + torch.randperm(count, generator=generator) for offset, count in zip(offsets, counts, strict=True)]
    )


def mix(view: Tensor, partner: Tensor, kind: str, draws: Draws, *, fraction: float) -> Tensor:
    """Mix each view with its partner.

    Args:
        view, partner: `b x c x s x s`, any range.
        kind: `cutmix`: a box of the partner, of the area 1 - lambda before it is cut off at the border, replaces the
            view there; `mixup`: lambda view + (1 - lambda) partner.
        draws: random numbers for these views.
        fraction: probability with which a view is mixed.

    Returns:
        `b x c x s x s`.
    """
    batch, size = len(view), view.shape[-1]
    is_mixed, share, x, y = to_device(draws.uniform(4, batch), view.device)  # share = 1 - lambda, uniform as lambda is
    share = torch.where(is_mixed < fraction, share, 0.0)
    if kind == "mixup":
        return torch.lerp(view, partner, share.view(-1, 1, 1, 1))
    half = share.sqrt().view(-1, 1) / 2
    middles = (torch.arange(size, device=view.device) + 0.5) / size
    columns = (middles - x.view(-1, 1)).abs() < half  # `b x s` each
    rows = (middles - y.view(-1, 1)).abs() < half
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], partner, view)

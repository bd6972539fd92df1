"""One optimiser step over all processes, skipped where a loss or a gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hidfd.distributed.process_group import ALONE, ProcessGroup


def apply_gradients(
    optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], processes: ProcessGroup = ALONE
) -> Tensor:
    """Take one optimiser step, skipped on the device when a loss or a gradient is not finite.

    On several processes gradients and losses are averaged first, so that all of them take or skip the same step: a
    mean with a part that is not finite is not finite either.

    Args:
        optimizer: a fused torch optimiser, which takes `found_inf`.
        losses: scalars that must be finite too.
        processes: the processes of the trial; each has gradients of the same parameters, from its own losses.

    Returns:
        Scalar on the device: 1 where the step was skipped, else 0.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    values = torch.stack([loss.detach().float() for loss in losses])
    processes.average([*gradients, values])
    norm = torch.nn.utils.get_total_norm(gradients)
    found = ~torch.isfinite(torch.cat([norm.detach().view(1), values])).all()
    found_inf = found.float()
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # the hook that GradScaler uses
    optimizer.step()
    return found_inf

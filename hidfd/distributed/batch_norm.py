"""Batch norm over the images of all processes."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from hidfd.distributed.process_group import ProcessGroup


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on every device: torch's own refuses CPU tensors.

    In training each process shares its mean and variance per channel. By the law of total variance (all processes hold
    the same number of images) each of them computes those of the global batch from these, and gradients flow back
    through the shared values. One all-reduce in the forward and one in the backward pass. In eval mode it is a plain
    batch norm.
    """

    processes: ProcessGroup

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, processes: ProcessGroup) -> Self:
        """Build one that replaces a plain batch norm: its parameters and statistics, under the same names."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.processes = processes
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        return made.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise the features of this process, `b/W x c x h x w`; shape and dtype stay."""
        if not self.training:
            return super().forward(features)
        wide = features.float()  # statistics of bf16 features are taken in full precision, as torch's own are
        told = torch.stack(torch.var_mean(wide, dim=(0, 2, 3), correction=0))
        variances, means = self.processes.gather(told).unbind(dim=1)  # `W x c` each
        mean = means.mean(dim=0)
        variance = (variances + (means - mean) ** 2).mean(dim=0)
        self._follow(mean.detach(), variance.detach(), self.processes.count * features.numel() // len(mean))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = (wide - _per_channel(mean)) * _per_channel(scale)
        if self.affine:
            normalised = normalised + _per_channel(self.bias)
        return normalised.to(features.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as torch does: by the momentum, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def _per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]

"""Category frequency smoothing: G is pushed towards the classes that it makes too rarely, as the teacher sees them.

**Source**: paper Eqs. 10-12; the form comes from Class-Balancing GAN. Departures: the running frequencies are updated
(in the authors' release the update is never called, so all weights stay 1: our mode `uniform`); the temperature tau on
p_k is this project's definition of the smoothing temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.config.schema import SmoothingConfig
from hidfd.distributed.process_group import ALONE, ProcessGroup

EPS = 1e-8
"""Added to p_k inside the logarithm; a p_k far below it no longer matters."""


class FrequencySmoothing(nn.Module):
    """Running class frequencies f of generated images, the class weights w from them, and L_reg.

    On several processes all of these are of the global batch, so that each process holds the same state.

    All state is in buffers, hence in checkpoints:
        frequencies: `K`, shares that sum to 1; start 1/K.
        pending: `K`, counts since the last update.
        pending_images: scalar, how many images these are.
        weights: `K`, normalised to sum K; 1 until the first update.
    """

    frequencies: Tensor
    pending: Tensor
    pending_images: Tensor
    weights: Tensor

    def __init__(self, config: SmoothingConfig, num_classes: int, processes: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.config = config
        self.processes = processes
        self.num_classes = num_classes
        self.register_buffer("frequencies", torch.full((num_classes,), 1.0 / num_classes))
        self.register_buffer("pending", torch.zeros(num_classes))
        self.register_buffer("pending_images", torch.zeros(()))
        self.register_buffer("weights", torch.ones(num_classes))

    def loss(self, teacher_logits: Tensor) -> Tensor:
        """L_reg = sum_k w_k p_k log(p_k + eps), p_k = batch mean of softmax(T(x_g) / tau).

        Args:
            teacher_logits: `b x K` of this process's generated images, with a graph back to G.

        Returns:
            Scalar in [-log K * max w, 0]; minimising it raises the classes of large w_k (for K >= 3).
        """
        # L_reg is not linear in p: the mean of the processes' own losses would be another loss.
        p = self.processes.mean(F.softmax(teacher_logits.float() / self.config.temperature, dim=1).mean(dim=0))
        return (self.weights * p * torch.log(p + EPS)).sum()

    @torch.no_grad()
    def count(self, teacher_logits: Tensor) -> None:
        """Count the generated images of one G step, and update f and w once U images have been counted.

        Whether an update is due is decided on the device, so that no step waits for the answer.
        """
        config = self.config
        logits = teacher_logits.float()
        if config.counting == "hard":
            shares = F.one_hot(logits.argmax(dim=1), self.num_classes).float()
        else:
            shares = F.softmax(logits / config.temperature, dim=1)
        self.pending += self.processes.sum(shares.sum(dim=0))
        self.pending_images += logits.shape[0] * self.processes.count

        due = self.pending_images >= config.update_images
        new = self.pending / self.pending_images
        updated = config.momentum * self.frequencies + (1 - config.momentum) * new
        self.frequencies.copy_(torch.where(due, updated, self.frequencies))
        self.weights.copy_(torch.where(due, self._weights_of(self.frequencies), self.weights))
        self.pending.mul_(~due)
        self.pending_images.mul_(~due)

    def _weights_of(self, frequencies: Tensor) -> Tensor:
        counts = (frequencies * self.config.nominal_images).clamp(min=1.0)
        if self.config.mode == "inverse":
            weights = 1.0 / counts
        elif self.config.mode == "effective":
            weights = (1 - self.config.beta) / (1 - self.config.beta**counts)
        else:
            weights = torch.ones_like(counts)
        return weights * (self.num_classes / weights.sum())

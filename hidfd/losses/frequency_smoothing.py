"""Category frequency smoothing: G is pushed towards the classes that it makes too rarely, as the teacher sees them.

**Source**: paper Eqs. 10-12; the form comes from Class-Balancing GAN. Departures: the running frequencies are updated
(in the authors' release the update is never called, so all weights stay 1: our mode `uniform`); the temperature tau on
p_k is this project's definition of the smoothing temperature; and k runs over the P classes that the collected images
have, because G can make no other: an absent one would take all the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.config.schema import SmoothingConfig
from hidfd.distributed.process_group import ALONE, ProcessGroup

EPS = 1e-8
"""Added to p_k inside the logarithm; a p_k far below it no longer matters."""


MIN_CLASSES = 3
"""Number of classes from which minimising L_reg raises the rare ones: for two its optimum changes sign."""


class FrequencySmoothing(nn.Module):
    """Running class frequencies f of generated images, the class weights w from them, and L_reg.

    On several processes all of these are of the global batch, so that each process holds the same state.

    Args:
        config: its settings.
        present_classes: `P` int64, different classes: those that can be made.
        processes: the processes that train together.

    All state is in buffers, hence in checkpoints:
        frequencies: `P`, shares that sum to 1; start 1/P.
        pending: `P`, counts since the last update.
        pending_images: scalar, how many images these are.
        weights: `P`, normalised to sum P; 1 until the first update.
    """

    frequencies: Tensor
    pending: Tensor
    pending_images: Tensor
    weights: Tensor
    present_classes: Tensor

    def __init__(self, config: SmoothingConfig, present_classes: Tensor, processes: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.config = config
        self.processes = processes
        self.num_classes = num_classes = len(present_classes)
        self.register_buffer("present_classes", present_classes, persistent=False)
        self.register_buffer("frequencies", torch.full((num_classes,), 1.0 / num_classes))
        self.register_buffer("pending", torch.zeros(num_classes))
        self.register_buffer("pending_images", torch.zeros(()))
        self.register_buffer("weights", torch.ones(num_classes))

    def loss(self, teacher_logits: Tensor) -> Tensor:
        """L_reg = sum_k w_k p_k log(p_k + eps), p_k = batch mean of softmax(T(x_g) / tau).

        Args:
            teacher_logits: `b x K` of this process's generated images, with a graph back to G.

        Returns:
            Scalar in [-log P * max w, 0]; minimising it raises the classes of large w_k (for P >= 3).
        """
        # L_reg is not linear in p: the mean of the processes' own losses would be another loss.
        p = self.processes.mean(F.softmax(self._present(teacher_logits) / self.config.temperature, dim=1).mean(dim=0))
        return (self.weights * p * torch.log(p + EPS)).sum()

    @torch.no_grad()
    def count(self, teacher_logits: Tensor, times: int = 1) -> None:
        """Count the generated images of one G step, and update f and w once U images have been generated.

        Whether an update is due is decided on the device, so that no step waits for the answer.

        Args:
            teacher_logits: `b x K` of this process's generated images.
            times: how often each counts, for those of the steps at which the teacher is not asked as well.
        """
        config = self.config
        logits = self._present(teacher_logits)
        if config.counting == "hard":
            shares = F.one_hot(logits.argmax(dim=1), self.num_classes).float()
        else:
            shares = F.softmax(logits / config.temperature, dim=1)
        self.pending += times * self.processes.sum(shares.sum(dim=0))
        self.pending_images += times * logits.shape[0] * self.processes.count

        due = self.pending_images >= config.update_images
        new = self.pending / self.pending_images
        updated = config.momentum * self.frequencies + (1 - config.momentum) * new
        self.frequencies.copy_(torch.where(due, updated, self.frequencies))
        self.weights.copy_(torch.where(due, self._weights_of(self.frequencies), self.weights))
        self.pending.mul_(~due)
        self.pending_images.mul_(~due)

    def frequencies_of(self, num_classes: int) -> list[float]:
        """Return f_k of all K classes: 0 for the absent ones."""
        frequencies = self.frequencies.new_zeros(num_classes)
        frequencies[self.present_classes] = self.frequencies
        return frequencies.tolist()

    def _present(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits.float().index_select(1, self.present_classes)

    def _weights_of(self, frequencies: Tensor) -> Tensor:
        counts = (frequencies * self.config.nominal_images).clamp(min=1.0)
        if self.config.mode == "inverse":
            weights = 1.0 / counts
        elif self.config.mode == "effective":
            weights = (1 - self.config.beta) / (1 - self.config.beta**counts)
        else:
            weights = torch.ones_like(counts)
        return weights * (self.num_classes / weights.sum())

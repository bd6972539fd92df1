"""Regularisers of the discriminator's adversarial score, against few real images; both are off in the paper.

**Source**: consistency: Zhang et al. 2020 (CR-GAN), in the balanced form of Zhao et al. 2021; LeCam: Tseng et al. 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hidfd.distributed.device import to_device
from hidfd.distributed.process_group import ALONE, ProcessGroup
from hidfd.distributed.random_streams import Draws
from hidfd.views.augmentation import diff_augment

LECAM_DECAY = 0.99
"""Weight of the old averages at each update of D, as published."""


def consistency_view(image_signed: Tensor, draws: Draws) -> Tensor:
    """Return the second view of each image: mirrored with probability one half, then shifted by up to 1/8.

    Args:
        image_signed: `b x c x h x w` in [-1, 1], as D sees them: after DiffAugment where that is on (a departure).
        draws: random numbers for these images.
    """
    mirrored = to_device(draws.uniform(1, len(image_signed))[0] < 0.5, image_signed.device)
    view = torch.where(mirrored.view(-1, 1, 1, 1), image_signed.flip(3), image_signed)
    return diff_augment(view, ("translation",), draws)


def consistency_loss(score: Tensor, score_view: Tensor) -> Tensor:
    """Return the mean of (D(x) - D(view of x))^2, from scores of dim `b`."""
    return (score.float() - score_view.float()).square().mean()


class LeCam(nn.Module):
    """LeCam regularisation: each half's scores are held near the running mean score of the other half.

    State, in a buffer, hence in checkpoints:
        averages: `2`, of the real and of the generated images' scores, over all processes; start 0.
    """

    averages: Tensor

    def __init__(self, processes: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.processes = processes
        self.register_buffer("averages", torch.zeros(2))

    def loss(self, score_real: Tensor, score_fake: Tensor) -> Tensor:
        """Update a_R and a_F; return E[(D(x_r) - a_F)^2] + E[(D(x_g) - a_R)^2], from scores of dim `b`."""
        real, fake = score_real.float(), score_fake.float()
        means = self.processes.mean(torch.stack([real.detach().mean(), fake.detach().mean()]))
        self.averages.lerp_(means, 1 - LECAM_DECAY)
        average_real, average_fake = self.averages.clone()  # the backward pass needs them as they are now
        loss: Tensor = (real - average_fake).square().mean() + (fake - average_real).square().mean()
        return loss

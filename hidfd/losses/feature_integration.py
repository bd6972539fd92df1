"""Feature integration: D learns the teacher's representation, and real and generated images are blended in it.

**Source**: paper Eqs. 8-9 (L_blend, L_trans), whose form comes from KD-DLGAN. Departures: two separate weights, and
both terms have gradients; in the authors' release the whole term is computed inside `no_grad` and trains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hidfd.distributed.process_group import ALONE, ProcessGroup


class TeacherRegressor(nn.Module):
    """The regressor r(x) = W2 W1 h(x): from D's features to the teacher's, by two spectral-normed linears.

    Args:
        feature_width: of D's h.
        hidden_width: between W1 and W2; paper 1024.
        teacher_width: of the teacher's pooled penultimate feature t(x).
    """

    def __init__(self, feature_width: int, hidden_width: int, teacher_width: int) -> None:
        super().__init__()
        self.w1 = spectral_norm(nn.Linear(feature_width, hidden_width))
        self.w2 = spectral_norm(nn.Linear(hidden_width, teacher_width))

    def forward(self, features: Tensor) -> Tensor:
        """Regress features, `b x feature_width` to `b x teacher_width`."""
        return self.w2(self.w1(features))  # type: ignore[no-any-return]  # torch types a module's call as Any


def trans_loss(teacher_real: Tensor, regressed_real: Tensor, teacher_fake: Tensor, regressed_fake: Tensor) -> Tensor:
    """L_trans = mean_i ||t(x_r) - r(x_r)||_2 + ||t(x_g) - r(x_g)||_2; all arguments `b x t`."""
    return _distance(teacher_real, regressed_real) + _distance(teacher_fake, regressed_fake)


def blend_loss_by_position(
    teacher_real: Tensor, regressed_real: Tensor, teacher_fake: Tensor, regressed_fake: Tensor
) -> Tensor:
    """L_blend = mean_i ||t(x_r) - r(x_g)||_2 + ||t(x_g) - r(x_r)||_2, the i-th real image with the i-th generated."""
    return _distance(teacher_real, regressed_fake) + _distance(teacher_fake, regressed_real)


def blend_loss_by_class(
    teacher_real: Tensor,
    regressed_real: Tensor,
    labels_real: Tensor,
    teacher_fake: Tensor,
    regressed_fake: Tensor,
    labels_fake: Tensor,
    num_classes: int,
    processes: ProcessGroup = ALONE,
) -> Tensor:
    """L_blend with the mean teacher feature of the same class in the other half as partner.

    Args:
        labels_real, labels_fake: `b` int64: pseudo-labels of x_r, and y' of x_g.
        processes: partners are found in the halves of all of them.

    Returns:
        Scalar; images without a partner are left out, and each mean is over the matched ones (0 without any). Of
        several processes each returns its own share, weighted so that their mean is the loss of the global batch.

    **Source**: a pairing of this project; `position` is the faithful one.
    """
    real = _distance_to_class_mean(regressed_fake, labels_fake, teacher_real, labels_real, num_classes, processes)
    fake = _distance_to_class_mean(regressed_real, labels_real, teacher_fake, labels_fake, num_classes, processes)
    return real + fake


def _distance(target: Tensor, prediction: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(target.float() - prediction.float(), dim=1)
    return distance.mean()


def _distance_to_class_mean(
    prediction: Tensor, labels: Tensor, target: Tensor, target_labels: Tensor, num_classes: int, processes: ProcessGroup
) -> Tensor:
    wide = target.float()
    sums = wide.new_zeros(num_classes, wide.shape[1]).index_add(0, target_labels, wide)
    counts = wide.new_zeros(num_classes).index_add(0, target_labels, torch.ones_like(target_labels, dtype=wide.dtype))
    sums, counts = processes.sum(sums), processes.sum(counts)
    matched = (counts[labels] > 0).to(wide.dtype)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    distance: Tensor = torch.linalg.vector_norm(means[labels] - prediction.float(), dim=1)
    # A process may hold any number of the matched images: so this is its share of the global mean, not its own mean.
    return processes.count * (distance * matched).sum() / processes.sum(matched.sum()).clamp(min=1)

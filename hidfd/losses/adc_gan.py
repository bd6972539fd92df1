"""The adversarial losses of ADC-GAN: hinge, and the auxiliary discriminative classifier with 2K classes.

A real image of class y belongs to index 2y, a generated one to 2y+1.

**Source**: hinge loss as in BigGAN; ADC-GAN (Hou et al. 2022), which the paper's supplement names.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def hinge_d(score_real: Tensor, score_fake: Tensor) -> Tensor:
    """Hinge loss of D: L_D = E[relu(1 - D(x_r))] + E[relu(1 + D(x_g))], from scores of dim `b`."""
    return F.relu(1 - score_real.float()).mean() + F.relu(1 + score_fake.float()).mean()


def hinge_g(score_fake: Tensor) -> Tensor:
    """Hinge loss of G: L_G = -E[D(x_g)], from scores of dim `b`."""
    return -score_fake.float().mean()


def adc_d(logits_real: Tensor, labels_real: Tensor, logits_fake: Tensor, labels_fake: Tensor) -> Tensor:
    """Auxiliary loss of D: CE(Psi(x_r), 2y) + CE(Psi(x_g), 2y'+1).

    Args:
        logits_real, logits_fake: `b x 2K`.
        labels_real, labels_fake: `b` int64 in 0..K-1: pseudo-labels y, and the labels y' that G was asked for.
    """
    real = F.cross_entropy(logits_real.float(), 2 * labels_real)
    return real + F.cross_entropy(logits_fake.float(), 2 * labels_fake + 1)


def adc_g(logits_fake: Tensor, labels_fake: Tensor) -> Tensor:
    """Auxiliary loss of G: CE(Psi(x_g), 2y') - CE(Psi(x_g), 2y'+1) = psi_{2y'+1} - psi_{2y'}.

    The normaliser cancels. Unbounded below by design: it is the log odds of being generated, given the class.
    """
    real_logit = logits_fake.float().gather(1, 2 * labels_fake.unsqueeze(1))
    fake_logit = logits_fake.float().gather(1, 2 * labels_fake.unsqueeze(1) + 1)
    return (fake_logit - real_logit).mean()

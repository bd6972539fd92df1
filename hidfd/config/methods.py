"""The settings of the methods beside HiDFD, each a section of `trial:` that the other methods do not read. Torch-free.

A default is the published value where docs/method.md knows one; `preset: quick` has lighter generators.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hidfd.config.section import Images, LearningRate, Section, Weight

Method = Literal["hidfd", "dafl", "cmi", "dfnd"]


class MethodGeneratorConfig(Section):
    """A generator of images without classes, which no discriminator sees."""

    networks: Literal["residual", "light"] = "residual"
    """The generator: `residual`: HiDFD's; `light`: plain convolutions, for CPUs."""

    image_size_pixels: Literal[28, 32, 64] = 32
    """Side of the generated images, independent of the teacher's images."""

    width: int = Field(default=256, ge=4, le=2048)
    """Channels (light: at the largest resolution)."""

    latent_dim: int = Field(default=256, ge=1, le=4096)
    generator_learning_rate: LearningRate = 1e-3


class DaflConfig(MethodGeneratorConfig):
    """Data-Free Learning (Chen et al. 2019): generator and student in one loop, without any real image."""

    standardised: bool = True
    """Whether a batch of images gets mean 0 and standard deviation 1 per channel in the teacher's normalised space,
    as by the batch norm at the end of the released generator. False = images in [0, 1]."""

    one_hot_weight: Weight = 1.0
    """Weight of the cross-entropy of the teacher's answer to its own argmax."""

    activation_weight: Weight = 0.1
    """Weight of the mean absolute feature of the teacher, which is raised."""

    entropy_weight: Weight = 5.0
    """Weight of the entropy, in nats, of the teacher's mean answer over a batch, which is raised."""


class CmiConfig(MethodGeneratorConfig):
    """Contrastive Model Inversion (Fang et al. 2021): rounds of images that are optimised and kept in a bank."""

    round_images: Images = 256_000
    """Images that the student sees between two rounds; the first round is before its first step."""

    synthesis_batch_images: int = Field(default=256, ge=2, le=65_536)
    """Images that a round adds to the bank."""

    synthesis_steps: int = Field(default=200, ge=1, le=100_000)
    """Steps of the generator in a round."""

    statistics_weight: Weight = 1.0
    """Weight of the distance from the teacher's batch-norm statistics."""

    class_weight: Weight = 0.5
    """Weight of the cross-entropy to the class that an image was asked to be of."""

    adversarial_weight: Weight = 0.5
    """Weight of the student's KL to the teacher, which is raised where both name the same class."""

    contrastive_weight: Weight = 0.8
    """Weight of the contrastive loss between two views of an image, against other images and the bank."""

    contrastive_temperature: float = Field(default=0.1, ge=0.01, le=100.0)
    embedding_width: int = Field(default=128, ge=1, le=65_536)
    """Width of what views are compared by."""

    negatives: int = Field(default=4_096, ge=0, le=1_000_000)
    """Images of the bank, at most, that a step compares its own with."""


class DfndConfig(Section):
    """Data-Free Noisy Distillation (Chen et al. 2021): the collected images alone, whose labels are taken as noisy."""

    noisy_weight: Weight = 1.0
    """Weight of the cross-entropy to the teacher's argmax behind the adaptation matrix. 0 = real images alone."""

    adaptation_diagonal: float = Field(default=0.9, ge=0.01, le=0.999)
    """Diagonal of the adaptation matrix at the start: the share of labels that are taken as right."""

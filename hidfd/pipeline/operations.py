"""Estimated floating-point operations of the stages that train, from sizes of networks and settings. Torch-free.

All are 0 while the size of a network that they depend on is not known.
"""

from __future__ import annotations

from hidfd.config.methods import MethodGeneratorConfig
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.network_sizes import NetworkRole, network_size


def of_teacher(config: TrialConfig) -> float:
    """Return the operations of training a teacher."""
    assert config.teacher.train is not None
    return 3 * _forward(config, "teacher") * config.teacher.train.target_images


def of_generation(config: TrialConfig) -> float:
    """Return the operations of training HiDFD's generator and discriminator, with the teacher's answers."""
    generation, teacher = config.generation, _forward(config, "teacher")
    if not config.generation_asks_teacher:
        return _gan_step(config) * generation.target_images
    if not teacher:
        return 0.0
    return (_gan_step(config) + 4 / generation.teacher_terms_every * teacher) * generation.target_images


def of_distillation(config: TrialConfig) -> float:
    """Return the operations of a student on images that are there."""
    teacher, student = _forward(config, "teacher"), _forward(config, "distillation")
    if not teacher or not student:
        return 0.0
    return teacher * config.asked_views + 3 * student * config.distillation.target_images


def of_dafl(config: TrialConfig) -> float:
    """Return the operations of a student by DAFL.

    One image costs a backward pass through the teacher to the generator beside what a student's step costs.
    """
    teacher, student = _forward(config, "teacher"), _forward(config, "distillation")
    if not teacher or not student:
        return 0.0
    per_image = 2 * teacher + 3 * student + 3 * _generator(config, config.dafl)
    return per_image * config.distillation.target_images


def of_cmi(config: TrialConfig) -> float:
    """Return the operations of a student by CMI.

    A step of a round shows the teacher a view of each image, for the contrastive loss another one, and the student one
    for the adversarial loss, each with a way back.
    """
    cmi, teacher, student = config.cmi, _forward(config, "teacher"), _forward(config, "distillation")
    if not teacher or not student:
        return 0.0
    rounds = -(-config.distillation.target_images // cmi.round_images)
    views, guesses = 1 + (cmi.contrastive_weight > 0), int(cmi.adversarial_weight > 0)
    per_image = 2 * views * teacher + 2 * guesses * student + 3 * _generator(config, cmi)
    return of_distillation(config) + per_image * rounds * cmi.synthesis_steps * cmi.synthesis_batch_images


def _forward(config: TrialConfig, role: NetworkRole) -> float:
    """Floating-point operations of one image in one forward pass."""
    size = network_size(config, role)
    return 0.0 if size is None else size.forward_flops


def _gan_step(config: TrialConfig) -> float:
    """Floating-point operations per real image, forward and backward of both networks.

    31 GFLOP for the residual networks at width 256 and 32 px. Consistency regularisation shows D twice as many images
    in its own step.
    """
    generation = config.generation
    scale = (generation.width / 256) ** 2 * (generation.image_size_pixels / 32) ** 2
    scale *= 1.4 if generation.consistency_weight > 0 else 1.0
    scale *= 1.4 if (generation.networks, generation.image_size_pixels) == ("light", 64) else 1.0  # wider maps inside
    return 31e9 * scale / (4.7 if generation.networks == "light" else 1.0)


def _generator(config: TrialConfig, generator: MethodGeneratorConfig) -> float:
    """Floating-point operations of one image in one forward pass of `hidfd.networks.generator`, by its convolutions."""
    width, size = generator.width, generator.image_size_pixels
    products = 9 * width * config.data.channels * size**2
    if generator.networks == "light":
        start, doublings = {28: (7, 2), 32: (8, 2), 64: (8, 3)}[size]
        first = width << doublings
        products += 9 * first * width // 2 * start**2
        products += sum(8 * (first >> k) ** 2 * (start << k) ** 2 for k in range(doublings))
    else:
        start, doublings = {28: (7, 2), 32: (4, 3), 64: (4, 4)}[size]
        products += sum(73 * width**2 * (start << k) ** 2 for k in range(doublings))
    return 2.0 * products

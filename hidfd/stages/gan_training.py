"""The GAN under training: its networks, its optimisers and its step.

One step is `discriminator_steps` D updates and one G update; the last D update and the G update share one forward of G
and one teacher forward of x_g (detached for D). Every random number comes from (seed, purpose, images seen).

With `teacher_terms_every` k > 1 the teacher is asked in every k-th step alone, and its terms have k times their weight.

On several processes each holds its rows of the real and of the generated images: the i-th real one with the i-th
generated, as in the global batch.

**Source**: paper Eqs. 8-12 and supplement (networks, ADC-GAN). The sharing and the EMA in images are this project's.
Terms in every k-th step: StyleGAN2's lazy regularisation (Karras et al. 2020), with Adam's settings left as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hidfd.config.schema import EmaConfig, TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.pixels import resize_uint8, signed_from_unit, unit_from_signed, unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import Draws, stream
from hidfd.losses.adc_gan import adc_d, adc_g, hinge_d, hinge_g
from hidfd.losses.feature_integration import TeacherRegressor, blend_loss_by_class, blend_loss_by_position, trans_loss
from hidfd.losses.frequency_smoothing import MIN_CLASSES, FrequencySmoothing
from hidfd.losses.regularisers import LeCam, consistency_loss, consistency_view
from hidfd.networks.discriminator import build_discriminator
from hidfd.networks.generator import generator_of
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED
from hidfd.views.augmentation import diff_augment
from hidfd.views.sampler import HybridSampler


class AdversarialTraining:
    """G, D, r, their optimisers, the EMA of G, and the class frequencies: all that a step reads and writes."""

    def __init__(self, config: TrialConfig, collection: Collection, teacher: Teacher, device: Device) -> None:
        settings, data = config.generation, config.data
        self.config, self.settings, self.teacher, self.device = config, settings, teacher, device
        self.seed = config.seeds.generation
        torch.manual_seed(stream(self.seed, "generation", "init").initial_seed())
        shape = {"image_size_pixels": settings.image_size_pixels, "width": settings.width}
        self.generator = device.trained(generator_of(settings, data))
        self.discriminator = device.trained(
            build_discriminator(
                settings.networks,
                **shape,
                num_classes=data.num_classes,
                channels=data.channels,
                has_attention=settings.attention,
            )
        )
        self.regressor = device.trained(
            TeacherRegressor(
                self.discriminator.feature_width,
                settings.integration.hidden_width,
                teacher.backbone.feature_width,
            )
        )
        # Sampled by one process alone, so its batch norms are plain ones.
        self.ema = device.module(generator_of(settings, data)).eval().requires_grad_(False)
        self.ema.load_state_dict(self.generator.state_dict())
        self.present_classes = torch.unique(collection.labels)
        self.absent_classes = sorted(set(range(data.num_classes)) - set(self.present_classes.tolist()))
        smoothing = FrequencySmoothing(settings.smoothing, self.present_classes, device.processes)
        self.smoothing = smoothing.to(device.torch_device)
        self.lecam = LeCam(device.processes).to(device.torch_device)
        betas = (settings.adam_beta1, settings.adam_beta2)
        self.optimizer_g = torch.optim.Adam(
            self.generator.parameters(), lr=settings.generator_learning_rate, betas=betas, fused=True
        )
        self.optimizer_d = torch.optim.Adam(
            [*self.discriminator.parameters(), *self.regressor.parameters()],
            lr=settings.discriminator_learning_rate,
            betas=betas,
            fused=True,
        )
        self.grids: dict[str, Tensor] = {}
        # Kept, because walking through the modules in each step takes the host longer than the device.
        self._discriminator_parameters = list(self.discriminator.parameters())
        self._averages: list[Tensor] = list(self.ema.parameters())
        self._averaged: list[Tensor] = list(self.generator.parameters())
        self._copied = _by_dtype(self.ema.buffers(), self.generator.buffers())

        # The real images at the GAN's size, resident as uint8, and the teacher's features of them, both also mirrored:
        # the teacher sees no DiffAugment, so t(x_r) never changes.
        real = resize_uint8(collection.images, settings.image_size_pixels)
        versions = [real, real.flip(3)] if settings.flip else [real]
        self.real = torch.stack([device.images(version) for version in versions])
        self.real_features = torch.stack([device.put(teacher.ask_all(version, device).pooled) for version in versions])
        self.real_labels = device.put(collection.labels)
        self.sampler = HybridSampler(len(real), 0, 1.0, self.seed, stage="generation")

    @property
    def uses_integration(self) -> bool:
        """Whether the discriminator has a term of feature integration."""
        weights = self.settings.integration
        return weights.trans_weight > 0 or weights.blend_weight > 0

    @property
    def uses_smoothing(self) -> bool:
        """Whether the generator has the term of frequency smoothing, which few classes rule out."""
        return self.config.smoothing_is_on and len(self.present_classes) >= MIN_CLASSES

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Take `discriminator_steps` D updates on the next real images, then one G update."""
        batch = self.settings.batch_images
        last = images_seen + (self.settings.discriminator_steps - 1) * batch
        step = images_seen // (batch * self.settings.discriminator_steps)
        is_due = step % self.settings.teacher_terms_every == 0
        skipped = []
        for position in range(images_seen, last, batch):
            with torch.no_grad():
                fake, labels, answer = self._generate(position, ask=is_due and self.uses_integration)
            skipped.append(self._update_discriminator(position, fake, labels, answer)[SKIPPED])
        fake, labels, answer = self._generate(last, ask=is_due and (self.uses_integration or self.uses_smoothing))
        metrics = self._update_discriminator(last, fake.detach(), labels, answer)
        metrics |= self._update_generator(images_seen, fake, labels, answer)
        # One step of the loop, however many of its updates were skipped.
        metrics[SKIPPED] = torch.stack([*skipped, metrics[SKIPPED], metrics.pop("skipped_g")]).amax()
        self._update_ema(images_seen, batch * self.settings.discriminator_steps)
        return metrics

    def latents(self, position: int, batch: int, purpose: str = "latent") -> tuple[Tensor, Tensor]:
        """Draw z ~ N(0, I), `batch x latent_dim`, and y' uniform over the classes that D_c has."""
        draws = stream(self.seed, "generation", purpose, position)
        z = torch.randn(batch, self.settings.latent_dim, generator=draws)
        labels = self.present_classes[torch.randint(len(self.present_classes), (batch,), generator=draws)]
        return self.device.put(z), self.device.put(labels)

    def _generate(self, position: int, *, ask: bool = True) -> tuple[Tensor, Tensor, TeacherOutput | None]:
        """Generate this process's x_g for its y'; with `ask`, also the teacher's answer to x_g."""
        z, labels = map(self.device.processes.part, self.latents(position, self.settings.batch_images))
        with self.device.autocast():
            fake: Tensor = self.generator(z, labels)
            return fake, labels, self.teacher(unit_from_signed(fake)) if ask else None

    def _real_batch(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, part = self.settings.batch_images, self.device.processes.part
        index = self.device.put(part(self.sampler.batch(position, batch)[0]))
        version = torch.zeros(batch, dtype=torch.int64)
        if self.settings.flip:
            version = torch.randint(2, (batch,), generator=stream(self.seed, "generation", "flip", position))
        version = self.device.put(part(version))
        image_signed = signed_from_unit(unit_from_uint8(self.real[version, index]))
        return image_signed, self.real_labels[index], self.real_features[version, index]

    def _draws(self, purpose: str, position: int, *, halves: int) -> Draws:
        """Return the draws of this process's images of a global batch, or of two of them one after the other."""
        numbers, batch = stream(self.seed, "generation", purpose, position), self.settings.batch_images
        if self.device.processes.is_alone:
            return Draws(numbers)
        own = torch.arange(batch)[self.device.processes.rows(batch)]
        return Draws(numbers, halves * batch, torch.cat([half * batch + own for half in range(halves)]))

    def _update_discriminator(
        self, position: int, fake: Tensor, labels_fake: Tensor, answer: TeacherOutput | None
    ) -> dict[str, Tensor]:
        settings, weights = self.settings, self.settings.integration
        real, labels_real, teacher_real = self._real_batch(position)
        draws = self._draws("augment_d", position, halves=2)
        self._train_discriminator(True)
        with self.device.autocast():
            shown = both = diff_augment(torch.cat([real, fake]), settings.diff_augment, draws)
            if settings.consistency_weight > 0:
                view = consistency_view(both, self._draws("consistency", position, halves=2))
                shown = torch.cat([both, view])  # in one batch, so that spectral norm iterates once
            output = self.discriminator(shown)
            score_real, score_fake, *score_views = output.adversarial.split(len(real))
            adc_real, adc_fake = output.adc[: len(both)].chunk(2)
        losses = {
            "hinge_d": hinge_d(score_real, score_fake),
            "adc_d": adc_d(adc_real, labels_real, adc_fake, labels_fake),
        }
        total = settings.adversarial_weight * losses["hinge_d"] + settings.adc_weight * losses["adc_d"]
        if settings.consistency_weight > 0:
            of_real, of_fake = map(consistency_loss, (score_real, score_fake), score_views)
            losses["consistency"] = of_real + of_fake
            total = total + settings.consistency_weight * losses["consistency"]
        if settings.lecam_weight > 0:
            losses["lecam"] = self.lecam.loss(score_real, score_fake)
            total = total + settings.lecam_weight * losses["lecam"]
        if self.uses_integration and answer is not None:
            every = settings.teacher_terms_every
            teacher_fake = answer.pooled.detach()
            with self.device.autocast():
                regressed_real, regressed_fake = self.regressor(output.features[: len(both)]).chunk(2)
            if weights.trans_weight > 0:
                losses["trans"] = trans_loss(teacher_real, regressed_real, teacher_fake, regressed_fake)
                total = total + every * weights.trans_weight * losses["trans"]
            if weights.blend_weight > 0:
                if weights.pairing == "position":
                    blend = blend_loss_by_position(teacher_real, regressed_real, teacher_fake, regressed_fake)
                else:
                    blend = blend_loss_by_class(
                        teacher_real,
                        regressed_real,
                        labels_real,
                        teacher_fake,
                        regressed_fake,
                        labels_fake,
                        self.config.data.num_classes,
                        self.device.processes,
                    )
                losses["blend"] = blend
                total = total + every * weights.blend_weight * blend
        self.optimizer_d.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses[SKIPPED] = apply_gradients(self.optimizer_d, [total], self.device.processes)
        losses["score_real"], losses["score_fake"] = score_real.float().mean(), score_fake.float().mean()
        return {name: loss.detach() for name, loss in losses.items()}

    def _update_generator(
        self, position: int, fake: Tensor, labels: Tensor, answer: TeacherOutput | None
    ) -> dict[str, Tensor]:
        settings = self.settings
        draws = self._draws("augment_g", position, halves=1)
        self._train_discriminator(False)
        with self.device.autocast():
            output = self.discriminator(diff_augment(fake, settings.diff_augment, draws))
        losses = {"hinge_g": hinge_g(output.adversarial), "adc_g": adc_g(output.adc, labels)}
        total = settings.adversarial_weight * losses["hinge_g"] + settings.adc_weight * losses["adc_g"]
        if answer is not None:
            if self.uses_smoothing:
                losses["reg"] = self.smoothing.loss(answer.logits)
                total = total + settings.teacher_terms_every * settings.smoothing.weight * losses["reg"]
            losses["teacher_agreement"] = (answer.logits.detach().argmax(dim=1) == labels).float().mean()
        self.optimizer_g.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses["skipped_g"] = apply_gradients(self.optimizer_g, [total], self.device.processes)
        if answer is not None:
            # After the backward pass, which still needs the old weights.
            self.smoothing.count(answer.logits, settings.teacher_terms_every)
        return {name: loss.detach() for name, loss in losses.items()}

    def _train_discriminator(self, trained: bool) -> None:
        """Choose whether gradients of the next losses reach the discriminator's weights."""
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(trained)

    @torch.no_grad()
    def _update_ema(self, images_seen: int, step_images: int) -> None:
        beta = ema_beta(self.settings.ema, images_seen, step_images)
        torch._foreach_lerp_(self._averages, self._averaged, 1.0 - beta)
        # Spectral-norm vectors follow G; batch-norm statistics are re-estimated before sampling.
        for averages, values in self._copied:
            torch._foreach_copy_(averages, values)

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "regressor": self.regressor.state_dict(),
            "ema": self.ema.state_dict(),
            "smoothing": self.smoothing.state_dict(),
            "lecam": self.lecam.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "grids": self.grids,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        networks = ("generator", "discriminator", "regressor", "ema", "smoothing", "lecam")
        for name in (*networks, "optimizer_g", "optimizer_d"):
            getattr(self, name).load_state_dict(state[name])
        self.grids = state["grids"]


def _by_dtype(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return targets and their sources in lists of one dtype each, which one kernel can copy."""
    lists: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        of_targets, of_sources = lists.setdefault(target.dtype, ([], []))
        of_targets.append(target)
        of_sources.append(source)
    return list(lists.values())


def ema_beta(config: EmaConfig, images_seen: int, step_images: int) -> float:
    """Return the weight of the old average in a step: 0 until `start_images`, then 0.5^(step_images / half life)."""
    if images_seen < config.start_images:
        return 0.0
    half_life = float(config.half_life_images)
    if config.ramp is not None:
        half_life = min(half_life, config.ramp * images_seen)
    return 0.5 ** (step_images / half_life) if half_life > 0 else 0.0

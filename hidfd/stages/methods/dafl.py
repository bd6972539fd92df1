"""DAFL: a generator that pleases the teacher, and a student that learns from its images in the same step.

**Source**: Chen et al. 2019 (Data-Free Learning of Student Networks); see docs/method.md for its losses and departures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.pixels import resize_unit, uint8_from_unit, unit_from_signed
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import stream
from hidfd.losses.data_free import activation_loss, entropy_loss, one_hot_loss
from hidfd.networks.generator import classless_generator
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.stages.context import StageContext
from hidfd.stages.methods.student_training import SHOWN_COLUMNS, StudentLearner, train_student
from hidfd.store.store import Artifact
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED


def learn_data_free(context: StageContext, collection: Collection, teacher: Teacher) -> Artifact:
    """Train generator and student together until the student has seen its budget of images.

    Args:
        collection: its hold-out measures the student; no image of it is learned from.

    Returns:
        Artifact with `student.safetensors` and `metrics.jsonl`.
    """
    with context.preparing():
        training = DaflTraining(context.config, collection, teacher, context.device)
    settings = context.config.distillation
    made = -(-settings.target_images // settings.batch_images) * settings.batch_images
    facts = {"real_share": 0.0, "num_real": 0, "num_synthetic": made}
    return train_student(context, training, collection, lambda: facts)


class DaflTraining(StudentLearner):
    """A student, a generator without classes, and their optimisers."""

    def __init__(self, config: TrialConfig, collection: Collection, teacher: Teacher, device: Device) -> None:
        super().__init__(config, collection, teacher, device)
        torch.manual_seed(stream(self.seed, "dafl", "init").initial_seed())
        self.generator = device.module(classless_generator(config.dafl, config.data.channels))
        self.optimizer_g = torch.optim.Adam(
            self.generator.parameters(), lr=config.dafl.generator_learning_rate, fused=True
        )

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Take one step of the generator on a batch of new images, and one of the student on the same ones."""
        image, answer = self.generate(images_seen)
        metrics = self._update_generator(answer)
        seen = TeacherOutput(answer.feature_map.detach(), answer.pooled.detach(), answer.logits.detach())
        learned = self.learn(images_seen, image.detach(), seen)
        return metrics | learned | {SKIPPED: torch.maximum(metrics[SKIPPED], learned[SKIPPED])}

    def generate(self, images_seen: int) -> tuple[Tensor, TeacherOutput]:
        """Return new images, normalised, and the teacher's answer; both have a graph back to the generator."""
        with self.device.autocast():
            image_normalised = self._draw(self.settings.batch_images, "latent", images_seen)
            return image_normalised, self.teacher.ask(image_normalised)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Return images of the generator as it is now; what lies outside of black and white is clamped."""
        with self.device.autocast():
            image_normalised = self._draw(SHOWN_COLUMNS**2, "samples", 0)
        return uint8_from_unit(self.teacher.normalization.inverse(image_normalised))

    def _draw(self, batch: int, purpose: str, position: int) -> Tensor:
        z = torch.randn(batch, self.config.dafl.latent_dim, generator=stream(self.seed, "dafl", purpose, position))
        signed = self.generator(self.device.put(z), self.device.put(torch.zeros(batch, dtype=torch.int64)))
        if not self.config.dafl.standardised:
            return self.teacher.normalised(unit_from_signed(signed))
        resized = resize_unit(signed.float(), self.teacher.image_size_pixels)
        return F.batch_norm(resized, None, None, training=True)

    def _update_generator(self, answer: TeacherOutput) -> dict[str, Tensor]:
        settings = self.config.dafl
        losses = {
            "one_hot": one_hot_loss(answer.logits),
            "activation": activation_loss(answer.pooled),
            "entropy": entropy_loss(answer.logits),
        }
        total = (
            settings.one_hot_weight * losses["one_hot"]
            + settings.activation_weight * losses["activation"]
            + settings.entropy_weight * losses["entropy"]
        )
        self.optimizer_g.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses[SKIPPED] = apply_gradients(self.optimizer_g, [total], self.device.processes)
        return {name: loss.detach() for name, loss in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        self.optimizer_g.load_state_dict(state["optimizer_g"])

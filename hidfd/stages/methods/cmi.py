"""CMI: rounds of images that are inverted from the teacher and unlike those before, and a student that learns from all.

**Source**: Fang et al. 2021 (Contrastive Model Inversion); see docs/method.md for its losses and departures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.pixels import uint8_from_unit, unit_from_signed
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import Draws, stream
from hidfd.errors import UnbuildableError
from hidfd.losses.data_free import adversarial_loss, class_loss, contrastive_loss, statistics_loss
from hidfd.networks.batch_norm_inputs import batch_norms_of, map_and_batch_norm_inputs
from hidfd.networks.generator import classless_generator
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.watch import images_done, watched
from hidfd.stages.context import StageContext
from hidfd.stages.methods.student_training import SHOWN_COLUMNS, StudentLearner, train_student
from hidfd.store.store import Artifact
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED
from hidfd.views.augmentation import random_resized_crop, random_shift
from hidfd.views.fresh import FreshViews
from hidfd.views.sampler import HybridSampler

BETAS = (0.5, 0.999)
"""Adam's betas of generator and latents, as released."""

SHIFT_PIXELS = 4
LOCAL_SCALE_MIN = 0.25
"""Shift of a global view at most, and smallest share of the area in a local one, as released."""


def learn_from_inversions(context: StageContext, collection: Collection, teacher: Teacher) -> Artifact:
    """Train a student to its budget of images, with a round of new ones whenever one is due.

    Args:
        collection: its hold-out measures the student; no image of it is learned from.

    Returns:
        Artifact with `student.safetensors` and `metrics.jsonl`.

    Raises:
        UnbuildableError: the teacher has no batch norm.
    """
    stage, observer = context.stage, context.observer
    with context.preparing():
        training = CmiTraining(
            context.config,
            collection,
            teacher,
            context.device,
            watch=lambda: watched(observer, stage, None, f"{stage.role}: a round of images"),
        )

    def facts() -> dict[str, Any]:
        return {"real_share": 0.0, "num_real": 0, "num_synthetic": len(training.images)}

    return train_student(context, training, collection, facts)


class CmiTraining(StudentLearner):
    """A student, the bank of images that it learns from, and the network that tells views apart.

    A round is made within one step of the student, so its generator and latents are in no checkpoint: a stop in the
    middle of it goes back to the checkpoint before.

    Args:
        watch: returns a block in which `hidfd.pipeline.watch.images_done` may stop a round.

    Attributes:
        images: `n x c x s x s` uint8, the bank.
        features: `n x 2 x d`, of a local and of a global view of each of its images; d channels over all batch norms.
    """

    def __init__(
        self,
        config: TrialConfig,
        collection: Collection,
        teacher: Teacher,
        device: Device,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(config, collection, teacher, device)
        num_channels = sum(norm.num_features for norm in batch_norms_of(teacher.backbone))
        if not num_channels:
            raise UnbuildableError(
                f"trial.method: cmi compares images with the statistics of a teacher's batch norms, and "
                f"{config.teacher.architecture} has none; choose another method or teacher"
            )
        self.watch = watch
        torch.manual_seed(stream(self.seed, "cmi", "init").initial_seed())
        width, side = config.cmi.embedding_width, config.cmi.image_size_pixels
        self.embedding = device.module(
            nn.Sequential(nn.Linear(num_channels, num_channels), nn.ReLU(), nn.Linear(num_channels, width))
        )
        self.optimizer_h = torch.optim.Adam(
            self.embedding.parameters(), lr=config.cmi.generator_learning_rate, fused=True
        )
        self.images = torch.empty(0, config.data.channels, side, side, dtype=torch.uint8, device=device.torch_device)
        self.features = torch.empty(0, 2, num_channels, device=device.torch_device)
        self.views = self._views()

    @property
    def num_rounds(self) -> int:
        """Rounds of images that the bank has."""
        return len(self.images) // self.config.cmi.synthesis_batch_images

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Make a round of images if one is due, then take one SGD step on views of the bank."""
        metrics: dict[str, Tensor] = {}
        if images_seen >= self.num_rounds * self.config.cmi.round_images:
            with self.watch():
                metrics = self.add_round()
        learned = self.learn(images_seen, *self.views.batch(images_seen))
        if SKIPPED in metrics:
            learned[SKIPPED] = torch.maximum(metrics[SKIPPED], learned[SKIPPED])
        return metrics | learned

    def add_round(self) -> dict[str, Tensor]:
        """Optimise a fresh generator and its latents; put the images of the step of the lowest loss into the bank.

        Returns:
            Means of the losses over the steps, and whether one was skipped.
        """
        settings, number = self.config.cmi, self.num_rounds
        torch.manual_seed(stream(self.seed, "cmi", "generator", number).initial_seed())
        generator = self.device.module(classless_generator(settings, self.config.data.channels))
        draws, batch = stream(self.seed, "cmi", "latent", number), settings.synthesis_batch_images
        z = self.device.put(torch.randn(batch, settings.latent_dim, generator=draws)).requires_grad_()
        labels = self.device.put(torch.randint(self.config.data.num_classes, (batch,), generator=draws))
        optimizer = torch.optim.Adam(
            [*generator.parameters(), z], lr=settings.generator_learning_rate, betas=BETAS, fused=True
        )
        optimizers = [optimizer, self.optimizer_h] if settings.contrastive_weight > 0 else [optimizer]
        best = torch.full((), torch.inf, device=z.device)
        images = self.images.new_zeros(batch, *self.images.shape[1:])
        features = self.features.new_zeros(batch, *self.features.shape[1:])
        sums: dict[str, Tensor] = {}
        self.student.eval()
        for step in range(settings.synthesis_steps):
            with self.device.autocast():
                image_unit = unit_from_signed(generator(z, torch.zeros_like(labels)))
            losses, found = self.losses_of_images(image_unit, labels, number * settings.synthesis_steps + step)
            is_better = losses["inversion"].detach() < best
            best = torch.where(is_better, losses["inversion"].detach(), best)
            images = torch.where(is_better, uint8_from_unit(image_unit.detach()), images)
            features = torch.where(is_better, found.detach(), features)
            for trained in optimizers:
                trained.zero_grad()
            reached = [parameter for trained in optimizers for parameter in trained.param_groups[0]["params"]]
            losses["inversion"].backward(inputs=reached)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            skipped = [apply_gradients(trained, [losses["inversion"]]) for trained in optimizers]
            losses[SKIPPED] = torch.stack(skipped).amax()
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
            images_done(0)
        self.images = self.device.images(torch.cat([self.images, images]))
        self.features, self.views = torch.cat([self.features, features]), self._views()
        means = {name: total / settings.synthesis_steps for name, total in sums.items()}
        return means | {SKIPPED: (sums[SKIPPED] > 0).float()}

    def losses_of_images(self, image_unit: Tensor, labels: Tensor, position: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return every loss term of new images, unweighted, and `inversion`, the total; and features, `b x 2 x d`.

        Args:
            image_unit: `b x c x s x s` in [0, 1].
            labels: `b` int64, the classes that they were asked to be of.
            position: number of the step over all rounds, which names its random numbers.
        """
        settings, size = self.config.cmi, self.teacher.image_size_pixels
        numbers = stream(self.seed, "cmi", "views", position)
        whole = random_shift(image_unit, SHIFT_PIXELS, Draws(numbers), flip=True)
        with self.device.autocast():
            whole = self.teacher.normalised(whole)
            feature_map, seen = map_and_batch_norm_inputs(self.teacher.backbone, whole)
            answer = self.teacher.backbone.classifier(feature_map.mean(dim=(2, 3)))
        losses = {
            "statistics": statistics_loss(
                (features, cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)) for norm, features in seen
            ),
            "class": class_loss(answer, labels),
        }
        total = settings.statistics_weight * losses["statistics"] + settings.class_weight * losses["class"]
        if settings.adversarial_weight > 0:
            with self.device.autocast():
                guess = self.student(whole).logits
            losses["adversarial"] = adversarial_loss(guess, answer)
            total = total + settings.adversarial_weight * losses["adversarial"]
        if settings.contrastive_weight == 0:  # nothing is compared, so the bank's features are left empty
            return losses | {"inversion": total}, self.features.new_zeros(len(labels), *self.features.shape[1:])
        local = random_resized_crop(image_unit, size, Draws(numbers), scale_min=LOCAL_SCALE_MIN, flip=True)
        with self.device.autocast():
            _, seen_locally = map_and_batch_norm_inputs(self.teacher.backbone, self.teacher.normalised(local))
        own = torch.stack([_channel_means(seen_locally), _channel_means(seen)], dim=1)
        order = torch.randperm(len(self.features), generator=stream(self.seed, "cmi", "negatives", position))
        others = self.features[self.device.put(order[: settings.negatives])]
        with self.device.autocast():
            embedded = self.embedding(torch.cat([own, others]))
        views = F.normalize(embedded.float(), dim=2)
        losses["contrastive"] = contrastive_loss(views[:, 0], views[:, 1], settings.contrastive_temperature, len(own))
        total = total + settings.contrastive_weight * losses["contrastive"]
        return losses | {"inversion": total}, own

    def _views(self) -> FreshViews:
        """Return the views of the bank as it is now; of an empty one none can be drawn."""
        sampler = HybridSampler(0, max(1, len(self.images)), 1.0, self.seed)
        return FreshViews(None, self.images, sampler, self.teacher, self.settings, self.seed, self.device)

    def samples(self) -> Tensor:
        """Return the newest images of the bank."""
        return self.images[-(SHOWN_COLUMNS**2) :]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "embedding": self.embedding.state_dict(),
            "optimizer_h": self.optimizer_h.state_dict(),
            "images": self.images,
            "features": self.features,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.embedding.load_state_dict(state["embedding"])
        self.optimizer_h.load_state_dict(state["optimizer_h"])
        self.images = self.device.images(state["images"])
        self.features, self.views = state["features"].to(self.device.torch_device), self._views()


def _channel_means(seen: list[tuple[nn.BatchNorm2d, Tensor]]) -> Tensor:
    """Return the mean of every channel before every batch norm, `b x d`."""
    return torch.cat([features.float().mean(dim=(2, 3)) for _, features in seen], dim=1)

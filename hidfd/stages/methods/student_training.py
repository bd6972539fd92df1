"""The training of a student, whatever method gives it its images: network, optimiser, step and measurements.

**Source**: paper Eqs. 13-14 and its schedule. Departures: a fixed number of steps whatever N; the last step is the
result, no step is chosen by any measurement; views are drawn per batch on the device, or once (`hidfd.views.bank`).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hidfd.config.schema import DistillationConfig, TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.pictures import encode_png, tile
from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import seed_layers, stream
from hidfd.errors import DivergedError
from hidfd.losses.distillation import student_losses
from hidfd.metrics.agreement import measure_agreement
from hidfd.networks.student import StudentOutput, build_student, student_logits
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.stages.context import StageContext, train_and_keep, write_weights
from hidfd.store.store import Artifact, ArtifactWriter
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED, Milestone
from hidfd.training.lr_schedule import warmup_cosine
from hidfd.views.bank import ViewBank, ViewSource
from hidfd.views.fresh import FreshViews, Views
from hidfd.views.sampler import HybridSampler

PROBE_IMAGES = 64
"""Number of hold-out images that show the teacher's map: its side, and whether it goes below zero."""

SHOWN_COLUMNS = 10
"""Number of columns, and of rows at most, of the grid of images that a method has made."""

MEASURED = ("agreement", "agreement_standard_error", "kl_to_teacher")
"""Names of the numbers that are measured during training."""


class StudentLearner(ABC):
    """A student, its optimiser, and what it is measured by; a subclass has `step`, and says what the images are.

    Attributes:
        prepared_seconds: time that belongs to the stage and came before its first step.
    """

    def __init__(self, config: TrialConfig, collection: Collection, teacher: Teacher, device: Device) -> None:
        settings = config.distillation
        self.config, self.settings, self.teacher, self.device = config, settings, teacher, device
        self.seed = config.seeds.distillation
        self.prepared_seconds = 0.0
        with torch.no_grad(), device.autocast():
            probe = teacher(unit_from_uint8(device.images(collection.holdout[:PROBE_IMAGES])))
        self.last_relu = bool((probe.feature_map >= 0).all())
        self.holdout_logits = teacher.logits_of(collection.holdout, device)
        torch.manual_seed(stream(self.seed, "distillation", "init").initial_seed())
        self.student = device.trained(
            build_student(config, teacher, probe.feature_map.shape[-1], last_relu=self.last_relu)
        )
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(
            trained,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @abstractmethod
    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Take one step on the images that follow `images_seen`, see `hidfd.training.loop.Training`."""

    def learn(self, images_seen: int, image_normalised: Tensor, answer: TeacherOutput) -> dict[str, Tensor]:
        """Take one SGD step on a batch and the teacher's answer to it, which need no gradient; return its metrics."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.settings, images_seen)
        if not self.student.training:  # as a measurement leaves it
            self.student.train()
        seed_layers(self.seed, "distillation", images_seen, self.device.processes.rank)
        with self.device.autocast():
            output = self.student(image_normalised)
        losses = self.losses_of(output, answer)
        self.optimizer.zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics[SKIPPED] = apply_gradients(self.optimizer, [losses["total"]], self.device.processes)
        same = output.logits.detach().argmax(dim=1) == answer.logits.argmax(dim=1)
        metrics["batch_agreement"] = same.float().mean()
        return metrics

    def losses_of(self, output: StudentOutput, answer: TeacherOutput) -> dict[str, Tensor]:
        """Return every loss term of a batch, unweighted, and `total`, their weighted sum."""
        return student_losses(output, answer.feature_map, answer.logits, self.settings)

    def logits_of(self, images_uint8: Tensor) -> Tensor:
        """Return the student's logits of many images, float32 on the CPU."""
        return student_logits(self.student, self.teacher, images_uint8, self.device)

    def samples(self) -> Tensor | None:
        """Return images that the method has made, `n x c x s x s` uint8, for people; None where it makes none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])


class StudentTraining(StudentLearner):
    """A student, its optimiser, and the views of a fixed set of images that it learns from.

    Args:
        synthetic: `n_s x c x h x w` uint8, or None for real images only.
        caches: folders for a bank of views, of the artifacts that its `real` and `synthetic` images come from.
    """

    def __init__(
        self,
        config: TrialConfig,
        collection: Collection,
        synthetic: Tensor | None,
        teacher: Teacher,
        device: Device,
        caches: Mapping[str, Path] | None = None,
    ) -> None:
        super().__init__(config, collection, teacher, device)
        real, inflation = collection.images if config.uses_real_images else None, self.settings.inflation
        self.sampler = HybridSampler(
            0 if real is None else len(real), 0 if synthetic is None else len(synthetic), inflation, self.seed
        )
        self.views = self._views(real, synthetic, caches or {})

    def _views(self, real: Tensor | None, synthetic: Tensor | None, caches: Mapping[str, Path]) -> Views:
        teacher, settings, device = self.teacher, self.settings, self.device
        if not settings.view_bank:
            resident = [None if images is None else device.images(images) for images in (real, synthetic)]
            return FreshViews(resident[0], resident[1], self.sampler, teacher, settings, self.seed, device)
        started = time.monotonic()
        sources = [
            None if images is None else ViewSource(name, images, caches.get(name))
            for name, images in (("real", real), ("synthetic", synthetic))
        ]
        bank = ViewBank(sources[0], sources[1], self.sampler.real_share, teacher, settings, self.seed, device)
        self.prepared_seconds = time.monotonic() - started
        return bank

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Take one SGD step on the next batch of views and the teacher's answers to them."""
        return self.learn(images_seen, *self.views.batch(images_seen))

    def counts(self) -> dict[str, Any]:
        """Return how many images the student learns from, and the share of real ones among what it sees."""
        sampler = self.sampler
        return {
            "real_share": sampler.real_share,
            "num_real": sampler.num_real,
            "num_synthetic": sampler.num_synthetic,
        }


def train_student(
    context: StageContext, training: StudentLearner, collection: Collection, facts: Callable[[], dict[str, Any]]
) -> Artifact:
    """Train a student to its budget of images, and measure it on the hold-out on the way.

    Args:
        facts: returns what the method adds to the artifact's meta at the end: `num_real`, `num_synthetic`,
            `real_share`, and whatever else it knows.

    Returns:
        Artifact with `student.safetensors`, `metrics.jsonl` and, of a method that makes images, `grid-<images>.png`.

    Raises:
        DivergedError: the student's answers, a loss or a gradient were not finite.
    """
    stage, settings, observer = context.stage, context.config.distillation, context.observer

    def measure(images: int) -> dict[str, float]:
        student_logits = training.logits_of(collection.holdout)
        measured = measure_agreement(student_logits, training.holdout_logits)
        metrics = dict(zip(MEASURED, (measured.value, measured.standard_error, measured.kl), strict=True))
        if not math.isfinite(measured.kl):
            raise DivergedError(
                f"distillation: the student's logits are not finite at {images:,} images; lower its learning rate. "
                f"What was built before is intact"
            )
        observer.measured(stage, images, metrics)
        return {f"distillation/{name}": value for name, value in metrics.items()}

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        write_weights(writer, "student.safetensors", training.student)
        if (samples := training.samples()) is not None:
            columns = min(SHOWN_COLUMNS, len(samples))
            shown = samples[: len(samples) // columns * columns].cpu().contiguous()
            grid = tile(shown[: SHOWN_COLUMNS**2], columns)
            writer.path(f"grid-{settings.target_images:012d}.png").write_bytes(encode_png(grid))
        return facts() | {
            "teacher_map_size": training.student.teacher_map_size,
            "last_relu": training.last_relu,
            "deployed_parameters": training.student.num_deployed_parameters(),
            "plain_parameters": training.student.num_plain_parameters(),
        }

    return train_and_keep(
        context,
        training,
        write,
        target_images=settings.target_images,
        step_images=settings.batch_images,
        milestones=[Milestone(measure, settings.measure_every_images, observer.measure_at_images)],
        on_resume=lambda rows: replay(stage, rows, observer),
        prepared_seconds=training.prepared_seconds,
    )


def replay(stage: Stage, rows: Iterable[Mapping[str, float]], observer: Observer) -> None:
    """Tell an observer what an earlier run has measured: a study compares students that it did not see train too."""
    for row in rows:
        if "distillation/agreement" in row:
            observer.measured(stage, int(row["images"]), {name: row[f"distillation/{name}"] for name in MEASURED})


def learning_rate_at(settings: DistillationConfig, images_seen: int) -> float:
    """Return the learning rate of the step that follows `images_seen` images."""
    progress = images_seen / settings.target_images
    if settings.schedule == "cosine":
        return settings.learning_rate * warmup_cosine(progress, 0.0)
    passed = sum(progress >= share for share in settings.decay_at)
    return settings.learning_rate * settings.decay_factor**passed

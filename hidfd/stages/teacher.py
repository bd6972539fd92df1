"""The teacher, trained here or imported (`hidfd.stages.imports.weights`): later stages read it frozen."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import ImageSet, open_images
from hidfd.data.pixels import Normalization, unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import Draws, seed_layers, stream
from hidfd.errors import TeacherError
from hidfd.formatting import percent
from hidfd.metrics.teacher_check import TeacherCheck, best_order
from hidfd.networks.teacher import Teacher, build_teacher_backbone
from hidfd.pipeline.watch import watched
from hidfd.stages.context import StageContext, train_and_keep, write_network
from hidfd.store.store import Artifact, ArtifactWriter
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED
from hidfd.training.lr_schedule import warmup_cosine
from hidfd.views.augmentation import random_shift
from hidfd.views.sampler import HybridSampler

CHECKED_CANDIDATES = 10_000
"""Number of candidates, at most, that a check asks the teacher about."""

CHECK = "check of the teacher"
"""What a check is called in messages."""

CHUNK_IMAGES = 2_000
"""Number of images of a check that are in memory at once."""


def train_teacher(context: StageContext, images: Artifact, validation: Artifact | None) -> Artifact:
    """Train a teacher on the user's labelled images.

    Args:
        validation: labelled images to measure its accuracy on; None where the trial has none.
    """
    config, train = context.config, context.config.teacher.train
    assert train is not None
    training = TeacherTraining(config, open_images(images), context.device)

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        meta = write_network(writer, training.backbone, training.mean, training.std) | {"trained_here": True}
        if validation is not None:
            # In the meta alone: the validation images change no weight, so they are not in the teacher's digest.
            meta["validation_accuracy"] = _validation_accuracy(context, training, open_images(validation))
            meta["validation_digest"] = validation.digest
        return meta

    return train_and_keep(context, training, write, target_images=train.target_images, step_images=train.batch_images)


def measure_teacher(
    context: StageContext, teacher: Teacher, candidates: Artifact, validation: Artifact | None
) -> Artifact:
    """Measure what the teacher answers, before anything is built on it; the meta holds a `TeacherCheck`.

    Args:
        context: with the stage that `hidfd.pipeline.graph.teacher_check_of` returns.
        validation: labelled images to measure its accuracy on; None where the trial has none.

    Raises:
        Stopped: the observer asked for it.
    """
    started = time.monotonic()
    with watched(context.observer, context.stage, None, CHECK):
        pool = open_images(candidates)
        labelled = None if validation is None else open_images(validation)
    drawn = torch.randperm(len(pool.pixels), generator=stream(0, "teacher", "check"))[:CHECKED_CANDIDATES]
    total = len(drawn) + (0 if labelled is None else len(labelled.pixels))
    context.observer.stage_started(context.stage, total)
    with watched(context.observer, context.stage, total, CHECK):
        logits = _answers(context, teacher, pool, drawn.sort().values.numpy())
        of_labelled = (
            None if labelled is None else _answers(context, teacher, labelled, np.arange(len(labelled.pixels)))
        )
    probabilities = logits.softmax(dim=1)
    shares = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]).double() / len(logits)
    num_not_finite = int((~logits.isfinite()).any(dim=1).sum())
    num_labelled, accuracy, largest_class_share, order, order_accuracy = 0, None, None, None, None
    if labelled is not None and of_labelled is not None:
        labels = torch.from_numpy(labelled.required_labels).long()
        num_not_finite += int((~of_labelled.isfinite()).any(dim=1).sum())
        given, num_classes = of_labelled.argmax(dim=1), logits.shape[1]
        num_labelled, accuracy = len(labels), (given == labels).float().mean().item()
        pairs = torch.bincount(labels * num_classes + given, minlength=num_classes**2).view(num_classes, num_classes)
        order = best_order(pairs.tolist())
        order_accuracy = (given == torch.tensor(order)[labels]).float().mean().item()
        largest_class_share = torch.bincount(labels).max().item() / len(labels)
    check = TeacherCheck(
        num_labelled=num_labelled,
        accuracy=accuracy,
        largest_class_share=largest_class_share,
        num_candidates=len(drawn),
        # An infinite answer must not make the record unreadable; it is counted.
        mean_confidence=probabilities.max(dim=1).values.nan_to_num().mean().item(),
        class_shares=shares.tolist(),
        num_not_finite=num_not_finite,
        best_order=order,
        best_order_accuracy=order_accuracy,
    )

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        meta = asdict(check)
        writer.path("teacher_check.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        return meta

    return context.keep(write, seconds=time.monotonic() - started)


def judge_teacher(record: Artifact, context: StageContext, *, is_said: bool = True) -> None:
    """Say what the teacher answers, and refuse one that cannot be right unless `trial.teacher.accept` takes it.

    Args:
        is_said: whether numbers and warnings are said; an error always is.

    Raises:
        TeacherError: names the likely causes, and how to go on nevertheless.
    """
    check = TeacherCheck(
        **{field.name: record.meta[field.name] for field in fields(TeacherCheck) if field.name in record.meta}
    )
    config = context.config
    is_taken = check.error is None or (config.teacher.accept and not check.num_not_finite)
    if is_said or not is_taken:
        said = [check.in_words(config.data.readable_names)]
        said += [f"warning: teacher: {warning}{check.causes}" for warning in check.warnings]
        if is_taken and check.error is not None:
            said.append(f"warning: teacher: {check.error}; taken all the same (trial.teacher.accept){check.causes}")
        for line in said:
            context.observer.note(line)
    if is_taken:
        return
    nevertheless = "" if check.num_not_finite else "; to go on with it all the same: trial.teacher.accept=true"
    raise TeacherError(f"trial.teacher: {check.error}{check.causes}{nevertheless}")


def _answers(context: StageContext, teacher: Teacher, images: ImageSet, chosen: np.ndarray) -> Tensor:
    """Return the logits of chosen images, `n x K` float32 on the CPU."""
    chunks = np.split(chosen, range(CHUNK_IMAGES, len(chosen), CHUNK_IMAGES))
    return torch.cat([teacher.ask_all(torch.from_numpy(images.pixels[part]), context.device).logits for part in chunks])


class TeacherTraining:
    """A teacher in training: cross-entropy to the labels, SGD with Nesterov momentum, linear warm-up and cosine."""

    def __init__(self, config: TrialConfig, data: ImageSet, device: Device) -> None:
        assert config.teacher.train is not None
        self.config, self.train, self.device = config, config.teacher.train, device
        self.mean, self.std = channel_statistics(data)
        torch.manual_seed(_seed_of(config))
        self.backbone = device.trained(build_teacher_backbone(config))
        self.normalization = device.module(Normalization(self.mean, self.std))
        self.images = device.images(torch.from_numpy(data.pixels))
        self.labels = device.put(torch.from_numpy(data.required_labels))
        self.sampler = HybridSampler(len(data.pixels), 0, 1.0, config.seeds.teacher, stage="teacher")
        self.optimizer = torch.optim.SGD(
            self.backbone.parameters(),
            lr=self.train.learning_rate,
            momentum=self.train.momentum,
            weight_decay=self.train.weight_decay,
            nesterov=True,
            fused=True,
        )

    def step(self, images_seen: int) -> dict[str, Tensor]:
        train, processes = self.train, self.device.processes
        index = self.device.put(processes.part(self.sampler.batch(images_seen, train.batch_images)[0]))
        numbers = stream(self.config.seeds.teacher, "teacher", "augmentation", images_seen)
        draws = Draws(numbers, train.batch_images, processes.rows(train.batch_images))
        image_unit = unit_from_uint8(self.images[index])
        image_unit = random_shift(image_unit, train.crop_padding_pixels, draws, flip=train.flip)
        labels = self.labels[index]
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * warmup_cosine(images_seen / train.target_images, train.warmup_fraction)
        self.backbone.train()
        seed_layers(self.config.seeds.teacher, "teacher", images_seen, processes.rank)
        with self.device.autocast():
            logits = self.backbone(self.normalization(image_unit))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        skipped = apply_gradients(self.optimizer, [loss], processes)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return {"cross_entropy": loss.detach(), "accuracy": accuracy, SKIPPED: skipped}

    def state_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.backbone.load_state_dict(state["backbone"])
        self.optimizer.load_state_dict(state["optimizer"])


def channel_statistics(data: ImageSet) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of unit images, rounded to 4 digits."""
    pixels = torch.from_numpy(data.pixels)
    counts = torch.stack([torch.bincount(pixels[:, c].flatten().int(), minlength=256) for c in range(pixels.shape[1])])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = (share * values).sum(dim=1)
    std = ((share * values**2).sum(dim=1) - mean**2).sqrt()
    return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.tolist()]


def _seed_of(config: TrialConfig) -> int:
    return stream(config.seeds.teacher, "teacher", "init").initial_seed()


def _validation_accuracy(context: StageContext, training: TeacherTraining, images: ImageSet) -> float:
    backbone = build_teacher_backbone(context.config)  # plain batch norms, which can be folded
    backbone.load_state_dict(training.backbone.state_dict())
    teacher = Teacher(backbone, training.mean, training.std, context.config.data.image_size_pixels)
    predicted = teacher.on(context.device).ask_all(torch.from_numpy(images.pixels), context.device).logits.argmax(dim=1)
    accuracy = (predicted == torch.from_numpy(images.required_labels)).float().mean().item()
    context.observer.note(f"teacher: {percent(accuracy, 2)} on {len(images.pixels):,} validation images")
    return accuracy

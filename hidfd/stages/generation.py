"""Teacher-guided generation: ADC-GAN on the collected images, with feature integration and frequency smoothing.

**Source**: paper Eqs. 8-12 and supplement; see `hidfd.stages.gan_training` for the step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hidfd.data.collection import Collection
from hidfd.data.pictures import encode_png
from hidfd.losses.frequency_smoothing import MIN_CLASSES
from hidfd.networks.backbone import num_parameters
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.graph import snapshots
from hidfd.stages.context import StageContext, train_and_keep, write_weights
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.generator_samples import GeneratorProbe
from hidfd.store.disk import store_errors
from hidfd.store.store import Artifact, ArtifactWriter
from hidfd.training.loop import Milestone


def train_generator(
    context: StageContext, collection: Collection, teacher: Teacher, samples: Path | None = None
) -> Artifact:
    """Train the GAN; keep the EMA generator, and the state from which a longer training continues.

    The shorter generators that the configuration asks for (`hidfd.pipeline.graph.snapshots`) are found or built first.

    Args:
        samples: folder for the sample grids as they are drawn, `generation-<images>.png`; None = nowhere.

    Returns:
        Artifact with `generator.safetensors` (EMA weights with re-estimated batch-norm statistics), one
        `grid-<images>.png` per interval, `metrics.jsonl`, and the final proxies in its meta.
    """
    for snapshot in snapshots(context.config):
        shorter = replace(context, stage=snapshot)
        found = shorter.find()
        if found is not None:
            context.observer.reused(snapshot, found.meta.get("seconds"))
        else:
            artifact = _train_to_length(shorter, collection, teacher, samples)
            context.observer.stage_finished(snapshot, float(artifact.meta["seconds"]))
    return _train_to_length(context, collection, teacher, samples)


def _train_to_length(context: StageContext, collection: Collection, teacher: Teacher, samples: Path | None) -> Artifact:
    """Train to the length of the stage, from where the longest shorter training has ended."""
    stage, settings, observer = context.stage, context.config.generation, context.observer
    assert stage.target_images is not None
    with context.preparing():
        training = AdversarialTraining(context.config, collection, teacher, context.device)
        probe = GeneratorProbe(training, collection)
    if training.absent_classes:
        observer.note(
            f"generation: no collected image is of class {', '.join(map(str, training.absent_classes))} "
            f"(by the teacher's argmax), so the generator makes none"
        )
    if context.config.smoothing_is_on and not training.uses_smoothing:
        observer.note(
            f"generation: frequency smoothing is off: it needs {MIN_CLASSES} classes, and the collected images are of "
            f"{len(training.present_classes)}"
        )

    def draw_grid(images: int) -> dict[str, float]:
        training.grids[str(images)] = probe.sample_grid()
        if samples is not None:
            path = samples / f"generation-{images:012d}.png"
            with store_errors("writing a sample grid to", path):
                path.write_bytes(encode_png(training.grids[str(images)]))
            observer.picture(stage, images, path)
        return {}

    proxies: dict[str, float | None] = {}  # from the newest measurement; the last one is at the end

    def measure_proxies(_images: int) -> dict[str, float]:
        proxies.update(probe.proxies())
        return {f"generation/{name}": value for name, value in proxies.items() if value is not None}

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        write_weights(writer, "generator.safetensors", training.ema)
        for images, grid in training.grids.items():
            writer.path(f"grid-{int(images):012d}.png").write_bytes(encode_png(grid))
        return {
            "proxies": proxies,
            "present_classes": training.present_classes.tolist(),
            "frequencies": training.smoothing.frequencies_of(context.config.data.num_classes),
            "num_parameters": {
                "generator": num_parameters(training.generator),
                "discriminator": num_parameters(training.discriminator),
            },
        }

    return train_and_keep(
        context,
        training,
        write,
        target_images=stage.target_images,
        step_images=settings.batch_images * settings.discriminator_steps,
        milestones=[
            Milestone(draw_grid, settings.grid_every_images),
            Milestone(measure_proxies, settings.proxies_every_images),
        ],
    )

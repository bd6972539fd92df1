"""Teacher-guided generation: ADC-GAN on the collected images, with feature integration and frequency smoothing.

**Source**: paper Eqs. 8-12 and supplement; see `hidfd.stages.gan_training` for the step.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.pictures import encode_png
from hidfd.distributed.device import Device
from hidfd.networks.backbone import num_parameters
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.generator_samples import GeneratorProbe
from hidfd.store.disk import store_errors
from hidfd.store.store import Artifact, Store
from hidfd.training.loop import Milestone, Schedule, run_loop


def train_generator(
    stage: Stage,
    config: TrialConfig,
    collection: Collection,
    teacher: Teacher,
    store: Store,
    device: Device,
    observer: Observer,
    samples: Path | None = None,
) -> Artifact:
    """Train the GAN to the stage's length and keep the EMA generator, and the state that a longer one goes on from.

    Args:
        stage: of the trial, or a snapshot on its way (`hidfd.pipeline.graph.snapshots`).
        samples: folder for the growing sample grid, `generation-<images>.png`.

    The artifact holds `generator.safetensors` (EMA weights with re-estimated batch-norm statistics), one
    `grid-<images>.png` per interval, `metrics.jsonl`, and the final proxies in its meta.
    """
    settings, checkpoints = config.generation, store.checkpoints(stage.checkpoints)
    assert stage.target_images is not None
    training = AdversarialTraining(config, collection, teacher, device)
    probe = GeneratorProbe(training, collection)
    if training.absent_classes:
        observer.note(
            f"generation: no collected image is of class {', '.join(map(str, training.absent_classes))} "
            f"(by the teacher's argmax), so the generator makes none"
        )

    def draw_grid(images: int) -> dict[str, float]:
        training.grids[str(images)] = probe.sample_grid()
        if samples is not None:
            path = samples / f"generation-{images:012d}.png"
            with store_errors("writing a sample grid to", path):
                path.write_bytes(encode_png(training.grids[str(images)]))
            observer.picture(stage, images, path)
        return {}

    proxies: dict[str, float | None] = {}  # the newest: the last milestone is at the end

    def measure_proxies(_images: int) -> dict[str, float]:
        proxies.update(probe.proxies())
        return {f"generation/{name}": value for name, value in proxies.items() if value is not None}

    history = run_loop(
        training,
        stage,
        Schedule(
            stage.target_images,
            settings.batch_images * settings.discriminator_steps,
            config.log_every_images,
            config.checkpoint_every_seconds,
            is_continued=True,
        ),
        checkpoints,
        observer,
        [Milestone(draw_grid, settings.grid_every_images), Milestone(measure_proxies, settings.proxies_every_images)],
        processes=device.processes,
    )

    def keep() -> None:
        with store.writer(stage.name, stage.digest, stage.identity) as attempt:
            state = {name: tensor.cpu().contiguous() for name, tensor in training.ema.state_dict().items()}
            safetensors.torch.save_file(state, attempt.path("generator.safetensors"))
            for images, grid in training.grids.items():
                attempt.path(f"grid-{int(images):012d}.png").write_bytes(encode_png(grid))
            attempt.metrics(history.rows)
            meta = {
                "seconds": history.seconds,
                "operations": stage.operations,
                "proxies": proxies,
                "present_classes": training.present_classes.tolist(),
                "frequencies": training.smoothing.frequencies.tolist(),
                "num_parameters": {
                    "generator": num_parameters(training.generator),
                    "discriminator": num_parameters(training.discriminator),
                },
            }
            attempt.commit(meta, device=device.description)
        checkpoints.clear(up_to=stage.target_images)

    device.processes.from_first(keep)
    return store.get(stage.name, stage.digest)

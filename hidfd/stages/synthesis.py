"""The synthetic images D_s, sampled from the EMA generator, uniform over the classes that D_c has.

**Source**: paper (50,000 images). No per-image contrast stretch, which the authors' release applies when saving.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hidfd.config.schema import TrialConfig
from hidfd.data.decoding import Decoded, pixel_hash
from hidfd.data.image_set import write_images
from hidfd.data.pixels import uint8_from_unit, unit_from_signed
from hidfd.distributed.device import Device
from hidfd.distributed.random_streams import stream
from hidfd.errors import Stopped, UnbuildableError
from hidfd.networks.generator import generator_of
from hidfd.networks.teacher import Teacher
from hidfd.networks.weights import load_safetensors
from hidfd.pipeline.watch import watched
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter

BATCH_IMAGES = 250
"""Number of images that are sampled at once."""

MAX_TRIES = 10
"""Number of images drawn per image wanted before the agreement filter gives up."""


def synthesise(context: StageContext, generation: Artifact, teacher: Teacher) -> Artifact:
    """Sample n_s images and write them into the store, with the labels that they were sampled for.

    Raises:
        UnbuildableError: the agreement filter keeps too few.
        Stopped: the observer asked for it.
    """
    started = time.monotonic()
    stage, config, device, observer = context.stage, context.config, context.device, context.observer
    wanted = config.synthesis.num_images
    observer.stage_started(stage, wanted)
    generator = generator_of(config.generation, config.data)
    with generation.reading():
        generator.load_state_dict(load_safetensors(generation.path("generator.safetensors")))
        present = torch.tensor(generation.meta["present_classes"])
    generator = device.module(generator).eval()

    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    answers: list[Tensor] = []
    num_kept = num_drawn = 0
    while num_kept < wanted:
        if num_drawn >= MAX_TRIES * wanted:
            raise UnbuildableError(
                f"trial.synthesis.filter: agreement kept {num_kept:,} of {num_drawn:,} drawn images, {wanted:,} are "
                f"wanted; train the generator longer, or set trial.synthesis.filter=none"
            )
        batch = BATCH_IMAGES if config.synthesis.filter == "agreement" else min(BATCH_IMAGES, wanted - num_kept)
        images, asked = _sample(generator, config, present, num_drawn, batch, device)
        with watched(observer, stage, None, f"synthesis at {num_kept:,} of {wanted:,} images"):
            answer = teacher.ask_all(images, device).logits.argmax(dim=1)
        num_drawn += batch
        if config.synthesis.filter == "agreement":
            agree = answer == asked
            images, asked, answer = images[agree], asked[agree], answer[agree]
        pixels.append(images)
        labels.append(asked)
        answers.append(answer)
        num_kept += len(images)
        observer.advanced(stage, min(num_kept, wanted), wanted, {})
        reason = observer.should_stop()
        if reason is not None and num_kept < wanted:
            raise Stopped(
                f"synthesis: stopped at {num_kept:,} of {wanted:,} images ({reason}); it starts anew, "
                f"which takes little, and what was built before is kept"
            )
    images, asked, answer = (torch.cat(parts)[:wanted] for parts in (pixels, labels, answers))
    array = images.numpy()
    seconds = time.monotonic() - started

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        hashes = np.asarray([pixel_hash(image.transpose(1, 2, 0)) for image in array], dtype=np.uint64)
        write_images(writer.path("images.parquet"), Decoded(array, hashes, {}), asked.numpy())
        return {
            "num_images": wanted,
            "num_drawn": num_drawn,
            "histogram": torch.bincount(answer, minlength=config.data.num_classes).tolist(),
            "label_agreement": (answer == asked).float().mean().item(),
            "shape": list(array.shape[1:]),
        }

    return context.keep(write, seconds=seconds)


@torch.no_grad()
def _sample(
    generator: torch.nn.Module, config: TrialConfig, present: Tensor, position: int, batch: int, device: Device
) -> tuple[Tensor, Tensor]:
    """Return `batch` images, uint8 on the CPU, and their labels; `position` is the number of images drawn before."""
    draws = stream(config.seeds.synthesis, "synthesis", "latent", position)
    z = torch.randn(batch, config.generation.latent_dim, generator=draws)
    labels = present[torch.randint(len(present), (batch,), generator=draws)]
    with device.autocast():
        signed = generator(device.put(z), device.put(labels))
    return uint8_from_unit(unit_from_signed(signed)).cpu(), labels

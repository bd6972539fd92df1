"""Random numbers by name: every draw comes from (seed, stage, purpose, images seen), never from a global state.

Layers of networks from elsewhere, such as dropout, draw from torch's global state, which each step seeds by name.

So no state of a generator is in a checkpoint, two purposes never disturb each other, and a run that resumes or
continues draws what the uninterrupted one would have drawn. Draws are made on the CPU for the global batch and copied,
so a GPU and a CPU see the same numbers, and so do one process and several, each of which takes those of its own images
(`Draws`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor


def stream(seed: int, stage: str, purpose: str, images: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose at one point of a stage.

    Args:
        seed: the stage's seed, >= 0.
        stage: name of the stage.
        purpose: what the numbers are for; two purposes are independent.
        images: images seen before this draw, or any other count that names the draw.
    """
    name = f"{seed}/{stage}/{purpose}/{images}".encode()
    value = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
    return torch.Generator().manual_seed(value)


def seed_layers(seed: int, stage: str, images: int, process: int = 0) -> None:
    """Seed torch's global generator for what layers draw in one step, such as dropout; those of the table draw nothing.

    Args:
        images: images seen before the step.
        process: number of the process, which draws for its own images.
    """
    torch.manual_seed(stream(seed, stage, f"layers {process}", images).initial_seed())


@dataclass(frozen=True)
class Draws:
    """Random numbers per image of a global batch, of which a process takes those of the images that it holds.

    Attributes:
        generator: from `stream`.
        num_images: B, of the global batch; None = the images at hand are all of it.
        rows: which of them are at hand: a slice, or int64 indices.
    """

    generator: torch.Generator
    num_images: int | None = None
    rows: slice | Tensor = field(default_factory=lambda: slice(None))

    def uniform(self, count: int, images: int) -> Tensor:
        """Draw `count x B` floats in [0, 1) on the CPU; return the `count x images` of the images at hand."""
        return torch.rand(count, self.num_images or images, generator=self.generator)[:, self.rows]

    def integers(self, low: int, high: int, count: int, images: int) -> Tensor:
        """Draw `count x B` int64 in low..high-1 on the CPU; return the `count x images` of the images at hand."""
        return torch.randint(low, high, (count, self.num_images or images), generator=self.generator)[:, self.rows]

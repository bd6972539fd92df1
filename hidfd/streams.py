"""Random numbers by name: every draw comes from (seed, stage, purpose, images seen), never from a global state.

So nothing random needs a checkpoint, two purposes never disturb each other, and a run that resumes or continues draws
what the uninterrupted one would have drawn. Draws are made on the CPU for the global batch and copied, so a GPU and a
CPU see the same numbers.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, stage: str, purpose: str, images: int = 0) -> torch.Generator:
    """A CPU generator for one purpose at one point of a stage.

    Args:
        seed: the stage's seed, >= 0.
        stage: name of the stage.
        purpose: what the numbers are for; two purposes are independent.
        images: images seen before this draw, or any other count that names the draw.
    """
    name = f"{seed}/{stage}/{purpose}/{images}".encode()
    value = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
    return torch.Generator().manual_seed(value)

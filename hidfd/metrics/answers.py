"""Answers of a student to single images, by which two students are compared image by image. Torch-free."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Answers:
    """Right and wrong answers of a student to a set of images, in groups; the mean of the groups' shares is a measure.

    Attributes:
        images: digest of what the set and its order follow from; answers are paired where it is the same.
        sizes: number of images of each group.
        hits: a bit for each image, group after group, 1 for a right answer; packed big-endian into bytes, as base64.
    """

    images: str
    sizes: tuple[int, ...]
    hits: str

    @classmethod
    def of(cls, images: str, groups: Sequence[Sequence[bool]]) -> Self:
        """Pack the answers of each group."""
        bits = "".join("1" if hit else "0" for group in groups for hit in group)
        packed = int(bits.ljust(-len(bits) % 8 + len(bits), "0") or "0", 2).to_bytes(math.ceil(len(bits) / 8), "big")
        return cls(images, tuple(map(len, groups)), base64.b64encode(packed).decode())

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the answers that `to_json` wrote as this."""
        return cls(content["images"], tuple(content["sizes"]), content["hits"])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as store and ledger keep it."""
        return asdict(self)

    def groups(self) -> Iterator[list[int]]:
        """Yield the answers of each group: 1 for a right one, else 0."""
        bits = "".join(f"{byte:08b}" for byte in base64.b64decode(self.hits))
        start = 0
        for size in self.sizes:
            yield [int(bit) for bit in bits[start : start + size]]
            start += size


def paired_error(pairs: Sequence[tuple[Answers, Answers]]) -> float | None:
    """Compute the standard error that the images leave in the difference of two measures, each a mean over seeds.

    For image i, d_i is the mean over seeds of (answer of the first - answer of the second). With the groups c of n_c
    images, and C of them, the error is sqrt(sum_c var_c(d) / n_c) / C, where var_c is the sample variance.

    Args:
        pairs: the answers of two students, for each seed.

    Returns:
        The error; None where they did not all answer the same images, or a group has fewer than two.

    **Source**: the paired difference of two proportions (McNemar 1947), stratified.
    """
    found = [answers for pair in pairs for answers in pair]
    sets = {(answers.images, answers.sizes) for answers in found}
    if len(sets) != 1 or min(found[0].sizes, default=0) < 2:
        return None
    signed = [list(first.groups()) for first, _ in pairs], [list(second.groups()) for _, second in pairs]
    variance = 0.0
    for group, size in enumerate(found[0].sizes):
        firsts, seconds = ([seed[group] for seed in side] for side in signed)
        differences = [
            (sum(first) - sum(second)) / len(pairs)
            for first, second in zip(zip(*firsts, strict=True), zip(*seconds, strict=True), strict=True)
        ]
        variance += statistics.variance(differences) / size
    return math.sqrt(variance) / len(found[0].sizes)

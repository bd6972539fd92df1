"""The expected cost of a stage, in seconds and bytes, estimated from what was built before. Torch-free."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.network_sizes import NetworkRole, network_size
from hidfd.store.store import Artifact, Store

DEFAULT_RATE = 3e10
"""Operations per second expected of a machine that has built nothing yet: one modern CPU core in fp32."""
GPU_RATE = 3e13
"""The same of a GPU. At the paper's batches in bf16 an H200 was measured at 2.5e13 in the student's step, 4.4e13 in the
GAN's (benchmarks/gpu), where the host is the limit. A quarter of the peak of a V100 in fp32 (16 TFLOP/s) is 8 times
less."""

UNMEASURED = 10.0
"""Factor by which an estimate may be off, either way, where nothing was built before."""
OTHER_STAGES_MEASURED = 3.0
"""The same where only other stages were built before."""
FEW_MEASURED = 1.5
"""The same where fewer than `MANY` artifacts of the stage were built before."""

MANY = 3
OUTER_FRACTION = 0.1
"""Fraction of the measurements that a range leaves out at either end."""


@dataclass(frozen=True)
class Range:
    """An estimate: the expected value, and the bounds between which the true one should lie."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        if not isinstance(other, Range):
            other = Range(other, other, other)
        return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)

    @classmethod
    def within(cls, expected: float, factor: float) -> Self:
        """Return the range from `expected / factor` to `expected * factor`."""
        return cls(expected / factor, expected, expected * factor)

    @classmethod
    def measured(cls, values: Sequence[float], expected: float) -> Self:
        """Return the range of measured values around an expected one, without the outermost; wider for few values."""
        ordered = sorted(values)
        last = len(ordered) - 1
        low, high = ordered[math.floor(OUTER_FRACTION * last)], ordered[math.ceil((1 - OUTER_FRACTION) * last)]
        factor = FEW_MEASURED if len(ordered) < MANY else 1.0
        return cls(min(low, expected) / factor, expected, max(high, expected) * factor)


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Costs:
    """Measured speeds, and the seconds that they let expect of a stage.

    Attributes:
        rate: operations per second over all that was built; `DEFAULT_RATE`, or `GPU_RATE`, where nothing was.
        rates: operations per second by builder (`Stage.builder`).
        typical: median seconds by builder, for stages whose operations are not counted.
        is_measured: whether anything was built.
        ranges: by builder, seconds per operation, or seconds where the stage's operations are not counted.
    """

    rate: float
    rates: dict[str, float]
    typical: dict[str, float]
    is_measured: bool
    ranges: dict[str, Range]

    @classmethod
    def of(
        cls, store: Store, *, on_gpu: bool | None = None, on_damaged: Callable[[str], object] | None = None
    ) -> Costs:
        """Measure the artifacts of a store.

        Args:
            store: the store with the artifacts.
            on_gpu: True counts artifacts built on a GPU only, False those built on a CPU only; None counts all.
            on_damaged: see `Store.list`.
        """
        built: dict[str, list[Artifact]] = {}
        seconds: dict[str, list[float]] = {}
        for entry in store.list(on_damaged):
            artifact = store.find(entry.stage, entry.digest) if entry.kind == "artifact" else None
            if artifact is None or not artifact.meta.get("seconds"):
                continue
            if on_gpu is not None and on_gpu == (artifact.environment.get("device") or "cpu").startswith("cpu"):
                continue
            builder = artifact.identity.get("stage", entry.stage)
            seconds.setdefault(builder, []).append(artifact.meta["seconds"])
            if artifact.meta.get("operations"):
                built.setdefault(builder, []).append(artifact)
        everything = [artifact for artifacts in built.values() for artifact in artifacts]
        ranges = {name: Range.measured(values, statistics.median(values)) for name, values in seconds.items()}
        for name, artifacts in built.items():
            per_operation = [float(a.meta["seconds"]) / float(a.meta["operations"]) for a in artifacts]
            ranges[name] = Range.measured(per_operation, 1 / _rate(artifacts))
        return cls(
            ranges=ranges,
            rate=_rate(everything) if everything else GPU_RATE if on_gpu else DEFAULT_RATE,
            rates={name: _rate(artifacts) for name, artifacts in built.items()},
            typical={name: statistics.median(values) for name, values in seconds.items()},
            is_measured=bool(everything),
        )

    def seconds(self, stage: Stage) -> float | None:
        """Return the expected seconds to build a stage; None if they cannot be told.

        That is so where its operations are not counted and none was built, or are not known though others' are.
        """
        if not stage.operations:
            return None if stage.builder in self.rates else self.typical.get(stage.builder)
        return stage.operations / self.rates.get(stage.builder, self.rate)

    def range(self, stage: Stage) -> Range | None:
        """Return the expected seconds with bounds: those of earlier builds, or wide ones where there were none."""
        expected, known = self.seconds(stage), self.ranges.get(stage.builder)
        if expected is None:
            return None
        if known is not None and (not stage.operations or stage.builder in self.rates):
            return known * (stage.operations or 1.0)
        return Range.within(expected, OTHER_STAGES_MEASURED if self.is_measured else UNMEASURED)

    def basis(self) -> str:
        """Return the basis of the expected seconds, in words."""
        if self.is_measured:
            return "at the speed of what was built here before"
        return f"at {self.rate:.0e} operations/s, about one {'GPU' if self.rate == GPU_RATE else 'CPU core'}"


def expected_bytes(config: TrialConfig) -> dict[str, float]:
    """Return the approximate bytes of a trial's artifacts, by stage; the stages left out take next to nothing.

    `generation` is the generator alone: `checkpoint_bytes` stay beside it. A network that is not known counts nothing.
    """
    data = config.data
    return {
        "teacher": _network_bytes(config, "teacher"),
        "generation": 4.0 * _num_generator_parameters(config),
        "synthesis": float(config.synthesis.num_images * data.channels * data.image_size_pixels**2),
        "distillation": _network_bytes(config, "distillation"),
    }


def checkpoint_bytes(config: TrialConfig) -> float:
    """Return the approximate bytes of the checkpoint that stays where a generator ends, for longer ones to go on from.

    It holds G, its average and the two moments of G's optimiser; D and the two moments of its optimiser.
    """
    return 4.0 * (4 * _num_generator_parameters(config) + 3 * _num_discriminator_parameters(config))


def bank_bytes(config: TrialConfig) -> float:
    """Return the approximate bytes of a student's bank of views, with the teacher's maps of them; 0 without a bank.

    Students of the same images and seed share them, in the store's cache.
    """
    if not config.bank_views:
        return 0.0
    teacher = network_size(config, "teacher")
    of_a_map = 0.0 if teacher is None else 4.0 * teacher.feature_width * teacher.feature_side_pixels**2
    return config.asked_views * (config.data.channels * config.data.image_size_pixels**2 + of_a_map)


def _num_generator_parameters(config: TrialConfig) -> int:
    """Return the weights of `hidfd.networks.generator`."""
    width, latent, channels = config.generation.width, config.generation.latent_dim, config.data.channels
    num_classes, side = config.data.num_classes, config.generation.image_size_pixels
    to_image = (9 * width + 1) * channels
    if config.generation.networks == "light":
        start, doublings = {28: (7, 2), 32: (8, 2), 64: (8, 3)}[side]
        first = (latent + 1) * start**2 * width // 2
        widths = [width << k for k in range(doublings + 1)]  # from the largest map to the first
        expand, ups = 9 * widths[-1] * width // 2, sum(16 * a * b for a, b in itertools.pairwise(widths))
        return first + expand + ups + 2 * num_classes * sum(widths) + to_image
    start, num_blocks = {28: (7, 2), 32: (4, 3), 64: (4, 4)}[side]
    blocks = num_blocks * (19 * width**2 + 3 * width + 4 * num_classes * width)
    return (latent + 1) * start**2 * width + blocks + 2 * width + to_image + _num_attention_parameters(config)


def _num_attention_parameters(config: TrialConfig) -> int:
    """Return the weights of `hidfd.networks.layers.SelfAttention`; 0 without."""
    width = config.generation.width
    return 2 * width * (max(1, width // 8) + max(1, width // 2)) + 1 if config.generation.attention else 0


def _num_discriminator_parameters(config: TrialConfig) -> int:
    """Return the weights of `hidfd.networks.discriminator` and of the regressor onto the teacher's features."""
    width, channels = config.generation.width, config.data.channels
    is_large = config.generation.image_size_pixels == 64
    if config.generation.networks == "light":
        trunk, features = 9 * channels * width + 104 * width**2 + 7 * width, 4 * width
        trunk += 200 * width**2 + 4 * width if is_large else 0
    else:
        trunk, features = 10 * channels * width + 64 * width**2 + 10 * width, width
        trunk += (19 * width**2 + 3 * width if is_large else 0) + _num_attention_parameters(config)
    hidden, teacher = config.generation.integration.hidden_width, network_size(config, "teacher")
    seen = 0 if teacher is None else teacher.feature_width
    return trunk + (features + 1) * (2 * config.data.num_classes + 1) + (features + 1) * hidden + (hidden + 1) * seen


def _network_bytes(config: TrialConfig, role: NetworkRole) -> float:
    network = network_size(config, role)
    return 0.0 if network is None else 4.0 * network.parameters


def _rate(artifacts: Sequence[Artifact]) -> float:
    operations = sum(float(artifact.meta["operations"]) for artifact in artifacts)
    return operations / sum(float(artifact.meta["seconds"]) for artifact in artifacts)

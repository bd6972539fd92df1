"""Measure how fast the inner loops are, beside what the machine can do.

    python -m benchmarks.steps [--device auto|cpu|cuda] [--seconds 5] [--only quick|paper] [--threads 1]

Prints a Markdown table: images/s of a teacher forward pass, a GAN step and a student (KD) step, each taken from the
code that trains (data resident, augmentation, teacher terms, optimisers and EMA included), for the networks of the two
presets. Operations are counted by `torch.utils.flop_counter` (convolutions and matrix multiplies; nothing else), the
peak is the best of some plain convolutions and matrix multiplies measured in the same run, at the same precision.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hidfd.config.presets import PRESETS
from hidfd.config.schema import Material, TeacherConfig, TeacherTrainingConfig, TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.image_set import ImageSet
from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import Device, resolve_device
from hidfd.errors import HidfdError
from hidfd.networks.teacher import Teacher, build_teacher_backbone
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.stages.teacher import TeacherTraining

NUM_CLASSES = 10
HOLDOUT_IMAGES = 64
CPU_PAPER_BATCH_IMAGES = 16
"""Batch of the paper preset on a CPU: its own of 100 and 64 take a minute each, at hardly another rate per image."""

WARM_UP_STEPS = 3
"""Number of untimed steps on a GPU: in them kernels are chosen and memory is reserved. On a CPU one is enough."""

PEAK_REPEATS = 3
"""Number of tries of which the best counts: on a machine that does other work too, a single one is too low."""

COLUMNS = (
    *("networks", "step", "precision", "batch", "GFLOP/image", "images/s", "GFLOP/s"),
    *("of convolution peak", "of multiply peak"),
)


@dataclass(frozen=True)
class Peak:
    """The peak of the machine at one precision, in FLOP/s."""

    convolution: float
    matrix_multiply: float


@dataclass(frozen=True)
class Row:
    """One measured step.

    Attributes:
        preset, step: names of the networks and of the step.
        batch_images: images of one call.
        flops_per_image: counted operations, forward and backward as far as the step has them.
        images_per_second: rate of the step.
        precision: of the run, `fp32` or `bf16`.
    """

    preset: str
    step: str
    batch_images: int
    flops_per_image: float
    images_per_second: float
    precision: str


@dataclass(frozen=True)
class Step:
    """A step of the code that trains, ready to be called.

    Attributes:
        networks: their names.
        batch_images: images of one call.
        call: takes the step, given the number of images seen.
        modules: the networks whose forward passes `torch.compile` may replace.
    """

    networks: str
    batch_images: int
    call: Callable[[int], object]
    modules: tuple[nn.Module, ...]


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description="images/s of the inner loops")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, per row")
    parser.add_argument("--only", choices=("quick", "paper"), help="one of the two presets")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; the quickstart gives each trial one")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        measure_and_print(chosen.device, chosen.seconds, [chosen.only] if chosen.only else ["quick", "paper"])
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure_and_print(device_name: str, seconds: float, presets: list[str]) -> None:
    """Measure the presets and print each row as soon as it is known."""
    peaks: dict[str, Peak] = {}
    for number, preset in enumerate(presets):
        device = resolve_device(device_name, "fp32")
        if preset == "paper" and device.is_cuda:
            device = resolve_device(device_name, "bf16")
        if number == 0:
            print(f"{machine(device)}; torch {torch.__version__}; Python {platform.python_version()}\n")
        if device.precision not in peaks:
            peaks[device.precision] = measure_peak(device, seconds)
        if number == 0:
            print(f"| {' | '.join(COLUMNS)} |\n|---|---|---|{'---:|' * (len(COLUMNS) - 3)}")
        peak = peaks[device.precision]
        for row in measure(preset, device, seconds):
            reached = row.flops_per_image * row.images_per_second
            cells = [row.preset, row.step, row.precision, f"{row.batch_images}", f"{row.flops_per_image / 1e9:.3f}"]
            cells += [f"{row.images_per_second:,.1f}", f"{reached / 1e9:,.1f}"]
            cells += [f"{reached / peak.convolution:.0%}", f"{reached / peak.matrix_multiply:.0%}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    for precision, peak in peaks.items():
        print(
            f"\nPeak measured in this run, {precision}: convolution {peak.convolution / 1e9:,.0f} GFLOP/s, "
            f"matrix multiply {peak.matrix_multiply / 1e9:,.0f} GFLOP/s."
        )


def measure(preset: str, device: Device, seconds: float) -> Iterator[Row]:
    """Measure teacher forward, GAN step and KD step of one preset, on random images and weights."""
    config = trial_config(preset, device)
    for kind in ("teacher forward", "GAN step", "KD step"):
        step = STEPS[kind](config, device)
        flops, rate = count_and_time(step.call, step.batch_images, seconds, device)
        yield Row(preset, f"{kind} ({step.networks})", step.batch_images, flops, rate, device.precision)


def teacher_forward(config: TrialConfig, device: Device) -> Step:
    """Build the teacher's forward pass, as of a student's step."""
    teacher = _teacher(config, device)
    images = device.images(_images(config, config.distillation.batch_images))

    def forward(_images_seen: int) -> object:
        with torch.no_grad(), device.autocast():
            return teacher(unit_from_uint8(images))

    return Step(config.teacher.architecture, len(images), forward, (teacher.map_network,))


def teacher_step(config: TrialConfig, device: Device) -> Step:
    """Build a step of the teacher's own training, at the batch of the student's."""
    batch = config.distillation.batch_images
    train = TeacherTrainingConfig(images=Material(sha256="0" * 64), batch_images=batch)
    teacher = TeacherConfig(architecture=config.teacher.architecture, width=config.teacher.width, train=train)
    labels = torch.arange(2 * batch) % NUM_CLASSES
    images = ImageSet(_images(config, 2 * batch).numpy(), labels.numpy(), np.zeros(2 * batch, np.uint64), ())
    training = TeacherTraining(config.model_copy(update={"teacher": teacher}), images, device)
    return Step(teacher.architecture, batch, training.step, (training.backbone,))


def gan_step(config: TrialConfig, device: Device) -> Step:
    """Build a GAN step: D's updates and G's, with the teacher's terms."""
    settings = config.generation
    training = AdversarialTraining(config, _collection(config), _teacher(config, device), device)
    return Step(
        f"{settings.networks}, width {settings.width}, {settings.image_size_pixels} px",
        settings.batch_images * settings.discriminator_steps,
        training.step,
        (training.generator, training.discriminator, training.teacher.map_network),
    )


def kd_step(config: TrialConfig, device: Device) -> Step:
    """Build a step of a student on collected and synthetic images."""
    settings = config.distillation
    synthetic = _images(config, 2 * settings.batch_images)
    training = StudentTraining(config, _collection(config), synthetic, _teacher(config, device), device)
    return Step(
        settings.architecture,
        settings.batch_images,
        training.step,
        (training.student, training.teacher.map_network),
    )


STEPS: dict[str, Callable[[TrialConfig, Device], Step]] = {
    "teacher forward": teacher_forward,
    "teacher step": teacher_step,
    "GAN step": gan_step,
    "KD step": kd_step,
}
"""Kind of a step -> what builds it on random images and weights."""


def _images(config: TrialConfig, count: int) -> Tensor:
    size = config.data.image_size_pixels
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, config.data.channels, size, size), generator=draws, dtype=torch.uint8)


def _teacher(config: TrialConfig, device: Device) -> Teacher:
    data = config.data
    normalisation = [0.5] * data.channels, [0.25] * data.channels
    return Teacher(build_teacher_backbone(config), *normalisation, data.image_size_pixels).on(device)


def _collection(config: TrialConfig) -> Collection:
    count = 2 * config.generation.batch_images
    return Collection(
        images=_images(config, count),
        labels=torch.arange(count) % NUM_CLASSES,
        holdout=_images(config, HOLDOUT_IMAGES),
        reference=torch.ones(HOLDOUT_IMAGES, dtype=torch.bool),
    )


def trial_config(preset: str, device: Device, batch_images: int | None = None) -> TrialConfig:
    """Return a trial with the networks of a preset; its materials are never read.

    Args:
        preset: `quick` or `paper`.
        batch_images: of every step; None = the preset's own, on a CPU `CPU_PAPER_BATCH_IMAGES` for the paper's.
    """
    nothing = {"sha256": "0" * 64}
    channels, size, teacher = (1, 28, "resnet14") if preset == "quick" else (3, 32, "resnet34-32px")
    values = PRESETS[preset] | {
        "precision": device.precision,
        "data": {
            "candidates": nothing,
            "channels": channels,
            "image_size_pixels": size,
            "num_classes": NUM_CLASSES,
        },
        "teacher": {
            "architecture": teacher,
            "checkpoint": nothing,
            "mean": [0.5] * channels,
            "std": [0.25] * channels,
        },
    }
    if batch_images is None and preset == "paper" and not device.is_cuda:
        batch_images = CPU_PAPER_BATCH_IMAGES
    if batch_images is not None:
        for section in ("generation", "distillation"):
            values[section] = {**values.get(section, {}), "batch_images": batch_images}
    return TrialConfig.model_validate(values)


class StepTimer:
    """A step that is run, counted and timed.

    Args:
        call: the step, given the number of images seen.
        batch_images: images of one call.
        device: the device that it runs on.
    """

    def __init__(self, call: Callable[[int], object], batch_images: int, device: Device) -> None:
        self._call, self._batch_images, self._device = call, batch_images, device
        self._seen = 0

    def run(self, count: int) -> float:
        """Take some steps and return their seconds, with the device's work done."""
        synchronize(self._device)
        started = time.perf_counter()
        for _ in range(count):
            self._call(self._seen)
            self._seen += self._batch_images
        synchronize(self._device)
        return time.perf_counter() - started

    def operations_per_image(self) -> float:
        """Count the operations of one step, forward and backward as far as it has them."""
        with FlopCounterMode(display=False) as counter:
            self.run(1)
        operations: int = counter.get_total_flops()
        return operations / self._batch_images

    def warm_up(self) -> None:
        """Take the steps in which kernels are chosen and memory is reserved."""
        self.run(WARM_UP_STEPS if self._device.is_cuda else 1)

    def images_per_second(self, seconds: float) -> float:
        """Measure the rate over at least `seconds`."""
        count, elapsed = 1, self.run(1)
        while elapsed < seconds:
            count = min(10 * count, max(count + 1, int(1.1 * count * seconds / elapsed)))
            elapsed = self.run(count)
        return count * self._batch_images / elapsed


def count_and_time(
    call: Callable[[int], object], batch_images: int, seconds: float, device: Device
) -> tuple[float, float]:
    """Return the operations per image of a step, and its images/s over at least `seconds`."""
    timer = StepTimer(call, batch_images, device)
    operations = timer.operations_per_image()
    timer.warm_up()
    return operations, timer.images_per_second(seconds)


def measure_peak(device: Device, seconds: float) -> Peak:
    """Return the best rates of some convolutions and matrix multiplies of comfortable shapes."""
    dtype = torch.bfloat16 if device.precision == "bf16" else torch.float32
    kind, scale = device.torch_device, 8 if device.is_cuda else 1
    share = seconds / 4 / PEAK_REPEATS

    def best(shapes: tuple[tuple[int, int, int], ...], call_of: Callable[..., Callable[[int], object]]) -> float:
        rates = (count_and_time(call_of(*shape), 1, share, device) for shape in shapes * PEAK_REPEATS)
        return max(flops * rate for flops, rate in rates)

    def convolution(batch: int, width: int, side: int) -> Callable[[int], object]:
        layer = torch.nn.Conv2d(width, width, 3, padding=1, bias=False).to(kind, dtype)
        layer = layer.to(memory_format=torch.channels_last)
        features = torch.randn(batch, width, side, side, device=kind, dtype=dtype)
        features = features.contiguous(memory_format=torch.channels_last)
        return lambda _: layer(features)

    def multiply(rows: int, inner: int, columns: int) -> Callable[[int], object]:
        left = torch.randn(rows, inner, device=kind, dtype=dtype)
        right = torch.randn(inner, columns, device=kind, dtype=dtype)
        return lambda _: left @ right

    with torch.no_grad():
        return Peak(
            best(((16 * scale, 64, 32), (16 * scale, 128, 16), (8 * scale, 256, 32)), convolution),
            best(((1024 * scale,) * 3, (512 * scale, 256 * scale, 512 * scale)), multiply),
        )


def synchronize(device: Device) -> None:
    """Wait for the GPU, if there is one."""
    if device.is_cuda:
        torch.cuda.synchronize(device.torch_device)


def machine(device: Device) -> str:
    """Return the name of the GPU or CPU, in words."""
    if device.is_cuda:
        return torch.cuda.get_device_name(device.torch_device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    count = torch.get_num_threads()
    return f"{name}, {count} thread{'s' if count > 1 else ''}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

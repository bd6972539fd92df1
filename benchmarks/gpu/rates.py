"""The rates of the steps: images/s, share of the peak, memory, by batch, precision and layout; and their profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.machine import named, peak_of
from benchmarks.gpu.profiles import write_profile
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options, Size
from benchmarks.steps import STEPS, StepTimer, trial_config
from hidfd.distributed.device import Device, resolve_device

SECTION = "Rates"
KINDS = ("KD step", "GAN step", "teacher forward", "teacher step")

TEXT = (
    "Images/s of the code that trains, on random images and weights: data resident on the device, augmentation, "
    "teacher, optimisers and EMA included. Share of the peak: counted operations (convolutions and matrix products, "
    "forward and backward) over the matrix products of the same precision above. Memory: the most that tensors "
    "took in a step, networks and resident images included."
)


class ContiguousDevice(Device):
    """A device on which modules and images keep torch's default layout, for comparison with channels_last."""

    def module(self, module: Any) -> Any:
        return module.to(self.torch_device)

    def images(self, image: Tensor) -> Tensor:
        return image.to(self.torch_device)


def run(options: Options, record: Record) -> None:
    """Write a row per step and batch in the first precision, profiles, the other layout, and the other precisions."""
    section, size = record.section(SECTION, TEXT), options.size
    device = resolve_device(options.device, options.precisions[0])
    for kind in KINDS:
        for batch in batches(kind, size):
            section.row(measure(kind, batch, device, size, record))
    for kind in KINDS:
        _profile(kind, device, size, record)
    contiguous = ContiguousDevice(device.torch_device, device.precision)
    for kind in KINDS:
        section.row(measure(kind, paper_batch(kind, size), contiguous, size, record, layout="contiguous"))
    for precision in options.precisions[1:]:
        device = resolve_device(options.device, precision)
        for kind in KINDS:
            for batch in batches(kind, size):
                section.row(measure(kind, batch, device, size, record))


def batches(kind: str, size: Size) -> list[int]:
    """Return the images of the measured steps of a kind; of the teacher's own only the recipe's and the most."""
    if kind == "teacher step":
        return sorted({paper_batch(kind, size), max(size.batches)})
    return sorted({*size.batches, paper_batch(kind, size)})


def paper_batch(kind: str, size: Size) -> int:
    """Return the number of images in a step of the recipe."""
    return {"GAN step": size.gan_batch, "teacher step": size.teacher_batch}.get(kind, size.student_batch)


def measure(
    kind: str, batch_images: int, device: Device, size: Size, record: Record, layout: str = "channels_last"
) -> dict[str, Any]:
    """Return a row: one step in eager mode."""
    try:
        step = STEPS[kind](trial_config(size.preset, device, batch_images), device)
        timer = StepTimer(step.call, step.batch_images, device)
        operations = timer.operations_per_image()
        timer.warm_up()
        rate, memory = with_peak_memory(device, lambda: timer.images_per_second(size.row_seconds))
    except torch.OutOfMemoryError:
        return {"step": kind, "precision": named(device), "layout": layout, "execution": "eager", "batch": batch_images,
                "images/s": "out of memory"}  # fmt: skip
    return row_of(
        f"{kind} ({step.networks})", device, layout, "eager", step.batch_images, operations, rate, memory, record
    )


def row_of(
    step: str,
    device: Device,
    layout: str,
    execution: str,
    batch_images: int,
    operations: float,
    rate: float,
    memory: int | None,
    record: Record,
) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        operations: per image.
        rate: images/s.
        memory: bytes; None on a CPU.
    """
    peak = peak_of(record, named(device))
    return {
        "step": step,
        "precision": named(device),
        "layout": layout,
        "execution": execution,
        "batch": batch_images,
        "images/s": rate,
        "ms a step": 1e3 * batch_images / rate,
        "GFLOP/image": operations / 1e9,
        "TFLOP/s": operations * rate / 1e12,
        "% of the peak": None if peak is None else 100 * operations * rate / peak,
        "peak memory, GiB": None if memory is None else memory / 2**30,
    }


def with_peak_memory(device: Device, action: Callable[[], float]) -> tuple[float, int | None]:
    """Return an action's result and the most bytes that tensors took meanwhile; None on a CPU."""
    if not device.is_cuda:
        return action(), None
    torch.cuda.reset_peak_memory_stats(device.torch_device)
    result = action()
    return result, torch.cuda.max_memory_allocated(device.torch_device)


def _profile(kind: str, device: Device, size: Size, record: Record) -> None:
    step = STEPS[kind](trial_config(size.preset, device, paper_batch(kind, size)), device)
    timer = StepTimer(step.call, step.batch_images, device)
    timer.warm_up()
    seconds = step.batch_images / timer.images_per_second(size.row_seconds)
    write_profile(f"{kind} ({step.networks})", timer, step.batch_images, seconds, device, record)

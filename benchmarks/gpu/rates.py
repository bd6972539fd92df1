"""The rates of the steps: images/s, share of the peak, memory, by batch, precision and layout; and their profiles."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType  # torch.autograd has it too, but does not say so
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.machine import named, peak_of
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options, Size
from benchmarks.steps import STEPS, StepTimer, trial_config
from hidfd.distributed.device import Device, resolve_device

SECTION = "Rates"
KINDS = ("KD step", "GAN step", "teacher forward", "teacher step")

PROFILED_STEPS = 5
SHOWN_OPERATIONS = 10

TEXT = (
    "Images/s of the code that trains, on random images and weights: data resident on the device, augmentation, "
    "teacher, optimisers and EMA included. Share of the peak: counted operations (convolutions and matrix products, "
    "forward and backward) over the matrix products of the same precision above. Memory: the most that tensors "
    "took in a step, networks and resident images included. Ready after: seconds from the start of a compiled step's "
    "process until the step could be measured."
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
    for kind in KINDS:  # with the most images, where the layout decides and not the host
        section.row(measure(kind, max(size.batches), contiguous, size, record, layout="contiguous"))
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


def paper_row(record: Record, kind: str, size: Size, precision: str) -> dict[str, Any] | None:
    """Return the measured row of a kind's step as the recipe takes it: eager, channels_last, the recipe's batch."""
    recipes = (precision, "channels_last", "eager", paper_batch(kind, size))
    for row in record.rows(SECTION):
        is_recipes = (row["precision"], row["layout"], row["execution"], row["batch"]) == recipes
        if is_recipes and str(row["step"]).startswith(kind) and isinstance(row["images/s"], float):
            return row
    return None


def measure(
    kind: str, batch_images: int, device: Device, size: Size, record: Record, layout: str = "channels_last"
) -> dict[str, Any]:
    """Return a row: one step in eager mode."""
    gc.collect()  # a folded teacher is a cycle: those of earlier rows would count as this row's memory
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


def write_profile(
    name: str, timer: StepTimer, batch_images: int, step_seconds: float, device: Device, record: Record
) -> None:
    """Profile some steps and write a section.

    Args:
        step_seconds: time of a step without the profiler, which slows the host down.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.is_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        timer.run(PROFILED_STEPS)
    section = record.section(
        f"Profile: {name}, {named(device)}, batch {batch_images}",
        f"Per step, over {PROFILED_STEPS} steps. An operation's own time, without that of operations it calls; the "
        f"host's is longer here than without the profiler. `% of all`: of {'GPU' if device.is_cuda else 'host'} ms.",
    )
    operations = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    on_device = {event.key: _device_microseconds(event) for event in operations}
    total = sum(on_device.values()) or sum(event.self_cpu_time_total for event in operations)
    operations.sort(key=lambda event: on_device[event.key] or event.self_cpu_time_total / 1e6, reverse=True)
    for event in operations[:SHOWN_OPERATIONS]:
        own = on_device[event.key] if device.is_cuda else event.self_cpu_time_total
        section.row(
            {
                "operation": event.key.replace("|", "/")[:70],
                "calls": event.count / PROFILED_STEPS,
                "GPU ms": on_device[event.key] / 1e3 / PROFILED_STEPS if device.is_cuda else None,
                "host ms": event.self_cpu_time_total / 1e3 / PROFILED_STEPS,
                "% of all": 100 * own / total,
            }
        )
    if device.is_cuda:
        launches, busy = _device_work(profiler)
        launches, busy = round(launches / PROFILED_STEPS), busy / PROFILED_STEPS
        section.note(
            f"{launches:,} kernels and copies a step, busy for {1e3 * busy:.3g} ms of {1e3 * step_seconds:.3g} ms: the "
            f"GPU idles {max(0.0, 1 - busy / step_seconds):.0%} of the time, waiting for the host to launch more"
        )
    else:
        calls = sum(event.count for event in operations) / PROFILED_STEPS
        section.note(f"{calls:,.0f} operations a step in {1e3 * step_seconds:.3g} ms; no GPU that could wait for them")


def _device_microseconds(event: Any) -> float:
    return float(event.self_device_time_total)


def _device_work(profiler: profile) -> tuple[int, float]:
    """Return the number of kernels and copies on the device, and the seconds in which at least one of them ran."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or []  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    )
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return len(spans), busy / 1e6

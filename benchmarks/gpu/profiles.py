"""Profiles of a step: the operations that take most, and how long the GPU waits for the host to launch its work."""

from __future__ import annotations

from typing import Any

from torch._C._autograd import DeviceType  # torch.autograd has it too, but does not say so
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.machine import named
from benchmarks.gpu.record import Record
from benchmarks.steps import StepTimer
from hidfd.distributed.device import Device

PROFILED_STEPS = 5
SHOWN_OPERATIONS = 10


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
        "host's is longer here than without the profiler.",
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
            f"GPU waits for launches {max(0.0, 1 - busy / step_seconds):.0%} of the time"
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

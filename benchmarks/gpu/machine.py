"""The machine: its names and versions, and the peaks of plain copies, matrix products and convolutions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from benchmarks.gpu.record import Record, Section
from benchmarks.gpu.settings import Options
from benchmarks.steps import machine, measure_peak, synchronize
from hidfd.distributed.device import Device, resolve_device
from hidfd.git import commit_of

SECTION = "Peaks"
MATRIX = "matrix products, TFLOP/s"

COPIED_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
COPIES = 10


def run(options: Options, record: Record) -> None:
    """Write the facts, and a row per precision."""
    device = resolve_device(options.device, options.precisions[0])
    record.add_facts(_facts(device))
    section = record.section(
        SECTION,
        "The best of some plain matrix products and of some 3x3 convolutions, on random data. On a GPU TF32 is what "
        "`precision: fp32` computes in; IEEE fp32 is here for comparison alone.",
    )
    seconds = options.size.row_seconds
    for precision in options.precisions:
        at_precision = resolve_device(options.device, precision)
        _peak(section, named(at_precision), at_precision, seconds)
    section.note(f"a copy within the device's memory: {_copy_rate(device) / 1e9:,.0f} GB/s, read and written")
    if device.is_cuda:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # missing in its stubs
        _peak(section, "IEEE fp32", Device(device.torch_device, "fp32"), seconds)


def named(device: Device) -> str:
    """Return the precision of steps on a device as the tables name it."""
    return "TF32" if device.is_cuda and device.precision == "fp32" else device.precision


def peak_of(record: Record, precision: str) -> float | None:
    """Return the rate of matrix products that this run has measured at a precision, in FLOP/s."""
    found = [row[MATRIX] for row in record.rows(SECTION) if row["precision"] == precision]
    return 1e12 * found[0] if found else None


def _peak(section: Section, precision: str, device: Device, seconds: float) -> None:
    peak = measure_peak(device, seconds)
    rates = {MATRIX: peak.matrix_multiply / 1e12, "convolutions, TFLOP/s": peak.convolution / 1e12}
    section.row({"precision": precision, **rates})


def _facts(device: Device) -> dict[str, str]:
    facts = {
        "device": machine(device),
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "commit": _commit(),
    }
    if device.is_cuda:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        properties = torch.cuda.get_device_properties(device.torch_device)
        facts["device"] += f", {properties.multi_processor_count} multiprocessors, {_gib(properties.total_memory)}"
        facts["software"] += f", CUDA {torch.version.cuda}, cuDNN {cudnn}, driver {_driver()}"
    return facts


def _commit() -> str:
    """Return the commit of the project, and whether its Python files differ from it. The record is none of them."""
    commit = commit_of(Path(__file__).parent)
    if commit is None:
        return "not known"
    status = ["git", "status", "--porcelain", "--", ":/*.py"]
    changes = subprocess.run(status, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    return f"{commit}{', with changes' if changes else ''}"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        answer = []
    return answer[0] if answer else "not known"


def _gib(count: int) -> str:
    return f"{count / 2**30:.0f} GiB"


def _copy_rate(device: Device) -> float:
    """Return the bytes read and written per second by copies between two tensors."""
    source = torch.randint(
        256, (COPIED_BYTES[device.torch_device.type],), dtype=torch.uint8, device=device.torch_device
    )
    target = torch.empty_like(source)
    target.copy_(source)
    synchronize(device)
    started = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    synchronize(device)
    return 2 * COPIES * len(source) / (time.perf_counter() - started)

"""The GPU tests, and meanwhile compiling: the rates of steps whose networks `torch.compile` has compiled."""

from __future__ import annotations

import time

from benchmarks.gpu import gpu_tests
from benchmarks.gpu.machine import named
from benchmarks.gpu.rates import SECTION, TEXT, row_of
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options
from benchmarks.gpu.workers import Spec, Worker
from hidfd.distributed.device import resolve_device
from hidfd.errors import HidfdError

SPARED_SECONDS = 10.0
"""Seconds at the end of the part that are kept for measuring, and before them for steps that are not compiled yet."""


def run(options: Options, record: Record) -> None:
    """Compile every step in a process of its own, all at once beside the tests; measure one after the other.

    Raises:
        HidfdError: a test failed; the rates are measured all the same.
    """
    size, section = options.size, record.section(SECTION, TEXT)
    device = resolve_device(options.device, options.precisions[0])
    workers = [
        Worker(Spec(options.device, size.preset, device.precision, {kind: batch}, size.compiler))
        for kind, batch in size.compiled
    ]
    until = time.monotonic() + options.seconds - SPARED_SECONDS
    execution = f"torch.compile, {size.compiler}"
    problem = None
    try:
        gpu_tests.run(record, until - SPARED_SECONDS - time.monotonic())
    except HidfdError as error:
        problem = error
    ready = [worker.answer(until - time.monotonic()) for worker in workers]
    for worker, said in zip(workers, ready, strict=True):
        if said is None:
            worker.end()
    for (kind, batch), worker, said in zip(size.compiled, workers, ready, strict=True):
        answer = None
        if said is not None:
            worker.ask(kind, size.row_seconds)
            answer = worker.answer(60.0)
            worker.end()
        if said is None or answer is None:
            section.note(f"{kind}, batch {batch}, {execution}: failed, or not ready within {options.seconds:.0f} s")
            continue
        step, operations = f"{kind} ({said['networks'][kind]})", said["operations"][kind]
        rate, memory = answer["images_per_second"], answer["memory"]
        section.row(
            row_of(step, device, "channels_last", execution, batch, operations, rate, memory, record)
            | {"ready after, s": said["seconds"]}
        )
    section.note(
        f"compiled steps ({named(device)}): only the networks are compiled, the optimisers and losses around them are "
        "not; all were compiled at the same time, beside the GPU tests, and measured one after the other"
    )
    if problem is not None:
        raise problem

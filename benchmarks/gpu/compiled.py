"""The rates of steps whose networks `torch.compile` has compiled, within a limit of seconds."""

from __future__ import annotations

import time

from benchmarks.gpu.machine import named
from benchmarks.gpu.rates import SECTION, TEXT, row_of
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options
from benchmarks.gpu.workers import Spec, Worker
from hidfd.distributed.device import resolve_device

SPARED_SECONDS = 10.0
"""Seconds at the end of the part that are kept for measuring."""


def run(options: Options, record: Record) -> None:
    """Compile every step in a process of its own, all at once; measure one after the other when all are done."""
    size, section = options.size, record.section(SECTION, TEXT)
    device = resolve_device(options.device, options.precisions[0])
    until = time.monotonic() + options.seconds - SPARED_SECONDS
    workers = {
        kind: Worker(Spec(options.device, size.preset, device.precision, {kind: batch}, size.compiler))
        for kind, batch in size.compiled_batches.items()
    }
    ready = {kind: worker.answer(until - time.monotonic()) for kind, worker in workers.items()}
    for kind, said in ready.items():
        if said is None:
            workers[kind].end()
            section.note(f"{kind}, batch {size.compiled_batches[kind]}: not compiled within {options.seconds:.0f} s")
    for kind, said in ready.items():
        if said is None:
            continue
        workers[kind].ask(kind, size.row_seconds)
        answer = workers[kind].answer(60.0)
        if answer is not None:
            rate, memory = answer["images_per_second"], answer["memory"]
            step, batch = f"{kind} ({said['networks'][kind]})", size.compiled_batches[kind]
            execution = f"torch.compile, {size.compiler}"
            operations = said["operations"][kind]
            section.row(
                row_of(step, device, "channels_last", execution, batch, operations, rate, memory, record)
                | {"ready after, s": said["seconds"]}
            )
        workers[kind].end()
    section.note(
        f"compiled steps ({named(device)}): only the networks are compiled, the optimisers and losses around them are "
        "not; all were compiled at the same time and measured one after the other"
    )

"""The rates of several processes that train on one GPU at the same time, as trials of a study do that share it."""

from __future__ import annotations

from benchmarks.gpu.machine import named
from benchmarks.gpu.rates import paper_batch, paper_row
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options, Size
from benchmarks.gpu.workers import Spec, Worker
from hidfd.distributed.device import resolve_device
from hidfd.errors import HidfdError

SECTION = "Side by side"
KINDS = ("KD step", "GAN step")

ENOUGH = 0.95
"""Share of the best rate of several processes with which fewer processes are preferred."""


def run(options: Options, record: Record) -> None:
    """Start the largest number of processes, and let more and more of them train at the same time.

    Raises:
        HidfdError: a process ended or did not answer.
    """
    size = options.size
    section = record.section(
        SECTION,
        "Images/s of all processes together, each with a trial's step of its own on the same device, measured at the "
        "same time. `x alone`: how many times the rate of one process alone. `slowest`: of the process with the lowest "
        "rate.",
    )
    device = resolve_device(options.device, options.precisions[0])
    steps = {kind: paper_batch(kind, size) for kind in KINDS}
    spec = Spec(options.device, size.preset, device.precision, steps)
    workers = [Worker(spec) for _ in range(max(size.processes))]
    if any(worker.answer(options.seconds) is None for worker in workers):
        raise HidfdError(f"not all of {len(workers)} processes could start")
    for kind in KINDS:
        alone: float | None = None
        for count in size.processes:
            for worker in workers[:count]:
                worker.ask(kind, 2 * size.row_seconds)
            answers = [worker.answer(options.seconds) for worker in workers[:count]]
            rates = [answer["images_per_second"] for answer in answers if answer is not None]
            if len(rates) < count:
                raise HidfdError(f"{count - len(rates)} of {count} processes did not answer")
            total = sum(rates)
            alone = alone or total
            cells = {"step": kind, "precision": named(device), "batch": paper_batch(kind, size), "processes": count}
            section.row(cells | {"images/s": total, "x alone": total / alone, "slowest, images/s": min(rates)})
    for worker in workers:
        worker.end()


def in_short(record: Record, size: Size, precision: str) -> str:
    """Return in one line what the recipe's steps reach, alone and side by side."""
    said = []
    for kind in KINDS:
        paper = paper_row(record, kind, size, precision)
        if paper is None:
            continue
        words = f"{kind}, batch {paper['batch']}: {paper['images/s']:,.0f} images/s"
        if paper["% of the peak"] is not None:
            words += f", {paper['% of the peak']:.1f}% of the {precision} peak"
        rows = [row for row in record.rows(SECTION) if row["step"] == kind]
        enough = ENOUGH * gain(record, kind, max(size.processes))
        fewest = next((row for row in rows if row["x alone"] >= enough), None)
        if fewest is not None and fewest["processes"] > 1:
            words += f", {fewest['x alone']:.1f} times as many in {fewest['processes']} processes side by side"
        said.append(words)
    return "; ".join(said) or "no step of the recipe was measured"


def gain(record: Record, kind: str, processes: int) -> float:
    """Return how many times one process's rate `processes` of them have together; 1 where it was not measured."""
    rows = [row for row in record.rows(SECTION) if row["step"] == kind and row["processes"] <= processes]
    return max((float(row["x alone"]) for row in rows), default=1.0)

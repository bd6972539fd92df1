"""Measure what a study costs beside its training, and what it saves, each as a ratio within one run.

    python -m benchmarks.study [--only overhead start reuse] [--trials 1000] [--write]

* overhead: seconds per trial that does nothing, two side by side, from the hundredth trial to the last: this engine
  with its ledger in SQLite, Ray Tune with its own OptunaSearch (on SQLite, and in memory, its default; actors reused),
  and plain Optuna on SQLite (ask, report, tell; no processes). Memory is what the driver grows by meanwhile.
* start: from the planner's decision to the first training step, in a new worker and in one that has trained before.
* reuse: CPU-seconds of the same search trials with shared generators and with one for each student, at half of the
  quickstart's budgets.

Each contender runs in a process of its own. `--write` puts the page into benchmarks/study.md; how soon samplers reach a
good student is `python -m benchmarks.search`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.overhead import (
    SIDE_BY_SIDE,
    WARM_TRIALS,
    nothing_by_optuna,
    nothing_by_ray_tune,
    nothing_by_ray_tune_on_sqlite,
    nothing_by_this_engine,
)
from benchmarks.small_studies import SHARED_BY, reuse, starts

SAMPLERS = ("random", "tpe")
"""Samplers that all contenders have."""

RIVAL = "Ray Tune, OptunaSearch on SQLite"
"""The contender of equal durability: its results outlive its process."""

PAGE = Path(__file__).with_suffix(".md")


def alone(action: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of an action in a new process with a folder of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="hidfd-bench-") as folder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        return process.submit(action, *arguments, Path(folder)).result()


def overhead_lines(num_trials: int) -> Iterator[str]:
    """Return the table of trials that do nothing."""
    yield f"### A trial that does nothing ({num_trials - WARM_TRIALS} counted, {SIDE_BY_SIDE} side by side, n = 1)"
    yield ""
    yield "| sampler | | seconds per trial | of Ray Tune's on SQLite | MiB per trial |"
    yield "|---|---|---:|---:|---:|"
    for sampler in SAMPLERS:
        contenders = {
            "this engine, on SQLite": nothing_by_this_engine,
            RIVAL: nothing_by_ray_tune_on_sqlite,
            "Ray Tune, OptunaSearch in memory": nothing_by_ray_tune,
            "plain Optuna on SQLite, no processes": nothing_by_optuna,
        }
        found = {name: alone(action, sampler, num_trials) for name, action in contenders.items()}
        rival = found[RIVAL].seconds
        for name, cost in found.items():
            yield f"| {sampler} | {name} | {cost.seconds:.4f} | {cost.seconds / rival:.2f} | {cost.mib:.3f} |"


def start_lines() -> Iterator[str]:
    """Return the table of a student's wait for its first step."""
    cold, warm = alone(starts)
    yield "### From the decision to the first training step of a student, seconds"
    yield ""
    yield "| worker | n | median | longest | of a cold start |"
    yield "|---|---:|---:|---:|---:|"
    for name, found in (("cold", cold), ("warm", warm)):
        share = statistics.median(found) / statistics.median(cold)
        yield f"| {name} | {len(found)} | {statistics.median(found):.2f} | {max(found):.2f} | {share:.2f} |"


def reuse_lines() -> Iterator[str]:
    """Return the table of what sharing generators saves."""
    shared, without, build, student = alone(reuse)
    yield "### CPU-seconds of the same search trials"
    yield ""
    yield "| students per generator | shared | one each | times fewer |"
    yield "|---|---:|---:|---:|"
    yield f"| {SHARED_BY}, measured | {shared:.0f} | {without:.0f} | {without / shared:.2f} |"
    for number in (3, 12):
        expected, apart = build + number * student, number * (build + student)
        yield f"| {number}, by the costs of that run | {expected:.0f} | {apart:.0f} | {apart / expected:.2f} |"
    yield ""
    yield f"A generator took {build:.1f} CPU-seconds and a student {student:.1f}; where a generator costs less"
    yield "beside its students, as at the paper's budgets (0.08 against 0.14 EFLOP), less is saved."


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "overhead": lambda options: overhead_lines(options.trials),
    "start": lambda options: start_lines(),
    "reuse": lambda options: reuse_lines(),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that the command line asks for and print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--trials", type=int, default=1000, help=f"that do nothing; more than {WARM_TRIALS}")
    parser.add_argument("--write", action="store_true", help=f"put the page into {PAGE.name}")
    options = parser.parse_args(arguments)
    if options.trials <= WARM_TRIALS:
        parser.error(f"--trials: more than the {WARM_TRIALS} of the warm-up")
    lines = []
    for part in options.only:
        for line in (*PARTS[part](options), ""):
            print(line, flush=True)
            lines.append(line)
    if options.write:
        heading = f"## {datetime.now(UTC):%Y-%m-%d}: `python -m benchmarks.study --trials {options.trials}`"
        intro = PAGE.read_text().partition("## ")[0]
        PAGE.write_text("\n".join([f"{intro}{heading}", "", *lines]).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

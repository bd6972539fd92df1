"""Compare how soon samplers reach a good student: the stage-aware one, TPE with ASHA, and random search.

    python -m benchmarks.search [--seeds 20] [--jobs 2] [--only NAME ...] [--runs FILE] [--write]

The planner itself runs over virtual workers (`tune.engines.simulation`): ASHA, reuse and the ledger are the real ones,
only the students' values come from `benchmarks.landscapes`. A virtual second is an operation count: building a
generator takes as long as 4 students. The time that counts ends with the first student whose noiseless value is within
1 % of the function's range of its optimum. TPE is tried with 1, 3 and 6 students per generator; its best is chosen for
each row after the fact, in its favour. Prints a Markdown table; `--write` puts it into benchmarks/search.md. `--runs`
keeps the results in a file, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage

from benchmarks.landscapes import LANDSCAPES, Landscape, Unit, fractions_of
from benchmarks.recorded import recorded
from hidfd.config.schema import TrialConfig
from tune.engines.simulation import Simulation
from tune.ledger.ledger import Ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import Definition, define
from tune.study.messages import Channel, ProgressReport, TaskDiverged, TaskEnd, TaskFinished, TaskStopped
from tune.study.states import TaskKind
from tune.study.task import Task

BUILD_COST = 4.0
"""Cost of a generator, in students."""

STEPS = 8
"""Number of virtual steps of each task; ASHA compares a student at the end of one."""

TARGET_FRACTION = 0.01
"""Distance of the target from the optimum, as a fraction of the function's range."""

CONCURRENCIES = (1, 8)
"""Numbers of students side by side."""

RESAMPLES = 4_000
"""Number of times that the seeds are drawn again for the intervals."""

PAGE = Path(__file__).with_suffix(".md")

STAGE_AWARE = "stage-aware"

SAMPLERS: dict[str, dict[str, Any]] = {
    STAGE_AWARE: {"sampler": "stage-aware"},
    "TPE, 1": {"sampler": "tpe", "students_per_generator": 1},
    "TPE, 3": {"sampler": "tpe", "students_per_generator": 3},
    "TPE, 6": {"sampler": "tpe", "students_per_generator": 6},
    "random, 3": {"sampler": "random", "students_per_generator": 3},
}

TRIAL = {
    "data": {"candidates": {"sha256": "a" * 64}, "channels": 1, "image_size_pixels": 28},
    "teacher": {"checkpoint": {"sha256": "c" * 64}, "architecture": "resnet14", "mean": [0.3], "std": [0.3]},
    "collection": {"num_images": 100, "holdout_images": 200},
    "generation": {"networks": "light", "image_size_pixels": 28, "width": 8, "target_images": 15_000},
    "distillation": {"architecture": "resnet8", "target_images": 6400, "batch_images": 64},
}
"""A trial whose generator costs 4.0 times the operations of its student."""


class Reached(Exception):
    """The end of a study: it has reached its target, or has taken too long."""


@dataclass(frozen=True)
class Run:
    """The result of one study.

    Attributes:
        landscape, sampler, concurrency, seed: of the study.
        seconds: virtual ones until the target was reached, or the study was given up.
        reached: whether the target was reached.
        students, generators: that it had built by then.
    """

    landscape: str
    sampler: str
    concurrency: int
    seed: int
    seconds: float
    reached: bool
    students: int
    generators: int


@functools.cache
def landscapes() -> tuple[Landscape, ...]:
    """Return the synthetic landscapes, and that of real students."""
    return (*LANDSCAPES, recorded())


def study_of(landscape: Landscape, settings: dict[str, Any], concurrency: int, seed: int) -> Definition:
    """Define a study of a landscape that would go on for ever."""
    asked = {"num_students": 100_000, "seed": seed, "concurrency": concurrency} | settings
    search = dict(landscape.searched.values())
    trial = TrialConfig.model_validate(TRIAL)
    return define("search", StudyConfig.model_validate(asked), SearchConfig.model_validate(search), trial, Path())


class Pretended:
    """Virtual generators and students on a landscape.

    Attributes:
        reached: whether a student has ended within the target.
        students, generators: number of those that have ended.
    """

    def __init__(self, landscape: Landscape, target: float) -> None:
        self.reached = False
        self.students = self.generators = 0
        self._landscape, self._target = landscape, target

    def fractions(self, task: Task) -> Unit:
        """Return a task's parameters as fractions of their ranges."""
        return fractions_of(self._landscape.searched, task.params)

    def steps(self, task: Task, channel: Channel) -> Iterator[TaskEnd | None]:
        """Take one virtual step of a task per `next`."""
        x = self.fractions(task)
        if task.spec.kind.is_build:
            yield from [None] * (STEPS - 1 if task.spec.kind is TaskKind.GENERATOR else 0)
            self.generators += task.spec.kind is TaskKind.GENERATOR
            yield TaskFinished({"generator.effective_classes": 1.0 if self._landscape.collapses(x) else 9.0})
            return
        target = task.spec.target_images
        assert target is not None
        for step in range(1, STEPS):
            if step == STEPS // 2 and self._landscape.diverges(x):
                yield TaskDiverged("a loss was not finite")
                return
            shown = {"agreement": self._landscape.measured(x, step / STEPS)}
            channel.report(ProgressReport("distillation", target * step // STEPS, target, shown, measured=True))
            reason = channel.verdict()
            if reason is not None:
                yield TaskStopped(reason)
                return
            yield None
        self.students += 1
        self.reached |= self._landscape.value(x) >= self._target
        yield TaskFinished({"agreement": self._landscape.measured(x, 1.0)})


def seconds_per_step(task: Task) -> float:
    """Return the virtual seconds of a step: its operations, in students."""
    if task.spec.kind is TaskKind.COLLECTION:
        return 0.01
    return (BUILD_COST if task.spec.kind.is_build else 1.0) / STEPS


def run(landscape: Landscape, name: str, concurrency: int, seed: int, target: float) -> Run:
    """Run one study until its target is reached, or it has taken too long."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_of(landscape, SAMPLERS[name], concurrency, seed)
    pretended, longest = Pretended(landscape, target), landscape.longest / concurrency

    def look() -> None:
        if pretended.reached or simulation.now >= longest:
            raise Reached

    simulation = Simulation(pretended.steps, num_slots=concurrency, step_seconds=seconds_per_step, on_event=look)
    ledger = Ledger(InMemoryStorage(), study.name, study.study.objective)
    ledger.claim()
    with contextlib.suppress(Reached):
        simulation.run(Planner(StudyState(study, ledger), simulation.clock))
    seconds = min(simulation.now, longest)
    return Run(
        landscape.name,
        name,
        concurrency,
        seed,
        seconds,
        pretended.reached,
        pretended.students,
        pretended.generators,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the studies that the command line asks for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="studies for each cell of the table")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[found.name for found in landscapes()])
    parser.add_argument("--samplers", nargs="+", metavar="NAME", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--concurrency", nargs="+", type=int, choices=CONCURRENCIES, default=CONCURRENCIES)
    parser.add_argument("--runs", type=Path, help="JSON lines, a study each; those that are there are not run again")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    wanted = [
        (landscape.name, name, concurrency, seed)
        for landscape in landscapes()
        if options.only is None or landscape.name in options.only
        for concurrency in options.concurrency
        for name in options.samplers
        for seed in range(options.seeds)
    ]
    found = _run_all(wanted, options.jobs, options.runs)
    page = "\n".join([f"{options.seeds} seeds.", "", *table(found)])
    print(page)
    if options.write:
        heading = f"## {datetime.now(UTC):%Y-%m-%d}: `python -m benchmarks.search --seeds {options.seeds}`"
        PAGE.write_text(f"{PAGE.read_text().partition('## ')[0]}{heading}\n{page}\n")
    return 0


def _run_all(wanted: list[tuple[str, str, int, int]], jobs: int, kept: Path | None) -> list[Run]:
    """Run the wanted studies that are not in the file yet; return all of them, in the order wanted."""
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    found = {(r.landscape, r.sampler, r.concurrency, r.seed): r for r in (Run(**json.loads(line)) for line in lines)}
    missing = [key for key in wanted if key not in found]
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(kept.open("a")) if kept is not None else None
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs))
        for number, done in enumerate(pool.imap_unordered(_run_one, missing), 1):
            found[done.landscape, done.sampler, done.concurrency, done.seed] = done
            if out is not None:
                out.write(json.dumps(asdict(done)) + "\n")
                out.flush()
            if sys.stderr.isatty():
                print(f"\r{number} of {len(missing)} studies", end="", file=sys.stderr)
    return [found[key] for key in wanted]


def _run_one(key: tuple[str, str, int, int]) -> Run:
    name, sampler, concurrency, seed = key
    landscape = next(found for found in landscapes() if found.name == name)
    return run(landscape, sampler, concurrency, seed, _target_of(name))


@functools.cache
def _target_of(name: str) -> float:
    """Return a landscape's target, computed once for each process because it takes seconds."""
    return next(found for found in landscapes() if found.name == name).target(TARGET_FRACTION)


def table(runs: list[Run]) -> Iterator[str]:
    """Return lines of Markdown: median times, and how many times sooner the stage-aware sampler was."""
    samplers = list(dict.fromkeys(run.sampler for run in runs))
    rivals = [name for name in samplers if name.startswith("TPE")]
    yield f"| function | side by side | {' | '.join(samplers)} | times sooner than the best TPE |"
    yield f"|---|---:|{'---:|' * len(samplers)}---|"
    ratios: dict[tuple[int, bool], list[float]] = {}
    for landscape, concurrency in itertools.product(landscapes(), CONCURRENCIES):
        here = [run for run in runs if (run.landscape, run.concurrency) == (landscape.name, concurrency)]
        cells = [[run for run in here if run.sampler == name] for name in samplers]
        if not all(cells):
            continue
        times = [np.array([run.seconds for run in cell]) for cell in cells]
        shown = " | ".join(_median(cell, landscape.longest / concurrency) for cell in cells)
        of_rivals = [times[samplers.index(name)] for name in rivals]
        sooner = "–"
        if rivals and STAGE_AWARE in samplers:
            best = min(range(len(rivals)), key=lambda place: (np.median(of_rivals[place]), np.mean(of_rivals[place])))
            ratio, low, high = ratio_of_medians(of_rivals[best], times[samplers.index(STAGE_AWARE)])
            ratios.setdefault((concurrency, landscape.held_out), []).append(ratio)
            more = "> " if np.median(of_rivals[best]) >= landscape.longest / concurrency else ""
            sooner = f"**{more}{ratio:.1f}** [{low:.1f}, {high:.1f}] ({rivals[best]})"
        note = " (held out)" if landscape.held_out else ""
        yield f"| {landscape.name}{note} | {concurrency} | {shown} | {sooner} |"
    yield ""
    for (concurrency, held_out), several in sorted(ratios.items()):
        kind = "held-out functions" if held_out else "functions that the sampler was made on"
        mean = float(np.exp(np.mean(np.log(several))))
        yield f"* {concurrency} side by side, {kind}: {mean:.1f} times sooner (geometric mean of {len(several)})"


def ratio_of_medians(slower: NDArray[np.float64], sooner: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return how many times as long the slower median takes, with a 90 % interval by resampling the seeds."""
    random = np.random.default_rng(0)
    drawn = [np.median(random.choice(times, size=(RESAMPLES, len(times))), axis=1) for times in (slower, sooner)]
    low, high = np.quantile(drawn[0] / drawn[1], [0.05, 0.95])
    return float(np.median(slower) / np.median(sooner)), float(low), float(high)


def _median(cell: list[Run], longest: float) -> str:
    """Return the median time in words, with the number of studies that never reached the target."""
    failed = sum(not run.reached for run in cell)
    median = float(np.median([run.seconds for run in cell]))
    value = f"> {longest:.0f}" if median >= longest else f"{median:.0f}"
    return f"{value} ({failed} never)" if failed else value


if __name__ == "__main__":
    sys.exit(main())

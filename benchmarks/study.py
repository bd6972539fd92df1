"""What a study costs beside its training, and what it saves, each as a ratio measured in one run.

    python -m benchmarks.study [--only overhead start reuse] [--trials 1000] [--write]

* overhead: seconds per trial that does nothing, two side by side, from the hundredth trial to the last: this engine
  with its ledger in SQLite, Ray Tune with its own OptunaSearch (on SQLite, and in memory, its default; actors reused),
  and plain Optuna on SQLite (ask, report, tell; no processes). Memory is what the driver grows by meanwhile.
* start: from the planner's decision to the first training step, in a new worker and in one that has worked before.
* reuse: CPU-seconds of the same suggestions with shared generators and with one for each student, at half of the
  quickstart's budgets.

Each contender runs in a process of its own. `--write` puts the page into benchmarks/study.md; how soon samplers reach a
good student is `python -m benchmarks.search`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.overhead import (
    SIDE_BY_SIDE,
    WARM_TRIALS,
    nothing_by_optuna,
    nothing_by_ray_tune,
    nothing_by_ray_tune_on_sqlite,
    nothing_by_this_engine,
)
from hidfd.studyfile import ResourcesConfig
from tune.definition import Definition
from tune.environment import before_ray, before_torch
from tune.ledger_places import open_ledger
from tune.local import Channel, run_local
from tune.planner import Planner
from tune.snapshot import WorkState
from tune.state import StudyState
from tune.work import Done, End, Finished, Report, Wait, Work
from tune.worker import Place, perform

SAMPLERS = ("random", "tpe")

RIVAL = "Ray Tune, OptunaSearch on SQLite"
"""The same durability: what it has heard outlives its process."""

SHARED_BY = 6
"""Students that share a generator where reuse is measured."""

PAGE = Path(__file__).with_suffix(".md")

STUDY_FILE = Path(__file__).parents[1] / "studies" / "quickstart.yaml"

SMALL = (
    "trial.generation.target_images=8000",
    "trial.synthesis.num_images=1500",
    "trial.distillation.target_images=7200",
)
"""Half of the quickstart's budgets; with a quarter, generators collapse."""

NO_CONTROLS = tuple(f"study.controls.{name}=false" for name in ("real_only", "synthetic_only", "plain_kd"))


class _Noting(Planner):
    """Notes when it hands out what."""

    def __init__(self, state: StudyState, folder: Path) -> None:
        super().__init__(state, time.time)
        self._folder = folder

    def next_work(self, free: int) -> Work | Wait | Done:
        found = super().next_work(free)
        if isinstance(found, Work):
            (self._folder / found.key).write_text(str(time.time()))
        return found


class FirstStep:
    """A channel that notes when training has begun."""

    def __init__(self, channel: Channel) -> None:
        self.at: float | None = None
        self._channel = channel

    def report(self, report: Report) -> None:
        """Passes it on."""
        if self.at is None and report.stage == "distillation" and report.images > 0:
            self.at = time.time()
        self._channel.report(report)

    def verdict(self) -> str | None:
        """The planner's."""
        return self._channel.verdict()


def perform_and_note(work: Work, place: Place, channel: Channel) -> End:
    """As a study does it, with the seconds from decision to first step among the numbers."""
    line = FirstStep(channel)
    end = perform(work, place, line)
    if isinstance(end, Finished) and line.at is not None:
        handed_out = float((Path(place.folder) / "handed-out" / work.key).read_text())
        end.metrics["first_step_seconds"] = line.at - handed_out
        end.metrics["process"] = float(os.getpid())
    return end


def starts(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds to the first step of students in new workers, and in those that have trained one before."""
    environment = before_ray(1, SIDE_BY_SIDE)
    from tune.engine import run_ray

    rate = {"distillation.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}}
    study = _small_study(folder, "start", rate, "study.num_students=10", "trial.synthesis.num_images=0")
    (folder / "handed-out").mkdir()
    with open_ledger(str(folder / "ledger.db"), study.name, "agreement") as ledger:
        planner = _Noting(StudyState(study, ledger), folder / "handed-out")
        run_ray(
            planner,
            Place(str(folder / "store"), str(folder), "cpu", 1),
            concurrency=SIDE_BY_SIDE,
            resources=ResourcesConfig(),
            environment=environment,
            on_change=lambda: None,
            execute=perform_and_note,
        )
    works = [work for work in planner.state.works.values() if work.piece.kind == "student" and work.attempts]
    cold: list[float] = []
    warm: list[float] = []
    seen: set[float] = set()
    for work in sorted(works, key=lambda work: work.attempts[0].started):
        assert work.outcome is not None, work.label
        metrics = work.outcome.metrics
        (warm if metrics["process"] in seen else cold).append(metrics["first_step_seconds"])
        seen.add(metrics["process"])
    return cold, warm


def reuse(folder: Path) -> tuple[float, float, float, float]:
    """CPU-seconds of the same suggestions with one generator for all and with one for each.

    Returns:
        With reuse, without, and of a generator and of a student as measured with reuse.
    """
    before_torch(1)
    import torch

    from hidfd.store import Store
    from hidfd.trial import run_trial

    torch.set_num_threads(1)
    sharing = f"study.students_per_generator={SHARED_BY}"
    search = {"distillation.inflation": {"type": "float", "low": 5, "high": 200, "log": True}}
    search["generation.smoothing.temperature"] = {"type": "float", "low": 0.5, "high": 4, "log": True}
    study = _small_study(folder, "reuse", search, f"study.num_students={SHARED_BY}", sharing)
    place = Place(str(folder / "store"), str(folder), "cpu", 1)
    shutil.copytree(folder / "store", folder / "imported")
    run_trial(study.base, Store.open(str(folder / "imported")), until="collection", device="cpu")
    with open_ledger(str(folder / "ledger.db"), study.name, "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), time.time)
        run_local(planner, lambda work, channel: perform(work, place, channel))
    works = [
        work for work in planner.state.works.values() if work.role == "search" and work.piece.until != "collection"
    ]
    assert all(work.outcome is not None and work.outcome.state is WorkState.COMPLETE for work in works)
    costs = {kind: [_cpu_seconds(w) for w in works if w.piece.kind == kind] for kind in ("build", "student")}
    started = time.process_time()
    for work in works:
        if work.piece.kind == "student":
            own = folder / "own" / work.label
            shutil.copytree(folder / "imported", own / "store")
            run_trial(work.piece.config, Store.open(str(own / "store")), folder=own, device="cpu")
    without = time.process_time() - started
    shared = sum(map(sum, costs.values()))
    return shared, without, statistics.fmean(costs["build"]), statistics.fmean(costs["student"])


def _cpu_seconds(work: Work) -> float:
    return sum(attempt.cpu_seconds or 0.0 for attempt in work.attempts)


def _small_study(folder: Path, name: str, search: dict[str, Any], *overrides: str) -> Definition:
    """The quickstart at half of its budgets and without controls, over another search, with its material imported."""
    from hidfd.progress import Observer
    from hidfd.store import Store
    from hidfd.trial import import_all
    from tune.study import open_study

    tree = yaml.safe_load(STUDY_FILE.read_text())
    trial = tree["trial"]
    for material in (trial["data"]["candidates"], trial["data"]["validation"], trial["data"]["test"]):
        material["path"] = str(STUDY_FILE.parent / material["path"])
    trial["teacher"]["checkpoint"]["path"] = str(STUDY_FILE.parent / trial["teacher"]["checkpoint"]["path"])
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree | {"search": search}))
    given = (f"name={name}", "study.sampler=random", "study.pruner.kind=none", *SMALL, *NO_CONTROLS, *overrides)
    study = open_study(str(file), given, store=str(folder / "store"))
    import_all(study.definition.base, Store.open(str(folder / "store")), Observer())
    return study.definition


def alone(action: Callable[..., Any], *arguments: Any) -> Any:
    """The result of an action in a new process with a folder of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="hidfd-bench-") as folder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        return process.submit(action, *arguments, Path(folder)).result()


def overhead_lines(num_trials: int) -> Iterator[str]:
    """The table of trials that do nothing."""
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
    """How long a student waits for its first step."""
    cold, warm = alone(starts)
    yield "### From the decision to the first training step of a student, seconds"
    yield ""
    yield "| worker | n | median | longest | of a cold start |"
    yield "|---|---:|---:|---:|---:|"
    for name, found in (("cold", cold), ("warm", warm)):
        share = statistics.median(found) / statistics.median(cold)
        yield f"| {name} | {len(found)} | {statistics.median(found):.2f} | {max(found):.2f} | {share:.2f} |"


def reuse_lines() -> Iterator[str]:
    """What sharing generators saves."""
    shared, without, build, student = alone(reuse)
    yield "### CPU-seconds of the same suggestions"
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
    """Runs what is asked for and prints the page."""
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

"""The overhead of this engine, of Ray Tune with its own OptunaSearch, and of plain Optuna: trials that do nothing."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search import TRIAL
from hidfd.config.schema import TrialConfig
from hidfd.config.study_file import ResourcesConfig
from tune.engines.environment import before_ray
from tune.engines.worker import Perform, WorkerContext
from tune.ledger.opening import open_ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import define
from tune.study.messages import Channel, TaskEnd, TaskFinished
from tune.study.task import Task

WARM_TRIALS = 100
"""Number of first trials that are not counted: in them processes start and modules are loaded."""

SIDE_BY_SIDE = 2
"""Number of trials that run at once."""

RATES = {"distillation.learning_rate": (0.01, 0.5), "distillation.weight_decay": (1e-5, 1e-2)}
"""The search space: path -> range, searched in its logarithm."""


@dataclass(frozen=True)
class Overhead:
    """The cost of a trial that does nothing.

    Attributes:
        seconds: of wall-clock time, per trial.
        mib: MiB of memory that the driver grows by, per trial.
    """

    seconds: float
    mib: float


class Laps:
    """A clock that measures from the end of the warm-up to the last trial."""

    def __init__(self, num_trials: int) -> None:
        self._num_trials = num_trials
        self._marks: dict[int, tuple[float, float]] = {}

    def count(self, ended: int) -> None:
        """Note that so many trials have ended."""
        for mark in (WARM_TRIALS, self._num_trials):
            if ended >= mark and mark not in self._marks:
                self._marks[mark] = time.perf_counter(), _resident_mib()

    def overhead(self) -> Overhead:
        """Return the cost per trial after the warm-up."""
        (started, before), (ended, after) = self._marks[WARM_TRIALS], self._marks[self._num_trials]
        count = self._num_trials - WARM_TRIALS
        return Overhead((ended - started) / count, (after - before) / count)


def do_nothing(task: Task, context: WorkerContext, channel: Channel) -> TaskEnd:
    """Perform a task in no time."""
    if task.spec.kind.is_build:
        return TaskFinished({"generator.effective_classes": 9.0})
    return TaskFinished({"agreement": task.params["distillation.learning_rate"]})


def run_on_ray(planner: Planner, folder: Path, execute: Perform, on_change: Callable[[], None] = lambda: None) -> None:
    """Run the study's engine on a Ray of its own, in a process that has not loaded Ray yet.

    Args:
        planner: of the study.
        folder: holds its `store`.
        execute: performs a task.
        on_change: called ten times a second.
    """
    environment = before_ray(1, SIDE_BY_SIDE)
    from tune.engines.ray_engine import run_ray

    run_ray(
        planner,
        WorkerContext(str(folder / "store"), str(folder), "cpu", 1),
        concurrency=SIDE_BY_SIDE,
        resources=ResourcesConfig(),
        environment=environment,
        on_change=on_change,
        execute=execute,
    )


def nothing_by_this_engine(sampler: str, num_trials: int, folder: Path) -> Overhead:
    """Measure planner, ledger and Ray as `tune run` has them, without its display and tracking."""
    laps = Laps(num_trials)
    asked = {"num_students": num_trials, "sampler": sampler, "concurrency": SIDE_BY_SIDE, "pruner": {"kind": "none"}}
    searched = {path: {"type": "float", "low": low, "high": high, "log": True} for path, (low, high) in RATES.items()}
    study = define(
        "nothing",
        StudyConfig.model_validate(asked),
        SearchConfig.model_validate(searched),
        TrialConfig.model_validate(TRIAL),
        folder,
    )
    (folder / "store").mkdir()
    with open_ledger(str(folder / "ledger.db"), study.name, "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), time.time)
        run_on_ray(planner, folder, do_nothing, lambda: laps.count(planner.state.num_learnt_from))
        laps.count(planner.state.num_learnt_from)
    return laps.overhead()


def nothing_by_ray_tune(sampler: str, num_trials: int, folder: Path) -> Overhead:
    """Measure Ray Tune's Tuner with its OptunaSearch in memory, which is lost with a killed driver."""
    return _tune(sampler, num_trials, folder, None)


def nothing_by_ray_tune_on_sqlite(sampler: str, num_trials: int, folder: Path) -> Overhead:
    """Measure Ray Tune's Tuner with its OptunaSearch on SQLite, which outlives the driver."""
    return _tune(sampler, num_trials, folder, f"sqlite:///{folder / 'optuna.db'}")


def _tune(sampler: str, num_trials: int, folder: Path, address: str | None) -> Overhead:
    before_ray(1, SIDE_BY_SIDE)
    import optuna
    import ray
    from ray.tune import Callback, RunConfig, TuneConfig, Tuner, report
    from ray.tune.search.optuna import OptunaSearch

    laps = Laps(num_trials)

    class Count(Callback):
        ended = 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            laps.count(self.ended)

    def trial(config: dict[str, float]) -> None:
        report({"agreement": config["distillation.learning_rate"]})

    space: dict[str, optuna.distributions.BaseDistribution] = {
        path: optuna.distributions.FloatDistribution(low, high, log=True) for path, (low, high) in RATES.items()
    }
    storage = None if address is None else optuna.storages.RDBStorage(address)
    found = OptunaSearch(space, metric="agreement", mode="max", sampler=_sampler(sampler), storage=storage)
    ray.init(num_cpus=SIDE_BY_SIDE, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        Tuner(
            trial,
            tune_config=TuneConfig(
                search_alg=found, num_samples=num_trials, max_concurrent_trials=SIDE_BY_SIDE, reuse_actors=True
            ),
            run_config=RunConfig(name="nothing", storage_path=str(folder / "ray"), verbose=0, callbacks=[Count()]),
        ).fit()
    finally:
        ray.shutdown()
    return laps.overhead()


def nothing_by_optuna(sampler: str, num_trials: int, folder: Path) -> Overhead:
    """Measure one process that calls Optuna's ask, report and tell, on SQLite with its defaults."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    laps = Laps(num_trials)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    study = optuna.create_study(storage=storage, direction="maximize", sampler=_sampler(sampler))
    for number in range(num_trials):
        trial = study.ask()
        values = [trial.suggest_float(path, low, high, log=True) for path, (low, high) in RATES.items()]
        trial.report(values[0], 6400)
        study.tell(trial, values[0])
        laps.count(number + 1)
    return laps.overhead()


def _sampler(name: str) -> Any:
    import optuna

    return optuna.samplers.RandomSampler(seed=0) if name == "random" else optuna.samplers.TPESampler(seed=0)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20

"""The Ray Tune engine: a thin adapter whose methods each call one method of the planner.

One task is one Ray Tune trial, run by a plain function in a reused actor (`tune.engines.ray_worker`). Trials
are never stopped by Tune: their verdict waits in a mailbox that they ask at most once a second, and the function
returns by itself, with its checkpoint saved. Nothing here raises into Tune, which would end the run in its own way: an
error is kept, the study is drained, and it is raised afterwards.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.tune import Callback, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import SearchAlgorithm
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hidfd.config.study_file import ResourcesConfig
from tune.engines.ray_cluster import (
    alive,
    answers,
    check_answers,
    check_fits,
    check_fits_here,
    check_store_is_shared,
    free,
    starting,
)
from tune.engines.ray_worker import MESSAGE, Actors, StopRequests, trainable
from tune.engines.results_sync import ResultsFolder
from tune.engines.worker import Perform, WorkerContext, perform
from tune.planner.planner import Planner
from tune.study.messages import (
    AttemptStarted,
    Done,
    PlacementGroupReserved,
    ProcessJoined,
    ProgressReport,
    TaskEnd,
    TaskLost,
    from_json,
)
from tune.study.task import Task

POST_EVERY_SECONDS = 5.0
"""How often a verdict is posted again, until its task has ended: a mailbox that was restarted is empty."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's smallest is 75 MiB. Images and checkpoints go through the store, not through Ray."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


def run_ray(
    planner: Planner,
    place: WorkerContext,
    *,
    concurrency: int,
    resources: ResourcesConfig,
    environment: dict[str, str],
    on_change: Callable[[], None],
    execute: Perform = perform,
) -> None:
    """Run a study as Ray Tune trials, on the cluster of RAY_ADDRESS or on one of its own on this machine.

    Args:
        planner: decides.
        place: where work is done and left.
        concurrency: tasks side by side.
        resources: of each.
        environment: what `tune.engines.environment.before_ray` has set, before this module was imported.
        on_change: called whenever there may be something new to show, ten times a second.
        execute: does a task in a worker; another one measures the engine itself (`benchmarks.study`).

    Raises:
        EngineError: Ray does not start, or does not answer, or will never have what a task needs.
        Exception: what a planner's method raised (the ledger went away, say), after what ran has been told to stop.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the study says itself what was lost, in a line
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        check_answers(address)
    num_workers, gpus = resources.num_workers, resources.gpus_per_worker
    if address is None:
        check_fits_here(num_workers * place.threads)
    with starting(address):
        if address is not None:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": environment})
        else:
            ray.init(
                address="local",  # else it joins whatever was started here
                num_cpus=concurrency * num_workers * place.threads,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    try:
        if not resources.autoscaling:
            check_fits(resources.num_workers, {"CPU": place.threads, "GPU": resources.gpus_per_worker})
        check_store_is_shared(place)
        actors = start_actors(place.folder)
        adapter = Adapter(planner, actors.mailbox, concurrency, _resources(place.threads, num_workers, gpus), on_change)
        with tempfile.TemporaryDirectory(prefix="hidfd-ray-") as scratch:
            Tuner(
                trainable(place, actors, num_workers=num_workers, gpus=gpus, execute=execute),
                tune_config=TuneConfig(
                    search_alg=Search(adapter), scheduler=Scheduler(adapter), reuse_actors=num_workers == 1
                ),
                run_config=RunConfig(name="study", storage_path=scratch, verbose=0, callbacks=[EveryStep(adapter)]),
            ).fit()
    finally:
        ray.shutdown()
    if adapter.error is not None:
        raise adapter.error


def start_actors(folder: str) -> Actors:
    """Beside the driver, whose death ends the run anyway: on another node they would take all that runs with them.

    Args:
        folder: of the study's results.
    """
    # Were it soft, Ray would put an actor that takes no resources on any node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    # A mailbox that was restarted is empty and filled again; a file that was on its way is sent again.
    mailbox = ray.remote(StopRequests).options(**options).remote()
    return Actors(mailbox, ray.remote(ResultsFolder).options(**options, max_task_retries=-1).remote(folder))


def _resources(threads: int, num_workers: int, gpus: float) -> PlacementGroupFactory:
    """What a trial's function holds: with several processes nothing to speak of, as they hold their own."""
    if num_workers > 1:
        return PlacementGroupFactory([{"memory": 1.0}])  # a byte, because Tune refuses a trial that needs nothing
    return PlacementGroupFactory([{"CPU": float(threads)} | ({"GPU": gpus} if gpus else {})])


class Adapter:
    """What Ray's three interfaces share: the planner, and which trial is which task.

    Attributes:
        error: the first exception of a planner's method.
    """

    def __init__(
        self,
        planner: Planner,
        mailbox: Any,
        slots: int,
        resources: PlacementGroupFactory,
        on_change: Callable[[], None],
    ) -> None:
        self.error: Exception | None = None
        self._planner, self._mailbox, self._slots, self._resources = planner, mailbox, slots, resources
        self._on_change = on_change
        self._active: dict[str, Task] = {}
        self._trials: dict[str, Trial] = {}
        self._ends: dict[str, TaskEnd] = {}
        self._posted: dict[str, float] = {}
        self._nodes: dict[str, list[tuple[str, str]]] = {}  # trial -> host and Ray's id of the nodes of its processes
        self._possible: dict[str, list[tuple[str, str]]] = {}  # trial -> the same of all nodes that it may be on
        self._groups: dict[str, str] = {}  # trial -> Ray's id of the placement group of its several processes

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Nothing: Tune pickles what it is given for a restore of its own, and here the ledger is what remembers."""
        return object, ()

    def safely(self, action: Callable[[], T]) -> T | None:
        """The result of the action; its error is kept for later, and nothing more starts."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  raised by run_ray; inside Tune it would lose trials
            self.error = self.error or error
            self._planner.drain(str(error))
            return None

    def next_trial(self, experiment: dict[str, Any]) -> Trial | Done | None:
        """The planner's next work as a trial of the experiment."""
        if self.error is not None:
            return None if self._active else Done("an error")
        step = self._planner.next_task(self._slots - len(self._active))
        if isinstance(step, Done):
            return step
        if not isinstance(step, Task):
            return None
        trial = Trial(
            experiment["run"],
            config={"work": json.dumps(step.record())},
            storage=experiment["storage"],
            placement_group_factory=self._resources,
        )
        self._possible[trial.trial_id] = alive()
        self._active[trial.trial_id], self._trials[trial.trial_id] = step, trial
        return trial

    def on_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass the message of a trial on to the planner."""
        task = self._active.get(trial_id)
        if task is None or MESSAGE not in result:
            return
        match from_json(result[MESSAGE]):
            case AttemptStarted(host, node_id):
                self._nodes.setdefault(trial_id, []).append((host, node_id))
                self._planner.on_start(task, host)
            case ProcessJoined(host, node_id):
                self._nodes.setdefault(trial_id, []).append((host, node_id))
            case PlacementGroupReserved(group_id):
                self._groups[trial_id] = group_id
            case ProgressReport() as report:
                self._planner.on_report(task.key, report)
                self._post_verdicts()
            case end:
                self._ends.setdefault(trial_id, end)

    def on_end(self, trial_id: str, otherwise: str) -> None:
        """A trial is over; `otherwise` says why, where it could not say so itself."""
        task = self._active.pop(trial_id, None)
        if task is not None:
            self._posted.pop(trial_id, None)
            self._trials.pop(trial_id)
            if self._planner.must_kill(task.key):
                otherwise = f"it was asked to stop ({self._planner.verdict(task.key)}), did not, and was killed"
            possible = self._possible.pop(trial_id)
            nodes, end = self._nodes.pop(trial_id, possible), self._ends.pop(trial_id, TaskLost(otherwise))
            group = self._groups.pop(trial_id, None)
            if isinstance(end, TaskLost) and group is not None:
                free(group)
            if isinstance(end, TaskLost):
                gone = next((host for host, node in nodes if not answers(node)), None)
                end = end if gone is None else TaskLost(f"its node {gone} is gone", node_is_gone=True)
            self._planner.on_end(task, end)

    def on_step(self) -> None:
        """Ten times a second."""
        self._planner.tick()
        self._on_change()
        self._post_verdicts()
        self._kill_those_that_must()

    def _kill_those_that_must(self) -> None:
        """Tune learns of it as of any process that died, and its slot is free."""
        for trial_id, task in self._active.items():
            if self._planner.must_kill(task.key):
                actor = self._trials[trial_id].temporary_state.ray_actor
                if actor is not None:  # None once Tune has learnt of it
                    ray.kill(actor)

    def _post_verdicts(self) -> None:
        for trial_id, task in self._active.items():
            reason, now = self._planner.verdict(task.key), time.monotonic()
            if reason is not None and now - self._posted.get(trial_id, -math.inf) >= POST_EVERY_SECONDS:
                self._posted[trial_id] = now
                self._mailbox.post.remote(trial_id, reason)


class Search(SearchAlgorithm):
    """Hands out work as trials."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._experiment: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        """Tune's description of the one experiment."""
        self._experiment = (experiments[0] if isinstance(experiments, list) else experiments).spec

    def next_trial(self) -> Trial | None:
        """Asked ten times a second while something runs."""
        step = self._adapter.safely(lambda: self._adapter.next_trial(self._experiment))
        if isinstance(step, Done):
            self._finished = True
            return None
        return step


class Scheduler(FIFOScheduler):
    """Hears what trials tell, before the search algorithm does, and lets them all go on."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self._adapter = adapter

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A report, or an end that is about to come."""
        self._adapter.safely(lambda: self._adapter.on_result(trial.trial_id, result))
        return FIFOScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Its function returned."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "it ended without a word"))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Its process died, or threw itself away."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "its process died"))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """It never started."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "it never started"))


class EveryStep(Callback):
    """Tune's loop turns ten times a second."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """After each turn."""
        self._adapter.safely(self._adapter.on_step)

"""The Ray Tune engine: a thin adapter between Tune's interfaces and the planner.

One task is one Ray Tune trial, run by a plain function in a reused actor (`tune.engines.ray_worker`). Tune never stops
a trial: the trial asks an actor (`StopRequests`) at most once a second whether it shall stop, saves a checkpoint, and
returns by itself. Nothing here raises into Tune, which would end the run in its own way: an error is kept, running
tasks are asked to stop, and the error is raised after that.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.tune import Callback, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import SearchAlgorithm
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hidfd.config.study_file import ResourcesConfig
from tune.engines.environment import crowding_in_words
from tune.engines.own_ray import ending_with_ray
from tune.engines.ray_cluster import (
    alive_nodes,
    check_cluster_answers,
    check_fits_cluster,
    check_fits_this_machine,
    check_store_is_shared,
    free_placement_group,
    node_answers,
    num_cluster_cpus,
    starting_ray,
)
from tune.engines.ray_worker import MESSAGE, Actors, StopRequests, trainable
from tune.engines.results_sync import ResultsReceiver
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
"""Seconds after which a stop request is posted again, unless its task has ended: a restarted actor has lost it."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Size of Ray's object store, at least 75 MiB: images and checkpoints go through the study's own store."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


def run_ray(
    planner: Planner,
    context: WorkerContext,
    *,
    concurrency: int,
    resources: ResourcesConfig,
    environment: dict[str, str],
    on_change: Callable[[], None],
    execute: Perform = perform,
) -> None:
    """Run a study as Ray Tune trials, on the cluster of RAY_ADDRESS or on one of its own on this machine.

    Args:
        planner: decides what runs.
        context: settings that the tasks share.
        concurrency: tasks side by side.
        resources: of each task.
        environment: variables that `tune.engines.environment.before_ray` set before this module was imported.
        on_change: called whenever there may be something new to show, ten times a second.
        execute: runs a task in a worker; `benchmarks.overhead` gives another one, to measure the engine itself.

    Raises:
        EngineError: Ray does not start, or does not answer, or will never have what a task needs.
        Exception: an error of the planner, such as a ledger that went away, after running tasks were asked to stop.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the study reports lost tasks itself, in one line
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        check_cluster_answers(address)
    num_workers, gpus = resources.num_workers, resources.gpus_per_worker
    if address is None:
        check_fits_this_machine(num_workers * context.threads)
    with starting_ray(address):
        if address is not None:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": environment})
        else:
            ray.init(
                address="local",  # else it joins any Ray that runs on this machine
                num_cpus=concurrency * num_workers * context.threads,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    with ending_with_ray() if address is None else _leaving_ray():
        if not resources.autoscaling:
            check_fits_cluster(resources.num_workers, {"CPU": context.threads, "GPU": resources.gpus_per_worker})
        if address is None or not resources.autoscaling:
            here = address is None
            available = float(os.cpu_count() or 1) if here else num_cluster_cpus()
            where = "this machine" if here else "the Ray cluster"
            warning = crowding_in_words(concurrency, num_workers * context.threads, available, where)
            planner.notes += [] if warning is None else [warning]
        check_store_is_shared(context)
        actors = start_actors(context.folder)
        adapter = Adapter(
            planner, actors.stop_requests, concurrency, _resources(context.threads, num_workers, gpus), on_change
        )
        with tempfile.TemporaryDirectory(prefix="hidfd-ray-") as scratch:
            Tuner(
                trainable(context, actors, num_workers=num_workers, gpus=gpus, execute=execute),
                tune_config=TuneConfig(
                    search_alg=Search(adapter), scheduler=Scheduler(adapter), reuse_actors=num_workers == 1
                ),
                run_config=RunConfig(name="study", storage_path=scratch, verbose=0, callbacks=[StepCallback(adapter)]),
            ).fit()
    if adapter.error is not None:
        raise adapter.error


@contextmanager
def _leaving_ray() -> Iterator[None]:
    """Disconnect from a cluster at the end of the block."""
    try:
        yield
    finally:
        ray.shutdown()


def start_actors(folder: str) -> Actors:
    """Start the actors on the driver's own node: if another node died, every running task would be lost with them.

    Args:
        folder: of the study's results.
    """
    # If it were soft, Ray would put an actor that takes no resources on any node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    # A restarted `StopRequests` is empty, and the driver posts again; a file that was being uploaded is sent again.
    stop_requests = ray.remote(StopRequests).options(**options).remote()
    return Actors(stop_requests, ray.remote(ResultsReceiver).options(**options, max_task_retries=-1).remote(folder))


def _resources(threads: int, num_workers: int, gpus: float) -> PlacementGroupFactory:
    """Return the resources of a trial's function: next to none where the task's several processes hold their own."""
    if num_workers > 1:
        return PlacementGroupFactory([{"memory": 1.0}])  # a byte, because Tune refuses a trial that needs nothing
    return PlacementGroupFactory([{"CPU": float(threads)} | ({"GPU": gpus} if gpus else {})])


class Adapter:
    """The link between Tune's three interfaces and the planner, which knows which trial runs which task.

    Attributes:
        error: the first exception that a method raised.
    """

    def __init__(
        self,
        planner: Planner,
        stop_requests: Any,
        slots: int,
        resources: PlacementGroupFactory,
        on_change: Callable[[], None],
    ) -> None:
        self.error: Exception | None = None
        self._planner, self._stop_requests, self._slots, self._resources = planner, stop_requests, slots, resources
        self._on_change = on_change
        self._active: dict[str, Task] = {}
        self._trials: dict[str, Trial] = {}
        self._ends: dict[str, TaskEnd] = {}
        self._posted_at: dict[str, float] = {}
        self._nodes: dict[str, list[tuple[str, str]]] = {}  # trial -> host and node id of each of its processes
        self._possible_nodes: dict[str, list[tuple[str, str]]] = {}  # trial -> every node alive when it was created
        self._placement_groups: dict[str, str] = {}  # trial -> Ray's id of the placement group of its processes

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Pickle as a plain object: Tune saves its arguments for a restore, and a study is resumed from its ledger."""
        return object, ()

    def safely(self, action: Callable[[], T]) -> T | None:
        """Return the result of an action, or None where it raised: the error is kept, and nothing more starts."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  run_ray raises it; inside Tune it would lose trials
            self.error = self.error or error
            self._planner.drain(str(error))
            return None

    def next_trial(self, experiment: dict[str, Any]) -> Trial | Done | None:
        """Return the planner's next task as a trial of the experiment, or None where nothing can start now."""
        if self.error is not None:
            return None if self._active else Done("an error")
        step = self._planner.next_task(self._slots - len(self._active))
        if isinstance(step, Done):
            return step
        if not isinstance(step, Task):
            return None
        trial = Trial(
            experiment["run"],
            config={"task": json.dumps(step.record())},
            storage=experiment["storage"],
            placement_group_factory=self._resources,
        )
        self._possible_nodes[trial.trial_id] = alive_nodes()
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
                self._placement_groups[trial_id] = group_id
            case ProgressReport() as report:
                self._planner.on_report(task.key, report)
                self._post_verdicts()
            case end:
                self._ends.setdefault(trial_id, end)

    def on_end(self, trial_id: str, fallback: str) -> None:
        """Tell the planner how a trial ended.

        Args:
            trial_id: Tune's id of the trial.
            fallback: the reason where the trial sent no end, so that its task is lost.
        """
        task = self._active.pop(trial_id, None)
        if task is not None:
            self._posted_at.pop(trial_id, None)
            self._trials.pop(trial_id)
            if self._planner.must_kill(task.key):
                fallback = f"it was asked to stop ({self._planner.verdict(task.key)}), did not, and was killed"
            possible = self._possible_nodes.pop(trial_id)
            nodes, end = self._nodes.pop(trial_id, possible), self._ends.pop(trial_id, TaskLost(fallback))
            group = self._placement_groups.pop(trial_id, None)
            if isinstance(end, TaskLost) and group is not None:
                free_placement_group(group)
            if isinstance(end, TaskLost):
                gone = next((host for host, node in nodes if not node_answers(node)), None)
                end = end if gone is None else TaskLost(f"its node {gone} is gone", node_is_gone=True)
            self._planner.on_end(task, end)

    def on_step(self) -> None:
        """Let the planner check its clock, show what is new, and post stop requests; called ten times a second."""
        self._planner.tick()
        self._on_change()
        self._post_verdicts()
        self._kill_overdue()

    def _kill_overdue(self) -> None:
        """Kill tasks that were asked to stop and did not; Tune sees processes that died, and their slots are free."""
        for trial_id, task in self._active.items():
            if self._planner.must_kill(task.key):
                actor = self._trials[trial_id].temporary_state.ray_actor
                if actor is not None:  # None once Tune has seen it die
                    ray.kill(actor)

    def _post_verdicts(self) -> None:
        for trial_id, task in self._active.items():
            reason, now = self._planner.verdict(task.key), time.monotonic()
            if reason is not None and now - self._posted_at.get(trial_id, -math.inf) >= POST_EVERY_SECONDS:
                self._posted_at[trial_id] = now
                self._stop_requests.post.remote(trial_id, reason)


class Search(SearchAlgorithm):
    """Tune's search algorithm: gives out the planner's tasks as trials."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._experiment: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        """Keep Tune's description of the one experiment."""
        self._experiment = (experiments[0] if isinstance(experiments, list) else experiments).spec

    def next_trial(self) -> Trial | None:
        """Return the next trial; asked ten times a second while something runs."""
        step = self._adapter.safely(lambda: self._adapter.next_trial(self._experiment))
        if isinstance(step, Done):
            self._finished = True
            return None
        return step


class Scheduler(FIFOScheduler):
    """Tune's scheduler: passes on messages and ends of trials, and never stops one."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self._adapter = adapter

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on a message."""
        self._adapter.safely(lambda: self._adapter.on_result(trial.trial_id, result))
        return FIFOScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on that a trial's function has returned."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "it ended without a message"))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a trial's process has died, or has raised an error."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "its process died"))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on that a trial was removed before it started."""
        self._adapter.safely(lambda: self._adapter.on_end(trial.trial_id, "it never started"))


class StepCallback(Callback):
    """Tune's callback: lets the adapter do what is due after each turn of Tune's loop, ten times a second."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Let the adapter do what is due."""
        self._adapter.safely(self._adapter.on_step)

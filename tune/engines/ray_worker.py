"""Run a task inside Ray's workers, in one process or, through Ray Train, in several.

Several processes are a Ray Train run of their own inside the trial's function. Their messages go through an actor
(`MessageRelay`) to that function, which alone can report to Tune. The first process reports progress and asks for the
verdict, and all return together: a run that is stopped from outside would leave its placement group behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.tune import get_context as get_trial_context
from ray.tune import report as report_to_tune
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune.engines.results_sync import ResultsUploader
from tune.engines.worker import Perform, WorkerContext, perform
from tune.study.messages import (
    AttemptStarted,
    PlacementGroupReserved,
    ProcessJoined,
    ProgressReport,
    TaskFailed,
    TaskLost,
    TaskStopped,
    WorkerMessage,
    to_json,
)
from tune.study.task import Task

ASK_EVERY_SECONDS = 1.0
"""Seconds after which a running task asks again whether it shall stop."""

MESSAGE = "message"
"""Key of a worker's message in Tune's results."""

RELAY_SECONDS = 1.0
"""Seconds after which a trial's function checks again whether its processes have ended without a message."""

START_FAILURES = 20
"""Failures to start all processes, at 60 s each, after which Ray Train gives up: a cluster that grows takes minutes.
Without a limit Ray Train tries for ever, and the trial holds a slot of the study."""

_log = logging.getLogger(__name__)

Send = Callable[[WorkerMessage], None]
"""A function that sends a message to the driver, and returns when the planner has read it."""


class StopRequests:
    """An actor that holds requests to stop until the tasks ask for them."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def post(self, trial_id: str, reason: str) -> None:
        """Ask a trial to stop; called by the driver."""
        self._reasons[trial_id] = reason

    def read(self, trial_id: str) -> str | None:
        """Return why a trial shall stop, or None; called by the trial."""
        return self._reasons.get(trial_id)


@dataclass(frozen=True)
class Actors:
    """Handles of the actors beside the driver.

    Attributes:
        stop_requests: of a `StopRequests`.
        results_receiver: of a `ResultsReceiver`.
    """

    stop_requests: Any
    results_receiver: Any


class RayChannel:
    """The channel of a task that runs in a Ray worker.

    Attributes:
        uploader: of the files that the task writes.
    """

    def __init__(self, trial_id: str, folder: str, actors: Actors, send: Send) -> None:
        """Connect a trial to the driver.

        Args:
            trial_id: Tune's id of the trial.
            folder: of the study's results, on this node.
            actors: beside the driver.
            send: sends a message to the driver.
        """
        self._trial_id, self._stop_requests, self._send = trial_id, actors.stop_requests, send
        self.uploader = ResultsUploader(folder, actors.results_receiver, lambda note: send(ProgressReport(note=note)))
        self._asked = 0.0
        self._verdict: str | None = None

    def report(self, report: ProgressReport) -> None:
        """Send a report; the next `verdict` after a measurement is asked for at once."""
        if report.picture is not None:
            self.uploader.upload_file(Path(report.picture))
        self._send(report)
        if report.measured:
            self._asked = 0.0

    def verdict(self) -> str | None:
        """Return why the task shall stop; the driver's actor is asked at most once a second."""
        now = time.monotonic()
        if self._verdict is None and now - self._asked >= ASK_EVERY_SECONDS:
            self._asked = now
            try:
                self._verdict = ray.get(self._stop_requests.read.remote(self._trial_id))
            except ray.exceptions.RayActorError as error:
                _log.warning(
                    "the actor with the stop requests does not answer (%s); it is asked again", type(error).__name__
                )
        return self._verdict


class NullChannel:
    """The channel of every process but the first, which alone reports and asks for the verdict."""

    def report(self, report: ProgressReport) -> None:
        """Drop the report."""

    def verdict(self) -> str | None:
        """Return None: the process goes on as long as the first one does."""
        return None


def trainable(
    context: WorkerContext, actors: Actors, *, num_workers: int, gpus: float, execute: Perform
) -> Callable[[dict[str, Any]], None]:
    """Return the function that Tune runs in a reused actor, one task after another.

    Args:
        context: settings that the tasks share.
        actors: beside the driver.
        num_workers: processes of one task.
        gpus: of each process.
        execute: runs a task in one process; several processes always run `tune.engines.worker.perform`.
    """

    def run_task(config: dict[str, Any]) -> None:
        trial_id = get_trial_context().get_trial_id()
        if num_workers == 1:
            _run_process(config["task"], context, RayChannel(trial_id, context.folder, actors, _send), _send, execute)
            return
        _run_processes(config["task"], context, actors, trial_id, num_workers, gpus)

    return run_task


def _send(message: WorkerMessage) -> None:
    report_to_tune({MESSAGE: to_json(message)})  # as one string, since Tune flattens dictionaries


def _run_process(
    record: str, context: WorkerContext, channel: RayChannel, send: Send, execute: Perform = perform
) -> None:
    send(AttemptStarted(socket.gethostname(), ray.get_runtime_context().get_node_id()))
    task = Task.restore(0, json.loads(record), [])
    end = execute(task, context, channel)
    channel.uploader.upload_folder(task.label)
    send(end)


class MessageRelay:
    """An actor that carries messages of a task's several processes to the trial's function, one at a time."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[WorkerMessage, asyncio.Event]] = asyncio.Queue()
        self._delivered = asyncio.Event()

    async def send(self, message: WorkerMessage) -> None:
        """Hand a message over; returns when the function has passed it on to the planner."""
        delivered = asyncio.Event()
        await self._messages.put((message, delivered))
        await delivered.wait()

    async def receive(self) -> WorkerMessage:
        """Return the next message, whenever it comes; a call says that the one before has been passed on."""
        self._delivered.set()
        message, self._delivered = await self._messages.get()
        return message


def _run_processes(
    record: str, context: WorkerContext, actors: Actors, trial_id: str, num_workers: int, gpus: float
) -> None:
    import ray.train  # here, because it loads torch, which neither the driver nor its actors need
    from ray.train.torch import TorchConfig, TorchTrainer

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay = ray.remote(num_cpus=0)(MessageRelay).options(scheduling_strategy=here).remote()
    with tempfile.TemporaryDirectory(prefix="hidfd-train-") as scratch:
        trainer = TorchTrainer(
            _run_one_of_several,
            train_loop_config={
                "task": record,
                "context": context,
                "actors": actors,
                "relay": relay,
                "trial_id": trial_id,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": float(context.threads)} | ({"GPU": gpus} if gpus else {}),
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=ray.train.RunConfig(
                name=trial_id,
                storage_path=scratch,
                # The planner starts a lost task again, so Ray Train must not. Its types are those of its first version.
                failure_config=ray.train.FailureConfig(
                    max_failures=0,
                    max_preemption_failures=0,  # type: ignore[call-arg]
                    controller_failure_limit=START_FAILURES,
                ),
            ),
        )
        _relay(relay, _in_background(trainer.fit), lambda: ray.get(actors.stop_requests.read.remote(trial_id)))


def _in_background(action: Callable[[], Any]) -> Future[Any]:
    """Run an action in a daemon thread: a Ray Train run that has not started yet must end with this process."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(action())
        except Exception as error:  # noqa: BLE001  `_relay` reports it
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def _relay(relay: Any, run: Future[Any], verdict: Callable[[], str | None]) -> None:
    """Pass the messages of the task's processes on to the driver, until their run is over."""
    has_started = False
    next_message = relay.receive.remote()
    while True:
        received, _ = ray.wait([next_message], timeout=RELAY_SECONDS)
        if received:
            has_started = True
            _send(ray.get(next_message))
            next_message = relay.receive.remote()
        elif run.done():
            break
        elif not has_started and (reason := verdict()) is not None:
            _send(TaskStopped(f"stopped before its processes had started ({reason})", 0.0))
            return
    error = run.exception()
    if error is not None:
        _send(TaskLost(_in_words(error)))


def _in_words(error: BaseException) -> str:
    """Say in one line why a run of several processes ended, from the error that Ray Train raised."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return "; ".join(
            f"process {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items()
        )
    return f"its processes did not start or did not stay ({str(error).strip().splitlines()[-1]})"


def _run_one_of_several(config: dict[str, Any]) -> None:
    """Run a task in one of its several processes."""
    from ray.train import get_context

    context, record, relay = config["context"], config["task"], config["relay"]
    rank = get_context().get_world_rank()

    def send(message: WorkerMessage) -> None:
        ray.get(relay.send.remote(message))

    if rank == 0:
        group = get_current_placement_group()
        if group is not None:
            send(PlacementGroupReserved(group.id.hex()))
        channel = RayChannel(config["trial_id"], context.folder, config["actors"], send)
        _run_process(record, context, channel, send)
        return
    send(ProcessJoined(socket.gethostname(), ray.get_runtime_context().get_node_id()))
    # Only the first process times the student.
    end = perform(Task.restore(0, json.loads(record), []), replace(context, measures_latency=False), NullChannel())
    if isinstance(end, TaskFailed):  # the first process may only have seen this one go away
        _log.error("process %d: %s", rank, end.reason)

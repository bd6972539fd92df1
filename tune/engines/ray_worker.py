"""What runs inside Ray's workers: one task, in one process or, through Ray Train, in several.

Several processes are a Ray Train run of their own inside the trial's function. Only the first of them speaks: what it
says goes through an actor to the trial's function, which alone can tell Tune. Such a run is never stopped from outside,
which would leave its placement group behind; the first process asks for its verdict and all return together.
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

from tune.engines.results_sync import HandOver
from tune.engines.worker import Perform, WorkerContext, perform
from tune.study.messages import (
    AttemptStarted,
    PlacementGroupReserved,
    ProcessJoined,
    ProgressReport,
    TaskLost,
    TaskStopped,
    WorkerMessage,
    to_json,
)
from tune.study.task import Task

ASK_EVERY_SECONDS = 1.0
"""How often a running task asks the mailbox."""

MESSAGE = "message"
"""Key of a worker's message in Tune's results."""

RELAY_SECONDS = 1.0
"""How often a trial's function looks whether its processes have ended without a word."""

START_FAILURES = 20
"""How often Ray Train may fail to start all processes, at its 60 s each: a cluster that grows takes minutes. Without a
limit it tries for ever, and its trial would hold a slot of the study that long."""

_log = logging.getLogger(__name__)

Send = Callable[[WorkerMessage], None]
"""Sends a message to the driver; returns when the planner has read it."""


class StopRequests:
    """An actor that holds verdicts until their tasks ask."""

    def __init__(self) -> None:
        self._verdicts: dict[str, str] = {}

    def post(self, trial_id: str, reason: str) -> None:
        """The driver says why a trial shall stop."""
        self._verdicts[trial_id] = reason

    def read(self, trial_id: str) -> str | None:
        """A trial asks."""
        return self._verdicts.get(trial_id)


@dataclass(frozen=True)
class Actors:
    """Handles of those beside the driver.

    Attributes:
        mailbox: a `StopRequests`.
        results: a `ResultsFolder`.
    """

    mailbox: Any
    results: Any


class RayChannel:
    """From a worker: reports by `say`, which returns when the planner has heard them; verdicts by mail.

    Attributes:
        hand_over: of what it writes.
    """

    def __init__(self, trial_id: str, folder: str, actors: Actors, send: Send) -> None:
        """`folder` is that of the study's results."""
        self._trial_id, self._mailbox, self._send = trial_id, actors.mailbox, send
        self.hand_over = HandOver(folder, actors.results, lambda note: send(ProgressReport(note=note)))
        self._asked = 0.0
        self._verdict: str | None = None

    def report(self, report: ProgressReport) -> None:
        """To the planner, which may have something to say about a measurement at once."""
        if report.picture is not None:
            self.hand_over.bring_file(Path(report.picture))
        self._send(report)
        if report.measured:
            self._asked = 0.0

    def verdict(self) -> str | None:
        """The mailbox's answer, asked at most once a second."""
        now = time.monotonic()
        if self._verdict is None and now - self._asked >= ASK_EVERY_SECONDS:
            self._asked = now
            try:
                self._verdict = ray.get(self._mailbox.read.remote(self._trial_id))
            except ray.exceptions.RayActorError as error:
                _log.warning("the mailbox does not answer (%s); it is asked again", type(error).__name__)
        return self._verdict


class NullChannel:
    """The channel of every process but the first: the trial asks and tells by that one alone."""

    def report(self, report: ProgressReport) -> None:
        """To nobody."""

    def verdict(self) -> str | None:
        """None."""
        return None


def trainable(
    place: WorkerContext, actors: Actors, *, num_workers: int, gpus: float, execute: Perform
) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs in an actor, one task after another.

    Args:
        place: where work is done and left.
        actors: beside the driver.
        num_workers: processes of one task.
        gpus: of each.
        execute: does a task in its one process; several always run `tune.engines.worker.perform`.
    """

    def run_task(config: dict[str, Any]) -> None:
        trial_id = get_trial_context().get_trial_id()
        if num_workers == 1:
            _run_process(config["work"], place, RayChannel(trial_id, place.folder, actors, _send), _send, execute)
            return
        _run_together(config["work"], place, actors, trial_id, num_workers, gpus)

    return run_task


def _send(message: WorkerMessage) -> None:
    report_to_tune({MESSAGE: to_json(message)})  # as one string, since Tune flattens dictionaries


def _run_process(
    record: str, place: WorkerContext, channel: RayChannel, send: Send, execute: Perform = perform
) -> None:
    send(AttemptStarted(socket.gethostname(), ray.get_runtime_context().get_node_id()))
    task = Task.restore(0, json.loads(record), [])
    end = execute(task, place, channel)
    channel.hand_over.bring_all(task.label)
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


def _run_together(
    record: str, place: WorkerContext, actors: Actors, trial_id: str, num_workers: int, gpus: float
) -> None:
    import ray.train  # here, as it loads torch, which the mailbox and the driver can do without
    from ray.train.torch import TorchConfig, TorchTrainer

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay = ray.remote(num_cpus=0)(MessageRelay).options(scheduling_strategy=here).remote()
    with tempfile.TemporaryDirectory(prefix="hidfd-train-") as scratch:
        trainer = TorchTrainer(
            _process,
            train_loop_config={"work": record, "place": place, "actors": actors, "relay": relay, "trial_id": trial_id},
            scaling_config=ray.train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": float(place.threads)} | ({"GPU": gpus} if gpus else {}),
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=ray.train.RunConfig(
                name=trial_id,
                storage_path=scratch,
                # The planner starts lost work again, so Ray Train must not. Its types know its first version only.
                failure_config=ray.train.FailureConfig(
                    max_failures=0,
                    max_preemption_failures=0,  # type: ignore[call-arg]
                    controller_failure_limit=START_FAILURES,
                ),
            ),
        )
        _relay(relay, _in_background(trainer.fit), lambda: ray.get(actors.mailbox.read.remote(trial_id)))


def _in_background(action: Callable[[], Any]) -> Future[Any]:
    """Its result. Nobody waits for the thread: a run that has not started yet ends with this process."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(action())
        except Exception as error:  # noqa: BLE001  told by `_relay`
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
    """What became of a run, from what Ray Train raises."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return "; ".join(
            f"process {rank}: {str(failure).strip().splitlines()[-1]}" for rank, failure in failures.items()
        )
    return f"its processes did not start or did not stay ({str(error).strip().splitlines()[-1]})"


def _process(config: dict[str, Any]) -> None:
    """One of several."""
    from ray.train import get_context

    place, record, relay = config["place"], config["work"], config["relay"]
    rank = get_context().get_world_rank()

    def send(message: WorkerMessage) -> None:
        ray.get(relay.send.remote(message))

    if rank == 0:
        group = get_current_placement_group()
        if group is not None:
            send(PlacementGroupReserved(group.id.hex()))
        channel = RayChannel(config["trial_id"], place.folder, config["actors"], send)
        _run_process(record, place, channel, send)
        return
    send(ProcessJoined(socket.gethostname(), ray.get_runtime_context().get_node_id()))
    # The first process alone times the student.
    perform(Task.restore(0, json.loads(record), []), replace(place, measures_latency=False), NullChannel())

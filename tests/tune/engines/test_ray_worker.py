"""The messages that a trial's function sends for several processes, with Ray replaced to bring a fault about."""

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.engines import ray_worker
from tune.engines.ray_worker import Actors, RayChannel
from tune.study.messages import (
    AttemptStarted,
    ProgressReport,
    TaskFinished,
    TaskLost,
    TaskStopped,
    WorkerMessage,
    from_json,
)


class Relay:
    """The messages of several processes; nothing more comes once they have been received."""

    def __init__(self, *messages: WorkerMessage) -> None:
        self.messages = list(messages)
        self.receive = self

    def remote(self) -> "Relay":
        return self


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[WorkerMessage]:
    found: list[WorkerMessage] = []
    monkeypatch.setattr(
        ray_worker, "report_to_tune", lambda result: found.append(from_json(result[ray_worker.MESSAGE]))
    )
    stand_in = SimpleNamespace(
        wait=lambda asked, timeout: (asked, []) if asked[0].messages else ([], asked),
        get=lambda relay: relay.messages.pop(0),
    )
    monkeypatch.setattr(ray_worker, "ray", stand_in)
    return found


def over(error: Exception | None = None) -> Future[Any]:
    run: Future[Any] = Future()
    if error is None:
        run.set_result(None)
    else:
        run.set_exception(error)
    return run


def test_every_message_is_sent_in_order_before_the_run_counts_as_over(sent: list[WorkerMessage]) -> None:
    messages = [AttemptStarted("node-1", "n1"), ProgressReport(), TaskFinished({})]
    ray_worker._relay(Relay(*messages), over(), lambda: None)
    assert sent == messages


def test_a_run_that_broke_is_lost_and_says_which_process(sent: list[WorkerMessage]) -> None:
    error = RuntimeError("training failed")
    error.worker_failures = {1: RuntimeError("Traceback ...\nConnectionError: closed")}  # type: ignore[attr-defined]
    ray_worker._relay(Relay(AttemptStarted("node-1", "n1")), over(error), lambda: None)
    assert sent[1:] == [TaskLost("process 1: ConnectionError: closed")]


def test_a_run_whose_processes_never_started_is_lost(sent: list[WorkerMessage]) -> None:
    ray_worker._relay(Relay(), over(RuntimeError("worker group startup timed out")), lambda: None)
    assert sent == [TaskLost("its processes did not start or did not stay (worker group startup timed out)")]


def test_a_verdict_does_not_wait_for_processes_that_have_not_started(sent: list[WorkerMessage]) -> None:
    ray_worker._relay(Relay(), Future(), lambda: "Ctrl-C")
    assert sent == [TaskStopped("stopped before its processes had started (Ctrl-C)", 0.0)]


def test_a_picture_is_with_the_driver_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    channel = RayChannel(
        "t", str(tmp_path), Actors(None, None), lambda message: happened.append(type(message).__name__)
    )
    monkeypatch.setattr(channel.uploader, "upload_file", lambda path: happened.append(path.name))
    channel.report(ProgressReport("generation", 8, None, picture=str(tmp_path / "trial-1/samples/generation-8.png")))
    channel.report(ProgressReport("generation", 16, None))
    assert happened == ["generation-8.png", "ProgressReport", "ProgressReport"]

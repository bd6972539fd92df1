"""What the trial's function says for several processes, with Ray replaced where a fault has to be brought about."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.engines import ray_worker
from tune.engines.ray_worker import Actors, RayChannel
from tune.study.messages import ProgressReport, TaskLost, TaskStopped


class Line:
    """The words of a first process; silent once they are told."""

    def __init__(self, *words: list[Any]) -> None:
        self.words = list(words)
        self.listen = self

    def remote(self) -> "Line":
        return self


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    found: list[list[Any]] = []
    monkeypatch.setattr(ray_worker, "tell", lambda result: found.append(json.loads(result[ray_worker.WORD])))
    stand_in = SimpleNamespace(
        wait=lambda asked, timeout: (asked, []) if asked[0].words else ([], asked),
        get=lambda line: line.words.pop(0),
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


def test_all_that_was_told_is_said_in_order_before_the_run_counts_as_over(said: list[list[Any]]) -> None:
    words = [["start", "node-1", "n1"], ["report", {}], ["end", "finished", {}]]
    ray_worker._relay(Line(*words), over(), lambda: None)
    assert said == words


def test_a_run_that_broke_is_lost_and_says_which_process(said: list[list[Any]]) -> None:
    error = RuntimeError("training failed")
    error.worker_failures = {1: RuntimeError("Traceback ...\nConnectionError: closed")}  # type: ignore[attr-defined]
    ray_worker._relay(Line(["start", "node-1", "n1"]), over(error), lambda: None)
    assert said[1:] == [["end", "lost", vars(TaskLost("process 1: ConnectionError: closed"))]]


def test_a_run_whose_processes_never_started_is_lost(said: list[list[Any]]) -> None:
    ray_worker._relay(Line(), over(RuntimeError("worker group startup timed out")), lambda: None)
    assert said == [
        ["end", "lost", vars(TaskLost("its processes did not start or did not stay (worker group startup timed out)"))]
    ]


def test_a_verdict_does_not_wait_for_processes_that_have_not_started(said: list[list[Any]]) -> None:
    ray_worker._relay(Line(), Future(), lambda: "Ctrl-C")
    assert said == [["end", "stopped", vars(TaskStopped("stopped before its processes had started (Ctrl-C)", 0.0))]]


def test_a_picture_is_with_the_driver_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    channel = RayChannel("t", str(tmp_path), Actors(None, None), lambda *words: happened.append(words[0]))
    monkeypatch.setattr(channel.hand_over, "bring_file", lambda path: happened.append(path.name))
    channel.report(ProgressReport("generation", 8, None, picture=str(tmp_path / "trial-1/samples/generation-8.png")))
    channel.report(ProgressReport("generation", 16, None))
    assert happened == ["generation-8.png", "report", "report"]

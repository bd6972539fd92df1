"""What the trial's function says for several processes, with Ray replaced where a fault has to be brought about."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tune import ray_work
from tune.ray_work import Mailbox, RayChannel
from tune.work import Lost, Report, Stopped


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
    monkeypatch.setattr(ray_work, "tell", lambda result: found.append(json.loads(result[ray_work.WORD])))
    stand_in = SimpleNamespace(
        wait=lambda asked, timeout: (asked, []) if asked[0].words else ([], asked),
        get=lambda line: line.words.pop(0),
    )
    monkeypatch.setattr(ray_work, "ray", stand_in)
    return found


def over(error: Exception | None = None) -> Future[Any]:
    run: Future[Any] = Future()
    if error is None:
        run.set_result(None)
    else:
        run.set_exception(error)
    return run


def test_all_that_was_told_is_said_in_order_before_the_run_counts_as_over(said: list[list[Any]]) -> None:
    words = [["start", "node-1", "n1"], ["report", {}], ["end", "Finished", {}]]
    ray_work._relay(Line(*words), over(), lambda: None)
    assert said == words


def test_a_run_that_broke_is_lost_and_says_which_process(said: list[list[Any]]) -> None:
    error = RuntimeError("training failed")
    error.worker_failures = {1: RuntimeError("Traceback ...\nConnectionError: closed")}  # type: ignore[attr-defined]
    ray_work._relay(Line(["start", "node-1", "n1"]), over(error), lambda: None)
    assert said[1:] == [["end", "Lost", vars(Lost("process 1: ConnectionError: closed"))]]


def test_a_run_whose_processes_never_started_is_lost(said: list[list[Any]]) -> None:
    ray_work._relay(Line(), over(RuntimeError("worker group startup timed out")), lambda: None)
    assert said == [
        ["end", "Lost", vars(Lost("its processes did not start or did not stay (worker group startup timed out)"))]
    ]


def test_a_verdict_does_not_wait_for_processes_that_have_not_started(said: list[list[Any]]) -> None:
    ray_work._relay(Line(), Future(), lambda: "Ctrl-C")
    assert said == [["end", "Stopped", vars(Stopped("stopped before its processes had started (Ctrl-C)", 0.0))]]


class Handle:
    """Of an actor that lives in this very process, and what it was asked for."""

    def __init__(self, actor: Mailbox) -> None:
        self.asked: list[str] = []
        self._actor = actor

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*arguments: Any) -> Any:
            self.asked.append(name)
            return getattr(self._actor, name)(*arguments)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results on a worker's own disk; the driver's are beside them."""
    monkeypatch.setattr(ray_work, "ray", SimpleNamespace(get=lambda answer: answer, exceptions=ray.exceptions))
    folder = tmp_path / "worker" / "trial-1"
    (folder / "samples").mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "samples" / "generation-8.png").write_bytes(b"a picture")
    return tmp_path / "worker"


def test_what_a_worker_has_written_comes_to_the_driver_once(worker: Path, tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    handle = Handle(Mailbox(str(driver)))
    said: list[Any] = []
    channel = RayChannel("t", str(worker), handle, lambda *words: said.append(words))
    sample = "trial-1/samples/generation-8.png"
    channel.report(Report("generation", 8, None, picture=str(worker / sample)))
    assert (driver / sample).read_bytes() == b"a picture", "while the work goes on"
    channel.hand_over(worker / "trial-1")
    assert (driver / "trial-1" / "result.json").read_text() == "{}"
    assert handle.asked.count("take") == 2
    (worker / "trial-1" / "result.json").write_text("[]")
    channel.hand_over(worker / "trial-1")
    assert (driver / "trial-1" / "result.json").read_text() == "[]", "of a later attempt"
    assert len(said) == 1, "the report alone"


def test_where_all_nodes_share_the_results_nothing_travels(worker: Path) -> None:
    handle = Handle(Mailbox(str(worker)))
    RayChannel("t", str(worker), handle, lambda *words: None).hand_over(worker / "trial-1")
    assert handle.asked == ["lacks"]


def test_folder_that_cannot_come_to_the_driver_is_told_and_the_work_goes_on(worker: Path, tmp_path: Path) -> None:
    (tmp_path / "driver").write_text("no folder")
    said: list[Any] = []
    channel = RayChannel("t", str(worker), Handle(Mailbox(str(tmp_path / "driver"))), lambda *words: said.append(words))
    channel.hand_over(worker / "trial-1")
    ((word, report),) = said
    assert word == "report"
    assert f"{worker / 'trial-1'} did not come to the driver's node: " in report["note"]


def test_work_that_writes_nothing_hands_nothing_over(worker: Path) -> None:
    channel = RayChannel("t", str(worker), Handle(Mailbox(str(worker))), lambda *words: pytest.fail(str(words)))
    channel.hand_over(worker / "opening-1")

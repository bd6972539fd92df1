"""MLflow beside a running study: however slow or faulty its server, the study goes on and is complete there in the end.

The tracker is a double, because only a server's faults matter here; `test_tracker.py` writes into a real MLflow.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hidfd.errors import Stopped
from tests.tune.snapshots import study_snapshot
from tune.study.snapshot import StudySnapshot
from tune.tracking import background
from tune.tracking.background import BackgroundTracker


class Server:
    """A tracker with the faults of a server."""

    uri = "http://nowhere"

    def __init__(self) -> None:
        self.is_down = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self.written: list[StudySnapshot] = []
        self.models: list[StudySnapshot] = []
        self.told: list[dict[str, Any]] = []
        self.driven: list[bool] = []

    def sync(
        self,
        snapshot: StudySnapshot,
        rows: Any = None,
        *,
        is_cut_short: Callable[[], bool] = lambda: False,
        has_progress: bool = True,
        is_driven: bool = True,
    ) -> None:
        self.asked.release()
        self.told.append(rows)
        self.driven.append(is_driven)
        try:
            for _ in snapshot.tasks:
                self.answers.wait(30)
                if is_cut_short():
                    return
            if self.is_down:
                raise ConnectionError("nobody listens\nat all")
            self.written.append(snapshot)
        finally:
            self.ended.release()

    def log_model(self, snapshot: StudySnapshot, store: Any) -> None:
        self.models.append(snapshot)


@pytest.fixture
def part(tmp_path: Path) -> StudySnapshot:
    return study_snapshot(tmp_path, rounds=12, folders=False)


@pytest.fixture
def whole(tmp_path: Path) -> StudySnapshot:
    return study_snapshot(tmp_path, folders=False)


def beside(server: Any) -> BackgroundTracker:
    return BackgroundTracker(server)


def test_the_finished_study_is_written_by_finish_alone(whole: StudySnapshot) -> None:
    server = Server()
    assert whole.finished
    with beside(server) as shown:
        shown.offer(whole)  # the page of the study does not exist yet
        shown.offer(replace(whole, tasks=whole.tasks[:3], finished=False))
        assert server.asked.acquire(timeout=30)
        assert server.ended.acquire(timeout=30)
        assert not any(snapshot.finished for snapshot in server.written)
        shown.finish(whole, None)  # type: ignore[arg-type]  # a store that the double does not open
    assert server.written[-1] is whole
    assert server.models == [whole]
    assert shown.error is None


def test_a_snapshot_without_news_is_not_written_again(part: StudySnapshot) -> None:
    server = Server()
    with beside(server) as shown:
        for _ in range(3):
            shown.offer(part)
        assert server.ended.acquire(timeout=30)
    assert server.written == [part]


def test_an_outage_is_logged_and_made_up_for(
    part: StudySnapshot, whole: StudySnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.is_down = True
    with beside(server) as shown:
        shown.offer(part)
        assert server.ended.acquire(timeout=30)
        server.is_down = False
        shown.finish(whole, None)  # type: ignore[arg-type]
    assert "MLflow cannot be written now (ConnectionError: nobody listens)" in caplog.text
    assert shown.error is None
    assert server.written == [whole]


def test_the_final_snapshot_is_tried_again(whole: StudySnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.is_down = True
    monkeypatch.setattr(background.time, "sleep", lambda seconds: setattr(server, "is_down", seconds < 1))
    with beside(server) as shown:
        shown.finish(whole, None)  # type: ignore[arg-type]
    assert server.written == [whole]
    assert shown.error is None


def test_an_outage_that_lasts_to_the_end_is_an_error(whole: StudySnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FINAL_PAUSE_SECONDS", 0.01)
    server = Server()
    server.is_down = True
    with beside(server) as shown:
        shown.finish(whole, None)  # type: ignore[arg-type]
    assert shown.error == "ConnectionError: nobody listens"
    assert server.models == []


def test_a_stopped_study_leaves_the_rest_of_a_write_to_the_next_run(part: StudySnapshot) -> None:
    server = Server()
    server.answers.clear()
    with beside(server) as shown:
        shown.offer(part)
        assert server.asked.acquire(timeout=30)
        threading.Timer(0.2, server.answers.set).start()
    assert server.written == []


def test_a_stopped_study_does_not_wait_for_a_server_that_hangs(
    part: StudySnapshot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "STOP_SECONDS", 0.1)
    server = Server()
    server.answers.clear()
    with beside(server) as shown:
        shown.offer(part)
        assert server.asked.acquire(timeout=30)
    assert "left behind" in caplog.text
    server.answers.set()
    assert server.ended.acquire(timeout=30)


def test_progress_is_written_together_after_a_while_and_each_row_once(
    part: StudySnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "WRITE_EVERY_SECONDS", 0.3)
    server = Server()
    rows = [{"images": float(images)} for images in range(1, 7)]
    with beside(server) as shown:
        shown.offer(part)
        assert server.ended.acquire(timeout=30)
        for row in rows:
            shown.offer(part, {"a": [row]})
        assert server.ended.acquire(timeout=30)
    assert server.told == [{}, {"a": rows}], "in one call, not in six"


def test_a_task_that_begins_is_shown_at_once(part: StudySnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WRITE_EVERY_SECONDS", 600.0)
    server = Server()
    with beside(server) as shown:
        shown.offer(replace(part, tasks=part.tasks[:2]))
        assert server.ended.acquire(timeout=30)
        shown.offer(part)
        assert server.ended.acquire(timeout=30)
    assert server.written[-1] is part


@pytest.mark.parametrize("error", [Stopped("Ctrl-C"), ZeroDivisionError()])
def test_a_study_that_an_exception_ends_is_written_once_more_as_one_that_nobody_drives(
    part: StudySnapshot, error: Exception
) -> None:
    server = Server()
    shown = beside(server)
    shown.__enter__()
    shown.offer(part)
    assert server.ended.acquire(timeout=30)
    shown.offer(part, {"a": [{"images": 1.0}]})
    shown.__exit__(type(error), error, None)
    assert server.driven == [True, False]
    assert server.told[-1] == {"a": [{"images": 1.0}]}, "with what was told since"


def test_what_an_outage_has_missed_is_written_when_the_server_is_back_though_nothing_happens(
    part: StudySnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "WRITE_EVERY_SECONDS", 0.1)
    server = Server()
    server.is_down = True
    with beside(server) as shown:
        shown.offer(part)
        assert server.ended.acquire(timeout=30)
        while shown.error is None:
            time.sleep(0.01)
        server.is_down = False
        shown.offer(part)
        assert server.ended.acquire(timeout=30)
    assert part in server.written

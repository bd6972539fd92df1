"""Every long part of a stage reports its progress, and can be stopped between two batches."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.decoding import Decoded
from hidfd.data.identify import identify
from hidfd.distributed.device import resolve_device
from hidfd.errors import Stopped
from hidfd.networks import teacher as networks_teacher
from hidfd.networks.teacher import asked_at_once
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.pipeline.watch import images_done, watched
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.imports import class_folders, config_of, run_import


class Watcher(Observer):
    """An observer that keeps the progress of a stage, and may ask to stop after the first batch of it."""

    def __init__(self, stage: str, *, stops: bool = False) -> None:
        self.stage, self.stops = stage, stops
        self.seen: list[tuple[int, int]] = []
        self.started: list[str] = []

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        self.started.append(stage.name)

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        if stage.name == self.stage:
            self.seen.append((images, target_images))
            self.stop_reason = "Ctrl-C" if self.stops else None


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask networks about ten images at a time, as on a CPU with images of 224 pixels."""
    monkeypatch.setattr(networks_teacher, "ASKED_IMAGES", 10)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("stage", "total", "begins"),
    [
        ("teacher_check", 180, "check of the teacher: stopped at 10 of 180 images"),
        ("collection", 150, "collection: stopped at 10 of 150 images"),
        ("evaluation", 280, "evaluation: stopped at 10 of 280 images"),
    ],
)
def test_parts_without_checkpoints_show_progress_and_stop_at_once(
    trial_config: TrialConfig, store: Store, stage: str, total: int, begins: str
) -> None:
    with pytest.raises(Stopped, match=rf"^{begins} \(Ctrl-C\); it starts anew, and what was built before is kept"):
        run_trial(trial_config, store, device="cpu", observer=Watcher(stage, stops=True))
    watcher = Watcher(stage)
    run_trial(trial_config, store, device="cpu", observer=watcher)
    assert watcher.seen[-1] == (total, total)
    assert len(watcher.seen) >= total // 20
    assert stage in watcher.started


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("stage", ["generation", "distillation"])
def test_a_training_can_be_stopped_before_its_first_step(trial_config: TrialConfig, store: Store, stage: str) -> None:
    before = "collection" if stage == "generation" else "synthesis"

    class Stopping(Observer):
        def stage_finished(self, finished: Stage, seconds: float) -> None:
            self.asked_from = finished.name

        asked_from, times = "", 0

        def should_stop(self) -> str | None:
            self.times += self.asked_from == before
            return "Ctrl-C" if self.times > 1 else None  # the first time is between the stages

    with pytest.raises(Stopped, match=rf"^{stage}: before its first step: stopped \(Ctrl-C\)"):
        run_trial(with_values(trial_config, {"collection.num_images": 40}), store, device="cpu", observer=Stopping())


def test_nothing_is_told_where_nobody_watches(trial_config: TrialConfig) -> None:
    images_done(5)


def test_the_last_batch_is_not_given_up(trial_config: TrialConfig, store: Store) -> None:
    stage = Stage("collection", "collection", "0" * 64, {}, {})
    observer = Watcher("collection", stops=True)
    with watched(observer, stage, 20, "collection"):
        images_done(20)
    assert observer.seen == [(20, 20)]


def test_a_cpu_is_asked_about_fewer_images_the_larger_they_are() -> None:
    device = resolve_device("cpu", "fp32")
    assert [asked_at_once(side, device) for side in (8, 28, 32, 64, 224, 512)] == [500, 500, 500, 125, 10, 1]


def test_import_stops_while_a_chunk_is_still_decoded(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def slow(sources: Any, channels: int, side: int, fit: Any, is_given_up: Any) -> Decoded:
        until = time.monotonic() + 30
        while not is_given_up() and time.monotonic() < until:
            time.sleep(0.01)
        ended.set()
        raise AssertionError("nobody waits for it")

    monkeypatch.setattr("hidfd.stages.imports.images.decode", slow)
    monkeypatch.setattr("hidfd.stages.imports.images.POLL_SECONDS", 0.05)
    observer = Observer()
    observer.stop_reason = "Ctrl-C"
    started = time.monotonic()
    with pytest.raises(Stopped, match=r"import of candidates: stopped \(Ctrl-C\)"):
        run_import(config_of(class_folders(tmp_path / "p", "a")), store, observer=observer)
    assert ended.wait(5)
    assert time.monotonic() - started < 10


def test_reading_of_files_before_the_first_stage_tells_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidfd.data.identify.SAID_EVERY_SECONDS", 0.0)
    config = with_values(
        config_of(class_folders(tmp_path / "p", "a", "b")), {"teacher.checkpoint": {"sha256": "a" * 64}}
    )
    notes: list[str] = []
    observer = Observer()
    monkeypatch.setattr(observer, "note", notes.append)
    identify(config, observer=observer)
    assert notes[-1] == "trial.data.candidates: read 2 of 2 files, to know them by their content"
    observer.stop_reason = "Ctrl-C"
    (tmp_path / "p" / "a" / "x.png").write_bytes(b"other")
    with pytest.raises(Stopped, match=r"^trial.data.candidates: stopped \(Ctrl-C\) while its files were read"):
        identify(config, observer=observer)

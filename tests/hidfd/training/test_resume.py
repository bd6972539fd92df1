"""Trials that were stopped or killed are resumed, and end as uninterrupted ones, bit for bit on a CPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.errors import Stopped
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from hidfd.trial import TrialResult, run_trial
from tests.hidfd.interruptions import FILES, Killer, Stopper, left_by, with_own_teacher


def assert_equal(whole: TrialResult, whole_store: Store, resumed: TrialResult, resumed_store: Store) -> None:
    for role in FILES:
        (expected, curve), (found, found_curve) = (
            left_by(whole, whole_store, role),
            left_by(resumed, resumed_store, role),
        )
        assert all(torch.equal(expected[name], found[name]) for name in expected), role
        assert curve == found_curve, role
    assert resumed.metrics == whole.metrics


@pytest.fixture
def trained(trial_config: TrialConfig, world: Path) -> TrialConfig:
    return with_own_teacher(trial_config, world)


@pytest.mark.parametrize("stage", ["teacher", "generation", "distillation"])
@pytest.mark.parametrize("how", [Stopper, Killer])
def test_interrupted_trial_equals_the_uninterrupted_one_bit_for_bit(
    how: type[Stopper], stage: str, trained: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_store, broken_store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "broken")
    whole = run_trial(trained, whole_store, device="cpu")
    # Every step polls; only every other one saves, so that a kill falls between two checkpoints.
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    slow = with_values(trained, {"checkpoint_every_seconds": 4.0})
    with pytest.raises((Stopped, KeyboardInterrupt)):
        run_trial(slow, broken_store, device="cpu", observer=how(stage, 3))
    resumed = run_trial(slow, broken_store, device="cpu")
    assert_equal(whole, whole_store, resumed, broken_store)


@pytest.mark.parametrize("is_leaving", [True, False])
def test_machine_that_is_about_to_go_has_its_loops_save_soon(
    is_leaving: bool, trained: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained since the last checkpoint, here everything, would be lost with the machine."""
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    monkeypatch.setenv("HIDFD_LEAVING", str(tmp_path / "leaving"))
    if is_leaving:
        (tmp_path / "leaving").touch()
    config, store = with_values(trained, {"checkpoint_every_seconds": 1e6}), Store.open(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, store, device="cpu", observer=Killer("distillation", 4))
    notes: list[str] = []
    again = Observer()
    monkeypatch.setattr(again, "note", notes.append)
    run_trial(config, store, device="cpu", observer=again)
    assert any(note.startswith("distillation: resuming at ") for note in notes) is is_leaving


@pytest.mark.parametrize("stage", ["collection", "synthesis"])
def test_stages_that_train_nothing_are_stopped_too(
    stage: str, trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidfd.stages.collection.CHUNK_IMAGES", 50)
    monkeypatch.setattr("hidfd.stages.synthesis.BATCH_IMAGES", 15)
    observer = Stopper(stage, 1)
    with pytest.raises(Stopped, match=rf"^{stage}: stopped .*the test asked.* what was built before is kept"):
        run_trial(trial_config, store, device="cpu", observer=observer)
    assert stage not in observer.finished


def test_a_stopped_trial_explains_how_far_it_came(
    trial_config: TrialConfig, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    with pytest.raises(Stopped):
        run_trial(trial_config, store, folder=tmp_path / "trial", device="cpu", observer=Stopper("distillation", 3))
    page = (tmp_path / "trial" / "report.html").read_text()
    assert "Built up to its synthesis" in page
    assert "Distillation</h3>" in page, "the curves of the unfinished student"


def test_a_stop_between_two_stages_begins_no_further_one(trial_config: TrialConfig, store: Store) -> None:
    observer = Stopper("synthesis", 1)  # reports once, when it is done
    with pytest.raises(Stopped, match=r"^stopped before distillation \(the test asked\)"):
        run_trial(trial_config, store, device="cpu", observer=observer)
    assert observer.finished[-1] == "synthesis"

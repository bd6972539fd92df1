"""`metrics.jsonl` while a trial trains: it grows, holds each row once, and those of this trial alone."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.report.live_metrics import readable_rows
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.interruptions import Killer, timeless


@pytest.fixture
def config(trial_config: TrialConfig) -> TrialConfig:
    return with_values(trial_config, {"log_every_images": 8, "checkpoint_every_seconds": 0.001})


class Reader(Observer):
    """An observer that reads the file whenever a stage advances."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[tuple[str, list[dict[str, Any]]]] = []

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        if stage.name in ("generation", "distillation"):
            self.seen.append((stage.role, readable_rows(self._folder / "metrics.jsonl")))


def test_the_file_grows_with_each_interval_and_says_when_it_was_measured(
    config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    reader, began = Reader(tmp_path / "trial"), time.time()
    run_trial(config, store, folder=tmp_path / "trial", device="cpu", observer=reader)
    of_generator = [rows for role, rows in reader.seen if role == "generation"]
    assert len(of_generator) > 3
    assert all(len(before) < len(after) for before, after in pairwise(of_generator))
    moments = [row["unix_time"] for row in of_generator[-1]]
    assert moments == sorted(moments)
    assert began <= moments[0] <= moments[-1] <= time.time()
    assert {row["stage"] for row in reader.seen[-1][1]} == {"generation", "distillation"}
    whole = [json.loads(line) for line in (tmp_path / "trial" / "metrics.jsonl").read_text().splitlines()]
    assert whole[: len(of_generator[-1])] == of_generator[-1], "as it is written in the end"


def test_after_a_kill_the_file_goes_on_at_the_checkpoint(config: TrialConfig, tmp_path: Path) -> None:
    whole, store, folder = Store.open(tmp_path / "whole"), Store.open(tmp_path / "store"), tmp_path / "trial"
    run_trial(config, whole, until="generation", folder=tmp_path / "uninterrupted", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, store, until="generation", folder=folder, device="cpu", observer=Killer("generation", 4))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "generation", "images": 4000, "generation/hinge_d": 1}\n{"stage": "gener')
    reader = Reader(folder)
    run_trial(config, store, until="generation", folder=folder, device="cpu", observer=reader)
    expected = timeless(readable_rows(tmp_path / "uninterrupted" / "metrics.jsonl"))
    assert expected[0]["images"] < reader.seen[0][1][-1]["images"], "it went on from a checkpoint"
    for _, rows in reader.seen:
        assert timeless(rows) == expected[: len(rows)]


def test_rows_of_another_trial_in_the_same_folder_are_gone_when_this_one_begins(
    config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    run_trial(config, store, folder=folder, device="cpu")
    reader = Reader(folder)
    run_trial(with_values(config, {"distillation.kl_weight": 0.5}), store, folder=folder, device="cpu", observer=reader)
    first = reader.seen[0][1]
    assert {row["stage"] for row in first} == {"distillation"}
    assert [row["images"] for row in first if "seconds" in row] == [config.distillation.batch_images]

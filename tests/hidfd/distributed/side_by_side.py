"""Two trials at the same time on one GPU, each in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.interruptions import FILES, left_by

LIMIT_SECONDS = 60.0
"""Seconds that a trial waits for the other one, and after which one that has not ended is taken for hanging."""


class Meeting(Observer):
    """An observer that waits in the middle of a stage until the other trial is in the middle of one, too."""

    def __init__(self, stage: str, own: Path, other: Path) -> None:
        self.stage, self.own, self.other = stage, own, other

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        if stage.name != self.stage or self.own.exists():
            return
        self.own.touch()
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self.other.exists():
            assert time.monotonic() < deadline, f"the other trial has not come to {self.other.name}"
            time.sleep(0.01)


def curves_and_metrics(
    config: TrialConfig, store: Store, *, device: str = "cuda", observer: Observer | None = None
) -> dict[str, Any]:
    """Run a trial; return the curve of each stage that trains, and the trial's metrics."""
    result = run_trial(config, store, device=device, observer=observer)
    return {"metrics": result.metrics, **{role: left_by(result, store, role)[1] for role in FILES}}


def run_side_by_side(config: TrialConfig, folder: Path, stages: tuple[str, str]) -> list[dict[str, Any]]:
    """Run the trial twice at the same time, the first one in the one stage while the second one is in the other."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    pairs = (stages, stages[::-1])
    processes = [context.Process(target=_child, args=(config, folder, *pair), daemon=True) for pair in pairs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2 * LIMIT_SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0, 0], codes
    return [json.loads((folder / f"{stage}.json").read_text()) for stage in stages]


def _child(config: TrialConfig, folder: Path, stage: str, other: str) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    observer = Meeting(stage, folder / f"{stage}.met", folder / f"{other}.met")
    found = curves_and_metrics(config, Store.open(folder / f"{stage}-store"), observer=observer)
    (folder / f"{stage}.json").write_text(json.dumps(found))

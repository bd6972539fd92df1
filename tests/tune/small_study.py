"""A small study in the working folder, over a world without torch, and the verbs that read it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

import tune.driver
import tune.report.search_figures
from tests.tune.world import SEARCH, World, trial
from tune.__main__ import main
from tune.study.messages import Channel, TaskEnd
from tune.study.task import Task

RUN = ("run", "study.yaml", "--engine", "local", "--json")

OTHER_TRIAL = ("study.num_students=3", "trial.distillation.momentum=0.5")
"""Overrides of which the second makes another study of it."""

READING = (("status",), ("show", "0"), ("explain", "0"), ("report",), ("stop",))


class NoTracking:
    """A projection to no MLflow."""

    error = None

    def __init__(self, tracker: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def offer(self, snapshot: Any, rows: Any) -> None:
        pass

    def finish(self, snapshot: Any, store: Any) -> None:
        pass


def small_study(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, **study: Any) -> Path:
    """Write `study.yaml` over a world, and make its folder the working folder.

    Args:
        study: settings of `study:`.
    """
    tree = {
        "name": "s",
        "trial": trial().model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "study": {"num_students": 2, "startup_students": 2, "sampler": "random"} | study,
        "search": SEARCH,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree))

    def perform(task: Task, context: Any, channel: Channel) -> TaskEnd:
        return world.execute(task, channel)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(tune.driver, "perform", perform)
    monkeypatch.setattr(tune.driver, "_import_materials", lambda *given: None)
    monkeypatch.setattr(tune.driver, "BackgroundTracker", NoTracking)
    monkeypatch.setattr(tune.report.search_figures, "write_study_figures", lambda *given: None)
    return folder / "study.yaml"


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", "study.yaml", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found

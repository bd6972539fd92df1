"""A process that hangs in a real Ray Tune trial is killed, and its task goes on in another one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hidfd.config.study_file import ResourcesConfig
from tests.tune.world import World, definition
from tune.engines import ray_engine as engine
from tune.engines.ray_worker import _send
from tune.engines.worker import WorkerContext
from tune.planner import planner
from tune.study.messages import AttemptStarted, TaskFinished

pytestmark = pytest.mark.integration


def test_hanging_process_is_killed_and_its_task_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path / "has-hung"

    def trainable(*_: Any, **more: Any) -> Callable[[dict[str, Any]], None]:
        def run(config: dict[str, Any]) -> None:
            import ray

            _send(AttemptStarted(socket.gethostname(), ray.get_runtime_context().get_node_id()))
            if not before.exists():
                before.touch()
                time.sleep(3600)
            _send(TaskFinished({"agreement": 0.5, "generator.effective_classes": 9.0}, cpu_seconds=0.1))

        return run

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray may have been loaded already, and has then read it
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setattr(engine, "trainable", trainable)
    monkeypatch.setattr(planner, "OBEY_SECONDS", 1.0)
    controls = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    study = definition({"num_students": 1, "hung_after_minutes": 0.05, "controls": controls})
    driven = World().planner(study, time.time)
    context = WorkerContext(str(tmp_path), str(tmp_path), "cpu", 1)
    engine.run_ray(driven, context, concurrency=1, resources=ResourcesConfig(), environment={}, on_change=lambda: None)
    ends = [attempt.end for task in driven.state.tasks.values() for attempt in task.attempts]
    assert ends == ["lost"] + ["finished"] * len(driven.state.tasks)
    assert driven.is_over()
    assert [note for note in driven.notes if "hung" in note] == driven.notes

"""A study whose tasks run in two processes each, on two Ray nodes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.ray_nodes import RayNodes, processes_titled, ray_nodes
from tests.integration.running_study import RunningStudy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    """A cluster of two nodes with one processor each, so that no task fits on one of them."""
    with ray_nodes() as nodes:
        nodes.add(cpus=1)
        nodes.add(cpus=1)
        yield nodes


@pytest.fixture
def study(tiny: Workplace, cluster: RayNodes, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A study of two students of real images, and the best one again, without controls.

    The teacher's weights are random, and a student that has hardly moved agrees with it best.
    """
    tree = tiny_study()
    tree["resources"] = {"cpus_per_worker": 1, "num_workers": 2}
    tree["study"] = {"num_students": 2, "startup_students": 2, "concurrency": 1}
    tree["study"]["pruner"] = {"kind": "asha", "first_rung_fraction": 0.5, "reduction_factor": 2}
    tree["study"]["controls"] = {"real_only": False, "synthetic_only": False, "plain_kd": False}
    tree["study"]["points"] = [{"distillation.learning_rate": 0.000001}, {"distillation.learning_rate": 0.05}]
    tree["trial"]["synthesis"] = {"num_images": 0}
    tree["trial"]["distillation"]["target_images"] = 640
    tree["search"] = {"distillation.learning_rate": {"type": "float", "low": 0.000001, "high": 0.5, "log": True}}
    tiny.write(tree)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return tiny


def snapshot(study: Workplace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(study.run("tune", "status", "study.yaml", "--json").stdout)
    return found


def test_a_study_with_pruning_runs_on_two_processes_across_two_nodes(study: Workplace) -> None:
    done = study.run_process("tune", "run", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    found = snapshot(study)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "pruned"]
    attempts = [attempt for task in found["works"] for attempt in task["attempts"]]
    assert all(attempt["end"] in ("finished", "stopped") for attempt in attempts), attempts
    assert all(attempt["resources"]["workers"] == 2 for attempt in attempts)


def test_study_goes_on_when_a_process_of_several_is_killed(cluster: RayNodes, tmp_path: Path) -> None:
    """First one of the two is killed, then their trial's own, whose placement group nobody but the driver frees.

    The study is left when its student has been evaluated.
    """
    short = ["trial.generation.target_images=1200", "trial.distillation.target_images=3600"]
    overrides = ["resources.num_workers=2", "study.num_students=1", *short]
    running = RunningStudy(tmp_path / "killed", cluster.address, overrides)
    checkpoints = running.results.parents[1] / "store" / "checkpoints"
    running.start()
    try:
        for number, title in enumerate(("ray::RayTrainWorker", "ray::ImplicitFunc"), start=1):
            running.until(
                lambda number=number: len({path.parents[1] for path in checkpoints.glob("*/*/manifest.json")}) >= number
            )
            os.kill(processes_titled(title)[-1], signal.SIGKILL)
        running.until((running.results / "trial-0" / "result.json").exists)
    finally:
        running.kill()
    ends = [attempt.end for task in running.study.snapshot().tasks for attempt in task.attempts]
    assert ends.count("lost") == 2, running.output()
    assert running.output().count("started again, from its last checkpoint") == 2
    assert len(running.resumed_at()) == 2, running.output()

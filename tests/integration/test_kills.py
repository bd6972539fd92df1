"""A study on a real Ray cluster goes on when a worker, a node or its driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.ray_nodes import RayNodes, ray_nodes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes() as nodes:
        yield nodes


@pytest.fixture
def study(tiny: Workplace) -> Workplace:
    """Three students over two generators of some seconds each, with a checkpoint a second."""
    tree = tiny_study()
    tree["study"] = {"num_students": 3, "students_per_generator": 2, "startup_students": 2, "concurrency": 2}
    tree["study"]["controls"] = {"synthetic_only": False, "plain_kd": False}
    tree["search"] = {"generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4}}
    tree["search"]["distillation.inflation"] = {"type": "float", "low": 1, "high": 10}
    tree["trial"]["generation"]["target_images"] = 3200
    tree["trial"]["distillation"]["target_images"] = 3200
    tree["trial"]["checkpoint_every_seconds"] = 1
    tiny.write(tree)
    return tiny


def started(study: Workplace, cluster: RayNodes) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tune", "run", "study.yaml"],
        cwd=study.folder,
        env=os.environ | {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
    return found


def checkpoint(study: Workplace) -> Path | None:
    return next((study.folder / ".hidfd" / "store" / "checkpoints").glob("*/*/manifest.json"), None)


def snapshot(study: Workplace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(study.run("tune", "status", "study.yaml", "--json").stdout)
    return found


def check_whole(study: Workplace) -> list[str]:
    """Nothing lost, nothing doubled; returns how attempts ended."""
    found = snapshot(study)
    assert found["finished"]
    assert all(trial["state"] in ("complete", "pruned") for trial in found["trials"])
    assert len(found["trials"]) == 3
    assert len({work["key"] for work in found["works"]}) == len(found["works"])
    assert all(row["num_complete"] == len(row["keys"]) for row in found["rows"])
    return [attempt["end"] for work in found["works"] for attempt in work["attempts"]]


def test_killed_worker_goes_on_from_its_checkpoint(study: Workplace, cluster: RayNodes) -> None:
    node = cluster.add(cpus=2)
    try:
        process = started(study, cluster)
        until(lambda: checkpoint(study), process)
        os.kill(until(lambda: cluster.workers(node), process)[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    finally:
        cluster.kill(node)
    ends = check_whole(study)
    assert ends.count("lost") == 1, ends
    assert "again, from its last checkpoint" in output


def test_killed_node_does_not_end_the_study(study: Workplace, cluster: RayNodes) -> None:
    nodes = [cluster.add(cpus=1), cluster.add(cpus=1)]
    try:
        process = started(study, cluster)
        until(lambda: checkpoint(study), process)
        until(lambda: cluster.workers(nodes[0]), process)
        cluster.kill(nodes[0])
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    finally:
        cluster.kill(nodes[1])
    ends = check_whole(study)
    assert ends.count("node lost") >= 1, ends
    assert "lost" not in ends, "what died with its node is not held against the work"


def test_killed_driver_leaves_a_study_that_goes_on(study: Workplace, cluster: RayNodes) -> None:
    node = cluster.add(cpus=2)
    try:
        process = started(study, cluster)
        until(lambda: checkpoint(study), process)
        process.kill()
        process.communicate()
        again = started(study, cluster)
        output, _ = again.communicate(timeout=240)
        assert again.returncode == 0, output
    finally:
        cluster.kill(node)
    ends = check_whole(study)
    assert "interrupted" in ends
    assert "again, from its last checkpoint" in output

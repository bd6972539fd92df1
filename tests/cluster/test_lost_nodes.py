"""A node that dies with its pods without a notice, while Kubernetes keeps its Node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_client import MERGE
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.submitted_study import found_by, two_generators, uninterrupted, views_of

FIRST, OTHER = "local-0", "local-1"


@pytest.fixture
def other_node(cluster: LocalCluster) -> Iterator[str]:
    """Run a second node, for a test to lose."""
    with cluster.another_node(OTHER):
        yield OTHER


def test_task_of_a_lost_node_goes_on_elsewhere_and_ends_as_if_nothing_had_happened(
    cluster: LocalCluster, namespace: str, other_node: str, tmp_path: Path
) -> None:
    """Each node has room for one of two workers; the driver is on the node that lives."""
    driver = {"cpus": 1, "memory": "2Gi", "node_selector": {"kubernetes.io/hostname": FIRST}}
    workers = {"cpu": {"count": 2, "cpus": 1, "memory": "20Gi"}}
    study = two_generators(cluster, namespace, tmp_path, generation_images=4000, driver=driver, workers=workers)
    expected = found_by(uninterrupted(study, tmp_path / "alone"))
    assert study.run("submit").code == 0
    watch = study.watch()
    until(watch, lambda view: len(view["running"]) == 2)
    cluster.lose_node(other_node)
    views = views_of(watch)
    assert (views[-1]["succeeded"], views[-1]["tries"]) == (True, 1), "a lost worker costs no try"
    assert any(f"its node {OTHER} does not answer" in words for view in views for words in view["troubles"])
    assert any("lost its node" in words for view in views for words in view["cut_off"].values())
    document = study.status()
    assert "node lost" in [attempt["end"] for task in document["works"] for attempt in task["attempts"]]
    assert found_by(document) == expected


def test_study_that_loses_the_node_of_its_driver_is_retried_when_that_was_taken_out(
    cluster: LocalCluster, namespace: str, other_node: str, tmp_path: Path
) -> None:
    """All pods die with the node. A cloud deletes the Node by itself; elsewhere somebody has to, and is told so."""
    study = two_generators(cluster, namespace, tmp_path, generation_images=2000)
    first = f"/api/v1/nodes/{FIRST}"
    cluster.request("PATCH", first, {"spec": {"unschedulable": True}}, content=MERGE)
    try:
        assert study.run("submit", "study.num_students=1", "study.controls.real_only=false").code == 0
        watch = study.watch()
        until(watch, lambda view: bool(view["running"]))
    finally:
        cluster.request("PATCH", first, {"spec": {"unschedulable": None}}, content=MERGE)
    cluster.lose_node(other_node)
    until(watch, lambda view: f"kubectl delete node {other_node}" in str(view["troubles"]))
    cluster.request("DELETE", f"/api/v1/nodes/{other_node}")
    views = views_of(watch)
    assert (views[-1]["succeeded"], views[-1]["tries"], views[-1]["num_trials_ended"]) == (True, 2, 1)


def until(watch: subprocess.Popen[str], reached: Callable[[dict[str, Any]], bool]) -> None:
    """Read the output of a watcher until a condition holds."""
    assert watch.stdout is not None
    for line in watch.stdout:
        if reached(json.loads(line)):
            return
    pytest.fail(f"the watch has ended: {watch.stderr and watch.stderr.read()}")

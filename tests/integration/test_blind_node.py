"""A real Ray cluster in which one node does not see the folder of the store."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.ray_nodes import HIDING, ray_nodes

pytestmark = pytest.mark.integration

ENGINE = 10


def test_local_store_that_a_node_does_not_see_is_refused_before_anything_runs(tiny: Workplace) -> None:
    store = tiny.folder / "store"
    store.mkdir()
    try:
        hides = subprocess.run([*HIDING, str(store), "true"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here; get it: apt-get install util-linux")
    if hides.returncode != 0:
        pytest.skip(f"no folder can be hidden here: {hides.stderr[-200:]}")
    tree = tiny_study()
    tree["storage"] = {"store": str(store)}
    tree["study"] = {"variants": {"hybrid": {}}}
    tiny.write(tree)
    with ray_nodes() as nodes:
        nodes.add(cpus=1)
        nodes.add(cpus=1, without=store)
        done = tiny.run_process("tune", "run", "study.yaml", RAY_ADDRESS=nodes.address, RAY_AUTH_MODE="disabled")
    assert done.returncode == ENGINE, done.stdout + done.stderr
    assert f"error: storage.store: {store} is not the same folder on " in done.stderr
    assert "s3://" in done.stderr
    assert not list(store.glob("collection/*"))

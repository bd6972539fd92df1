"""Kills of the matrix (`make kill-matrix` runs each in a study of its own) on a real Ray cluster, in two studies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.kills import Cell, KillMatrix

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillMatrix]:
    with KillMatrix(tmp_path_factory.mktemp("kills")) as matrix:
        yield matrix


def check(found: Cell, *ends: str) -> None:
    """Check that the study ended as the uninterrupted one, and that its attempts died as named, in any order."""
    assert not found.differences, found.output
    assert (found.lost, found.doubled) == (0, 0), found.output
    died = [how for how in found.ends if how not in ("finished", "stopped")]  # a pruned student is stopped
    assert sorted(died, key=str) == sorted(ends), found.output
    assert "started again, from its last checkpoint" in found.output
    assert found.had_ended or "resuming at" in found.output, "a training that was killed goes on"


def test_study_outlives_its_worker_its_node_its_database_and_its_driver(matrix: KillMatrix) -> None:
    found = matrix.run("worker/generation", "node/distillation", "postgresql/between", "driver/finalists", seed=0)
    check(found, "lost", "node lost", "interrupted")
    assert found.intervals < 2, "it loses what came after its last checkpoint, and no more"
    assert "the ledger is back after" in found.output


def test_study_outlives_its_ledger_a_ray_of_its_own_and_a_reader_that_stands_still(matrix: KillMatrix) -> None:
    """The ledger is lost first: what it knew of attempts is lost with it."""
    found = matrix.run("ledger/generation", "raylet/distillation", "reader/finalists", seed=0)
    check(found, "interrupted")
    assert found.intervals < 12, (
        "its workers notice that the raylet is gone after some seconds, in which they may train"
    )

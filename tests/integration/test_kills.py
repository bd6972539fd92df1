"""Seven cells of the kill matrix (`make kill-matrix` runs all of them) on a real Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.kills import FROM_THE_STORE, OUTLIVED, KillMatrix

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillMatrix]:
    with KillMatrix(tmp_path_factory.mktemp("kills")) as matrix:
        yield matrix


@pytest.mark.parametrize(
    ("cell", "end"),
    [
        ("worker/generation", "lost"),
        ("node/distillation", "node lost"),
        ("driver/finalists", "interrupted"),
        ("postgresql/between", None),
        ("raylet/generation", "interrupted"),
        ("ledger/distillation", None),
        ("reader/finalists", None),
    ],
)
def test_study_ends_as_the_uninterrupted_one(matrix: KillMatrix, cell: str, end: str | None) -> None:
    found = matrix.run(cell, seed=0)
    assert not found.differences, found.output
    assert (found.lost, found.doubled) == (0, 0), found.output
    died = [how for how in found.ends if how not in ("finished", "stopped")]  # a pruned student is stopped
    assert died == ([] if end is None else [end]), found.output
    late = 10 if cell.startswith("raylet") else 0  # its workers notice that after some seconds, in which they may train
    assert found.intervals < 2 + late, "it loses what came after its last checkpoint, and no more"
    if end is not None:
        assert "started again, from its last checkpoint" in found.output
        assert "resuming at" in found.output or (found.killed in OUTLIVED and FROM_THE_STORE in found.output)
    elif cell.startswith("postgresql"):
        assert "the ledger is back after" in found.output

"""A finished trial in miniature, which all tests of exports read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hidfd.config.schema import TrialConfig
from hidfd.export.card import StudentOrigin
from hidfd.export.network import DeployedStudent, deployed_student
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.miniature import build_world, miniature


@dataclass(frozen=True)
class FinishedTrial:
    """A trial whose student is in a store.

    Attributes:
        config, store, metrics: as `run_trial` takes and gives them.
        world: the folder with its images.
    """

    config: TrialConfig
    store: Store
    metrics: dict[str, Any]
    world: Path

    @property
    def network(self) -> DeployedStudent:
        return deployed_student(self.config, self.store)

    @property
    def origin(self) -> StudentOrigin:
        return StudentOrigin("mine", "trial-1", "python -m hidfd run mine.yaml", self.metrics)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedTrial:
    folder = tmp_path_factory.mktemp("finished")
    world = build_world(folder / "world")
    store = Store.open(folder / "store")
    result = run_trial(miniature(world), store, device="cpu")
    return FinishedTrial(result.config, store, result.metrics, world)

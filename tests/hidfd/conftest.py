"""A tiny world and a trial over it, see `tests.hidfd.miniature`."""

from pathlib import Path

import pytest

from hidfd.config.schema import TrialConfig
from hidfd.store.store import Store
from tests.hidfd.miniature import build_world, miniature


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return build_world(tmp_path / "world")


@pytest.fixture
def trial_config(world: Path) -> TrialConfig:
    return miniature(world)

"""The store that these tests run against: once on a disk, once on S3's code path."""

from __future__ import annotations

from pathlib import Path

import pytest

from hidfd.store.store import Store
from tests.hidfd.stores import StoreFactory, store_factory


@pytest.fixture(params=["local", "remote"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFactory:
    return store_factory(request.param, tmp_path)


@pytest.fixture
def store(factory: StoreFactory) -> Store:
    return factory()

"""What all tests share: one thread, so that sums are the same everywhere, and no GPU tests where there is no GPU."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads; child processes inherit it
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def _nothing_outside_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store, ledger or tracking server of whoever runs it."""
    for name in ("HIDFD_STORE", "HIDFD_LEDGER", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

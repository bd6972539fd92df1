"""Flags of torch's backends, as the tests of devices find and leave them."""

from collections.abc import Iterator

import pytest
import torch

FLAGS = (
    (torch.backends.cuda.matmul, "fp32_precision"),
    (torch.backends.cudnn.conv, "fp32_precision"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
)


@pytest.fixture(autouse=True)
def _backends_as_found() -> Iterator[None]:
    """Set back what `resolve_device`, or a test, has changed."""
    before = [getattr(backend, flag) for backend, flag in FLAGS]
    yield
    for (backend, flag), value in zip(FLAGS, before, strict=True):
        setattr(backend, flag, value)

"""Latency of a deployed student: of one image, on one thread, without the first passes and the odd slow one."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hidfd import latency
from hidfd.latency import NUM_WARM_UP, latency_milliseconds
from hidfd.store.store import Store
from tests.tune.students import keep_student
from tests.tune.world import trial


class Hesitant(nn.Module):
    """A network that is slow at first, and every fourth time."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()

    def forward(self, image_unit: Tensor) -> Tensor:
        self.shapes.append(tuple(image_unit.shape))
        self.threads.add(torch.get_num_threads())
        is_slow = len(self.shapes) <= NUM_WARM_UP or len(self.shapes) % 4 == 0
        time.sleep(0.03 if is_slow else 0.002)
        return image_unit


def test_latency_is_the_median_of_single_images_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Hesitant()
    monkeypatch.setattr(latency, "deployed_student", lambda config, store: network)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = latency_milliseconds(trial(), Store.open(tmp_path))
        assert torch.get_num_threads() == 2, "the next task has its threads again"
    finally:
        torch.set_num_threads(threads)
    assert 2 <= found < 20
    assert set(network.shapes) == {(1, 1, 28, 28)}
    assert network.threads == {1}


def test_a_bigger_student_takes_longer(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    found = {}
    for architecture in ("resnet8", "resnet20"):
        config = trial(distillation={"architecture": architecture, "target_images": 6400, "batch_images": 64})
        keep_student(store, config)
        found[architecture] = latency_milliseconds(config, store)
    assert 0 < found["resnet8"] < found["resnet20"]

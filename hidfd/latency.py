"""Latency of a deployed student for one image, on the machine that measures it."""

from __future__ import annotations

import statistics
import time

import torch

from hidfd.config.schema import TrialConfig
from hidfd.export.network import deployed_student
from hidfd.store.store import Store

NUM_WARM_UP, NUM_TIMED = 5, 31
"""Numbers of forward passes: the first ones allocate memory and choose kernels; the median is of the others."""


def latency_milliseconds(config: TrialConfig, store: Store) -> float:
    """Median milliseconds of a finished student's forward pass on one image, on one thread of the CPU.

    It depends on the machine and on what else runs there, so it is in no artifact: equal students on one quiet machine
    differ by some per cent.

    Args:
        config: of the trial, with the sha256 of every material.
        store: that holds its teacher and its student.

    Raises:
        StoreError: the store lacks one of them.
    """
    network, data = deployed_student(config, store), config.data
    image_unit = torch.full((1, data.channels, data.image_size_pixels, data.image_size_pixels), 0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(NUM_WARM_UP + NUM_TIMED):
            started = time.perf_counter()
            network(image_unit)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(seconds[NUM_WARM_UP:])

"""Processes with steps of their own that wait for the word to measure: to compile them at the same time, and to train
side by side.

`python -m benchmarks.gpu.workers SPEC` is such a process. It builds its steps, says so, and then answers every request
that it reads with a measurement; each message is a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RUN_SECONDS = 0.2
"""Seconds of steps between two looks at the clock."""


@dataclass(frozen=True)
class Spec:
    """The steps that a process builds.

    Attributes:
        device: `cuda` or `cpu`.
        preset, precision: of `benchmarks.steps.trial_config`.
        steps: kind -> images of a step.
        compiler: backend of `torch.compile`; None = eager.
    """

    device: str
    preset: str
    precision: str
    steps: dict[str, int]
    compiler: str | None = None


class Worker:
    """A process with steps, in this group, so that it ends with the part that started it.

    Args:
        spec: what it builds.
    """

    def __init__(self, spec: Spec) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.workers", json.dumps(asdict(spec))],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None if the process ended, or said nothing in time."""
        try:
            return self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def ask(self, kind: str, seconds: float) -> None:
        """Have it measure a step for some seconds; the answer has `images_per_second` and `memory` (bytes)."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended, whose answer is None
            self._process.stdin.write(json.dumps({"kind": kind, "seconds": seconds}) + "\n")

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)


def main(spec: Spec) -> None:
    """Build the steps, then measure on request until the input ends."""
    from benchmarks.gpu.rates import with_peak_memory
    from benchmarks.steps import STEPS, StepTimer, trial_config
    from hidfd.distributed.device import resolve_device

    started = time.monotonic()
    device = resolve_device(spec.device, spec.precision)
    timers: dict[str, tuple[int, StepTimer]] = {}
    operations, networks = {}, {}
    for kind, batch_images in spec.steps.items():
        step = STEPS[kind](trial_config(spec.preset, device, batch_images), device)
        timer = StepTimer(step.call, step.batch_images, device)
        operations[kind], networks[kind] = timer.operations_per_image(), step.networks
        if spec.compiler is not None:
            for module in step.modules:
                module.compile(backend=spec.compiler, dynamic=False)
        timer.warm_up()
        timers[kind] = step.batch_images, timer
    said = {"seconds": time.monotonic() - started, "operations": operations, "networks": networks}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        batch_images, timer = timers[request["kind"]]
        count = max(1, int(RUN_SECONDS / timer.run(1)))

        def measure(
            timer: StepTimer = timer, batch: int = batch_images, count: int = count, seconds: float = request["seconds"]
        ) -> float:
            images, elapsed = 0, 0.0
            while elapsed < seconds:
                elapsed += timer.run(count)
                images += count * batch
            return images / elapsed

        rate, memory = with_peak_memory(device, measure)
        print(json.dumps({"images_per_second": rate, "memory": memory}), flush=True)


if __name__ == "__main__":
    main(Spec(**json.loads(sys.argv[1])))

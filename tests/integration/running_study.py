"""A small study with real checkpoints as a process of its own, observed from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.integration.conftest import tiny_study, tiny_workplace
from tune.opened_study import Study, open_study

CHECKPOINT_SECONDS = 1.0

LONGEST_SECONDS = 900.0
"""Time after which a study counts as hanging: on two quiet cores it takes a minute, on busy ones many times that."""

T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """The progress of a loop when its process died.

    Attributes:
        saved: images of its newest checkpoint.
        repeated: images that it had seen since, estimated by its pace.
        intervals: time since that checkpoint, over the time between two.
        had_ended: whether it had come to its end, so that nothing is left to go on with.
    """

    saved: int = 0
    repeated: float = 0.0
    intervals: float = 0.0
    had_ended: bool = False


class RunningStudy:
    """A study folder, and the `tune run` command over it, as often as it is started.

    Attributes:
        study: opened in this process.
        results: folder of its results.
        returncode: of the last command.
    """

    def __init__(self, folder: Path, ray_address: str | None, storage: Sequence[str] = ()) -> None:
        """Make the folder, without starting the command.

        Args:
            folder: that does not exist yet.
            ray_address: of the cluster; None for a Ray of the study's own.
            storage: overrides of `storage:`.
        """
        folder.mkdir()
        tree = tiny_study()
        tree["name"] = folder.name
        tree["storage"] = {part: str(folder / part) for part in ("store", "results")}
        tree["storage"] |= {"ledger": str(folder / "ledger.db"), "tracking": f"sqlite:///{folder}/mlflow.db"}
        tree["study"] = {"sampler": "tpe", "num_students": 2, "students_per_generator": 2, "startup_students": 2}
        tree["study"]["controls"] = {"real_only": False, "synthetic_only": False, "plain_kd": False}
        tree["search"] = {"generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4}}
        tree["search"]["distillation.inflation"] = {"type": "float", "low": 1, "high": 10}
        tree["trial"]["generation"]["target_images"] = 4000
        tree["trial"]["distillation"]["target_images"] = 12_000
        tree["trial"]["checkpoint_every_seconds"] = CHECKPOINT_SECONDS
        tiny_workplace(folder).write(tree)
        self.study: Study = open_study(str(folder / "study.yaml"), storage)
        self.results = folder / "results" / folder.name
        self.returncode: int | None = None
        self._folder, self._address, self._storage = folder, ray_address, storage
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the command; its output goes to a file, since a pipe that nobody reads would block it."""
        environment = {"RAY_AUTH_MODE": "disabled", "PYTHONFAULTHANDLER": "1"}
        environment |= {} if self._address is None else {"RAY_ADDRESS": self._address}
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tune", "run", "study.yaml", *options, *self._storage],
                cwd=self._folder,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Wait for the command's end, and return its exit code."""
        assert self._process is not None
        try:
            self.returncode = self._process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # which prints the stack of every thread
            self._process.wait()
            raise AssertionError(f"it hangs\n{self.output()}") from None
        return self.returncode

    def finish(self) -> None:
        """Wait for the command's end; where it says that MLflow was away, run it once more."""
        assert self._process is not None
        self.wait()
        if "this makes up for it" in self.output():
            self.start()
            self.returncode = self._process.wait(LONGEST_SECONDS)

    def kill(self) -> None:
        """Kill the driver by SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def watched(self) -> Iterator[subprocess.Popen[bytes]]:
        """Show the study to nobody by `status --watch`, a process of its own, for as long as the block lasts."""
        command = [sys.executable, "-m", "tune", "status", "study.yaml", "--watch", *self._storage]
        watcher = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield watcher
        finally:
            watcher.kill()
            watcher.wait()

    def child(self, program: str) -> int | None:
        """Return the process id of a program that the command has started itself; None while there is none."""
        assert self._process is not None
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/exe").readlink().name == program:
                        return pid
        return None

    def until(self, condition: Callable[[], T | None]) -> T:
        """Wait until the condition gives a true value, and return that."""
        assert self._process is not None
        end = time.monotonic() + LONGEST_SECONDS
        while not (found := condition()):
            assert self._process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.02)
        return found

    def output(self) -> str:
        """Return what all its commands have printed."""
        return (self._folder / "output").read_text(errors="replace")

    def checkpoints(self, folder: str) -> dict[int, float]:
        """Return a loop's checkpoints in the store: images -> time at which it was written."""
        found = (self._folder / "store" / "checkpoints" / folder).glob("*/manifest.json")
        # A generator that has come to its end leaves `<images>-end`.
        return {int(path.parent.name.removesuffix("-end")): path.stat().st_mtime for path in found}

    def moment_of(self, folder: str, images: int) -> Moment:
        """Return the progress of a loop of so many images that has just been killed."""
        now, checkpoints = time.time(), self.checkpoints(folder)
        saved = max(checkpoints, default=0)
        if not checkpoints or saved >= images:  # it came to its end before its process did: Ray takes a moment
            return Moment(saved, had_ended=True)
        before = min(checkpoints)
        since = now - checkpoints[saved]
        pace = (saved - before) / (checkpoints[saved] - checkpoints[before]) if before < saved else saved
        return Moment(saved, min(pace * since, images - saved), since / CHECKPOINT_SECONDS)

    def resumed_at(self) -> list[int]:
        """Return the images at which loops have gone on, by their output."""
        return [int(images.replace(",", "")) for images in re.findall(r"resuming at ([\d,]+) of", self.output())]

    def mlflow_runs(self) -> Counter[str]:
        """Return how many runs MLflow has for each task's key."""
        return Counter(run.data.tags["hidfd.key"] for run in self._runs()[1])

    def disorder_in_mlflow(self) -> list[str]:
        """Return in words which runs have not ended, and which curves have a step twice or go back in time."""
        client, runs = self._runs()
        faults = [f"{run.info.run_name} is still RUNNING" for run in runs if run.info.status == "RUNNING"]
        for run in runs:
            for metric in run.data.metrics:
                points = client.get_metric_history(run.info.run_id, metric)
                points.sort(key=lambda point: (point.step, point.timestamp))
                for before, after in pairwise(points):
                    is_twice = before.step == after.step and run.data.tags["kind"] != "study"  # whose means may change
                    if is_twice or before.timestamp > after.timestamp:
                        faults.append(f"{run.info.run_name}: {metric} at {before.step} and {after.step}")
        return faults

    def _runs(self) -> tuple[MlflowClient, list[Run]]:
        client = MlflowClient(self.study.file.storage.tracking)
        experiment = client.get_experiment_by_name(self.study.definition.name)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], run_view_type=mlflow.entities.ViewType.ACTIVE_ONLY)
        return client, list(found)

"""The kill matrix: measures what a study loses when a part of it dies by `kill -9`.

    python -m tests.integration.kills [--seed N] [--only worker/generation ...] [--write]

Each cell is a small study of its own, one task after another, on a real Ray cluster. At a moment drawn from the seed,
inside the named phase, one of its parts is killed; a driver is started again by the same command, a server some seconds
later, a worker or a node not at all. The study's results are then compared with those of an uninterrupted run.

Three parts end otherwise: the raylet of a Ray that the study has started itself is killed, the ledger's file is
deleted, and a `status --watch` is stopped for good by SIGSTOP.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from hidfd.pipeline.graph import plan
from tests.integration.postgres import PostgresServer, running_postgres
from tests.integration.ray_nodes import WORKER, RayNodes, is_running, processes_titled, ray_nodes
from tests.integration.running_study import CHECKPOINT_SECONDS, Moment, RunningStudy
from tests.tune.tracking.test_outage import Server
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind, TaskState

KILLED = ("driver", "worker", "node", "mlflow", "postgresql")
PHASES = ("generation", "distillation", "between", "finalists")
ONCE = ("raylet/generation", "ledger/distillation", "reader/finalists")
CELLS = (*(f"{killed}/{phase}" for killed in KILLED for phase in PHASES), *ONCE)

TABLE = Path(__file__).parents[2] / "benchmarks" / "kills.md"

AWAY_SECONDS = (2.0, 5.0)
"""Range of the seconds after which a killed server is started again."""

HEAD = f"""\
# What a study loses when something under it is killed

`make kill-matrix` writes this table. Each row is a study of its own on a real Ray cluster, one task after
another, in which one part was killed by `kill -9` at a moment drawn from the seed; it is held against the same study
uninterrupted. A killed driver was started again by the same command, a server some seconds later, a worker or a node
not at all. A study has recovered when it ended with the same trials, rungs and numbers.

* A raylet is that of a Ray that the study itself had started: its driver ended with exit code 10 and a message, and the
  same command went on. A ledger is its SQLite file, deleted for good: its driver ended with exit code 7 and a message,
  and the same command with `--adopt` went on from the store. A reader is a `status --watch`, stopped by SIGSTOP and
  never continued: the driver noticed nothing of it.
* Repeated: images computed a second time, by the loop's pace since its last checkpoint, over all images of the study;
  and the same in checkpoint intervals (of {CHECKPOINT_SECONDS:g} s here, a minute by default). At most one per kill,
  and the time that saving takes.
* Lost, doubled: trials and tasks in the ledger, runs in MLflow, where no step of a curve may come twice or earlier than
  the one before it, and no run may still be running.
* Seconds: of the whole study. Uninterrupted it took about as long less the start of what was killed.
"""
COLUMNS = ("killed", "during", "seed", "recovered", "repeated", "intervals", "lost", "doubled", "seconds")

PASSWORD = "HIDFD_KILLS_PASSWORD"
"""Environment variable with PostgreSQL's password."""


READER_SECONDS = (5.0, 9.0)
"""Range of the seconds after which a reader is stopped: it takes some to start, and then reads every two."""

ENDS = {"raylet": (10, "the Ray that this study had started is gone"), "ledger": (7, "the ledger was deleted")}
"""What is killed -> exit code and words of the message with which the driver ends."""


@dataclass(frozen=True)
class Loop:
    """A training loop of the study.

    Attributes:
        label, role: of its task.
        stage: generation or distillation.
        checkpoints: name of the folder that holds its checkpoints.
        images: that it sees in all.
    """

    label: str
    role: str
    stage: str
    checkpoints: str
    images: int


@dataclass(frozen=True)
class Cell:
    """The result of one study of the matrix.

    Attributes:
        name: what was killed and when, as `worker/generation`; several in their order, joined by ` + `.
        seed: of the moments.
        differences: from the uninterrupted study, in words.
        ends: how attempts ended.
        output: of its commands.
        repeated_fraction: of all images, computed twice.
        intervals: the same in checkpoint intervals, the most of one kill.
        had_ended: whether each training came to its end before the last of its processes did.
        lost, doubled: trials, tasks, runs.
        seconds: until it ended.
    """

    name: str
    seed: int
    differences: tuple[str, ...]
    ends: tuple[str | None, ...]
    output: str
    repeated_fraction: float
    intervals: float
    had_ended: bool
    lost: int
    doubled: int
    seconds: float

    def row(self) -> str:
        """Return the cell's line of the table."""
        killed, _, phase = self.name.partition("/")
        recovered = "no: " + "; ".join(self.differences) if self.differences else "yes"
        numbers = [f"{100 * self.repeated_fraction:.1f} %", f"{self.intervals:.1f}", self.lost, self.doubled]
        return _line([killed, phase, self.seed, recovered, *numbers, f"{self.seconds:.0f}"])


class KillMatrix:
    """The cluster and the servers of all cells, and the uninterrupted study; for a `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._nodes: list[int] = []
        self._postgres: PostgresServer | None = None
        self._mlflow: Server | None = None
        self._loops: list[Loop] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._ray: RayNodes = stack.enter_context(ray_nodes())
            self._add_nodes()
            self._whole = self._uninterrupted()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, *names: str, seed: int) -> Cell:
        """Run one study in which each named `killed/phase` happens, one after another."""
        self._add_nodes()
        killed = [name.partition("/")[0] for name in names]
        storage: list[str] = []
        if "postgresql" in killed:
            server = self._server()
            os.environ[PASSWORD] = server.password
            storage.append(f"storage.ledger={server.url(server.new_database(), f'${{{PASSWORD}}}')}")
        if "mlflow" in killed:
            storage.append(f"storage.tracking={self._tracking().uri}")
        address = None if "raylet" in killed else self._ray.address
        folder = self._folder / f"{'-'.join(names).replace('/', '-')}-{seed}"
        running = RunningStudy(folder, address, storage)
        began = time.monotonic()
        running.start()
        said: list[str] = []
        with contextlib.ExitStack() as cells:
            cells.callback(running.kill)
            moments = [self._kill_one(name, running, random.Random(f"{name} {seed}"), cells, said) for name in names]
            running.finish()
        return self._compared(" + ".join(names), seed, running, moments, time.monotonic() - began, said)

    def _kill_one(
        self, name: str, running: RunningStudy, draws: random.Random, cells: contextlib.ExitStack, said: list[str]
    ) -> Moment:
        """Kill a part at a drawn moment of the phase, and start it again where somebody would."""
        killed, _, phase = name.partition("/")
        loop = self._wait_for(phase, running, draws)
        if killed == "reader":
            watcher = cells.enter_context(running.watched())
            time.sleep(draws.uniform(*READER_SECONDS))
            watcher.send_signal(signal.SIGSTOP)
        moment = self._kill(killed, running, loop)
        if killed in ENDS:
            said += _unlike(ENDS[killed], running)
        if killed in ("driver", "raylet"):
            running.start()
        elif killed == "ledger":
            running.start("--adopt")
        elif killed in ("mlflow", "postgresql"):
            time.sleep(draws.uniform(*AWAY_SECONDS))
            (self._tracking() if killed == "mlflow" else self._server()).start()
        return moment

    def _add_nodes(self) -> None:
        """Start Ray nodes until there are two, so that one is left when the other is killed."""
        while len(self._nodes) < 2:
            self._nodes.append(self._ray.add(cpus=1))

    def _uninterrupted(self) -> StudySnapshot:
        running = RunningStudy(self._folder / "uninterrupted", None)
        running.start("--engine", "local")
        try:
            running.finish()
        finally:
            running.kill()
        stages = {TaskKind.GENERATOR: "generation", TaskKind.STUDENT: "distillation"}
        for task in running.study.state().tasks.values():
            spec = task.spec
            is_whole = task.outcome is not None and task.outcome.state is TaskState.COMPLETE  # not pruned half-way
            if spec.kind in stages and spec.target_images is not None and is_whole:
                stage = stages[spec.kind]
                checkpoints = plan(spec.config)[stage].checkpoints
                self._loops.append(Loop(task.label, task.role, stage, checkpoints, spec.target_images))
        found = running.study.snapshot()
        assert found.finished, running.output()
        return found

    def _server(self) -> PostgresServer:
        if self._postgres is None:
            self._postgres = self._stack.enter_context(running_postgres())
        return self._postgres

    def _tracking(self) -> Server:
        if self._mlflow is None:
            self._mlflow = Server(self._folder)
            self._stack.callback(self._mlflow.kill)
            self._mlflow.start()
        return self._mlflow

    def _wait_for(self, phase: str, running: RunningStudy, draws: random.Random) -> Loop | None:
        """Wait for a moment inside the phase, and return the loop that runs then."""
        if phase == "between":
            first = next(loop for loop in self._loops if loop.stage == "distillation")
            running.until((running.results / first.label / "result.json").exists)
            time.sleep(draws.uniform(0.0, 1.0))
            return None
        searched = [loop for loop in self._loops if loop.role == "search" and loop.stage == phase]
        loop = draws.choice(searched or [loop for loop in self._loops if loop.role != "search"])
        images = draws.uniform(0.1, 0.5) * loop.images
        running.until(lambda: any(seen >= images for seen in running.checkpoints(loop.checkpoints)))
        time.sleep(draws.uniform(0.0, CHECKPOINT_SECONDS))
        return loop

    def _kill(self, killed: str, running: RunningStudy, loop: Loop | None) -> Moment:
        """Kill the part, and return how far the loop was, if the loop died with it."""
        if killed == "mlflow":
            self._tracking().kill()
            return Moment()
        if killed == "postgresql":
            self._server().kill()
            return Moment()
        if killed == "reader":
            return Moment()
        if killed == "ledger":
            Path(running.study.file.storage.ledger).unlink()
            return Moment()
        if killed == "raylet":
            raylet = running.until(lambda: running.child("raylet"))
            workers = processes_titled(WORKER, raylet)
            os.kill(raylet, signal.SIGKILL)
            while any(map(is_running, workers)):  # they take a moment to notice
                time.sleep(0.01)
            return Moment() if loop is None else running.moment_of(loop.checkpoints, loop.images)
        node, process = running.until(self._worker)
        if killed == "driver":
            running.kill()
            while any(map(self._ray.workers, self._nodes)):  # its job ends with it, on all nodes
                time.sleep(0.01)
        elif killed == "worker":
            os.kill(process, signal.SIGKILL)
        else:
            self._nodes.remove(node)
            self._ray.kill(node)
        return Moment() if loop is None else running.moment_of(loop.checkpoints, loop.images)

    def _worker(self) -> tuple[int, int] | None:
        """Return node and process id of the worker that runs a task; None while there is none."""
        return next(((node, process) for node in self._nodes for process in self._ray.workers(node)), None)

    def _compared(
        self,
        name: str,
        seed: int,
        running: RunningStudy,
        moments: Sequence[Moment],
        seconds: float,
        said: Sequence[str],
    ) -> Cell:
        found, runs = running.study.snapshot(), running.mlflow_runs()
        before, after = _results(self._whole), _results(found)
        names = [*before, *(name for name in after if name not in before)]
        differences = [
            *said,
            *running.disorder_in_mlflow(),
            *(f"{name} is not the same" for name in names if before.get(name) != after.get(name)),
        ]
        if running.returncode != 0:
            differences.append(f"the command ended with {running.returncode}")
        resumed = running.resumed_at()
        differences += [
            f"went on at {resumed}, not at its checkpoint of {moment.saved} images"
            for moment in moments
            if moment.saved and not moment.had_ended and moment.saved not in resumed
        ]
        keys = Counter(task.key for task in running.study.state().ledger.tasks())
        missing = [name for name in before if name not in after]
        lost = len(missing) + sum(key not in runs for key in (*keys, "study"))
        finished = Counter(task.key for task in found.tasks for a in task.attempts if a.end == "finished")
        doubled = sum(count - 1 for times in (keys, runs, finished) for count in times.values())
        doubled += max(0, len(found.trials) - len(self._whole.trials))
        return Cell(
            name=name,
            seed=seed,
            differences=tuple(differences),
            ends=tuple(attempt.end for task in found.tasks for attempt in task.attempts),
            output=running.output(),
            repeated_fraction=sum(moment.repeated for moment in moments) / sum(loop.images for loop in self._loops),
            intervals=max(moment.intervals for moment in moments),
            had_ended=all(moment.had_ended for moment in moments),
            lost=lost,
            doubled=doubled,
            seconds=seconds,
        )


def _unlike(expected: tuple[int, str], running: RunningStudy) -> list[str]:
    """Wait for the driver's end, and return in words where it is not the one that was expected."""
    code, words = expected
    found = running.wait()
    differences = [] if found == code else [f"the driver ended with {found}, not {code}"]
    return differences + ([] if words in running.output() else [f"it did not say: {words}"])


def _results(study: StudySnapshot) -> dict[str, Any]:
    """Return all that a study found, without times and attempts."""
    found: dict[str, Any] = {
        f"trial {trial.number}": (trial.params, trial.group, trial.key, trial.state, trial.value)
        for trial in study.trials
    }
    found |= {task.label: (task.key, task.state, task.metrics, task.rungs) for task in study.tasks}
    return found | {"the verdict": (study.finished, study.verdict)}


def _line(words: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, words))} |"


def write(cells: Sequence[Cell]) -> None:
    """Write rows into the table, instead of those of the same cells."""
    rows: dict[str, str] = {}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else []:
        words = [word.strip() for word in line.strip("|").split("|")]
        rows["/".join(words[:2])] = line
    rows |= {cell.name: cell.row() for cell in cells}
    lines = [_line(COLUMNS), "|---|---|---:|---|---:|---:|---:|---:|---:|", *(rows[c] for c in CELLS if c in rows)]
    TABLE.write_text(HEAD + "\n" + "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cells, and return 1 where one has not recovered."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--write", action="store_true", help=f"put the rows into {TABLE.relative_to(Path.cwd())}")
    options = parser.parse_args(arguments)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
        try:
            with KillMatrix(Path(folder)) as matrix:
                for name in options.only:
                    cells.append(matrix.run(name, seed=options.seed))
                    print(cells[-1].row(), flush=True)
                    if cells[-1].differences:
                        print(cells[-1].output, file=sys.stderr)
                    if options.write:
                        write(cells)
        except pytest.skip.Exception as missing:
            sys.exit(str(missing))
    return int(any(cell.differences or cell.lost or cell.doubled for cell in cells))


if __name__ == "__main__":
    sys.exit(main())

"""What every training loop shares, once: intervals, metrics, the finite flag, checkpoints, resume and stopping.

A loop knows its position only as images seen. It waits for the device at most once per logging interval, where it
reads the metrics and the finite flag together; random numbers come from `hidfd.streams`, so a checkpoint needs none.

On several processes all run the same loop, step by step, and hold the same state. The first one measures, tells the
observer, decides and writes; the others learn of its decisions at the same step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hidfd.checkpoints import Checkpoints
from hidfd.errors import DivergedError, Stopped
from hidfd.processes import ALONE, Processes
from hidfd.progress import Observer
from hidfd.stages import Stage

LOOPS = ("teacher", "generation", "distillation")
"""Stages that train, and write checkpoints."""

SKIPPED = "skipped_steps"
"""Metric of the finite flag: optimiser steps that were skipped on the device."""

POLL_SECONDS = 0.5
"""Between two questions whether to stop."""

LEAVING, LEAVING_SAVES_SECONDS = "HIDFD_LEAVING", 5.0
"""Environment variable with the path of a file that stands as soon as this machine is about to go (a Kubernetes pod's
preStop makes it), and how often is saved from then on."""

LEAVING_HOLDS_SECONDS = 3600.0
"""A container that is started again finds the file of its last end."""

MAX_STEPS_BETWEEN_POLLS = 100
"""On several processes, which count steps between two questions: steps may become slower than the last ones were."""


class Task(Protocol):
    """What is trained. `step` may not wait for the device."""

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """One optimiser step on the batch after `images_seen`; returns detached scalars, `SKIPPED` among them.

        On several processes each returns the means over its own images.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, numbers, and containers of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""


@dataclass(frozen=True)
class Milestone:
    """Something to do when a number of images is reached: measure, draw a grid.

    Attributes:
        action: called with the images seen; what it returns becomes a row of metrics.
        every_images: at each multiple, and at the end.
        at_images: at exactly these (the first step that reaches them).
    """

    action: Callable[[int], dict[str, float]]
    every_images: int | None = None
    at_images: tuple[int, ...] = ()

    def is_due(self, before: int, now: int, target: int) -> bool:
        if self.every_images and (now // self.every_images > before // self.every_images or now >= target):
            return True
        return any(before < images <= now for images in self.at_images)


@dataclass(frozen=True)
class Schedule:
    """Budget and intervals of a loop, in images and seconds.

    Attributes:
        is_continued: nothing of a step depends on the target, so a longer run goes on from where this one ends.
    """

    target_images: int
    step_images: int
    log_every_images: int
    checkpoint_every_seconds: float
    is_continued: bool = False

    @property
    def end_images(self) -> int:
        """Images seen after the last step."""
        return -(-self.target_images // self.step_images) * self.step_images


@dataclass
class History:
    """What a loop has measured.

    Attributes:
        rows: one dict per logging interval or milestone: `images`, `seconds` and metrics named `stage/metric`.
        seconds: of training, over all attempts that led here.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def run_loop(
    task: Task,
    stage: Stage,
    schedule: Schedule,
    checkpoints: Checkpoints,
    observer: Observer,
    milestones: Iterable[Milestone] = (),
    on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    processes: Processes = ALONE,
) -> History:
    """Train until the target, from the newest checkpoint if there is one; `on_resume` hears its rows so far.

    Raises:
        Stopped: the observer asked for it; a checkpoint was written first.
        DivergedError: a loss or a gradient was not finite; says which, and where.
    """
    history, sums, steps, images = History(), dict[str, Tensor](), 0, 0
    newest = processes.from_first(lambda: checkpoints.latest(schedule.end_images))
    if newest is not None:
        images = newest.images
        state = _read_state(newest.folder if processes.is_first else checkpoints.seen_here(newest))
        task.load_state_dict(state["task"])
        history = History(state["rows"], state["seconds"])
        sums, steps = state["sums"], state["steps"]
        observer.note(f"{stage.role}: resuming at {images:,} of {schedule.target_images:,} images")
        on_resume(history.rows)
    observer.stage_started(stage, schedule.target_images, images)

    def save(*, is_end: bool = False) -> None:
        state = {
            "task": task.state_dict(),
            "rows": history.rows,
            "seconds": history.seconds + time.monotonic() - started,
            "sums": sums,
            "steps": steps,
        }
        processes.from_first(
            lambda: checkpoints.save(images, lambda folder: _write_state(folder, state), is_end=is_end)
        )

    def measure() -> None:
        """After a step: what the intervals and the end ask for."""
        nonlocal sums, steps
        before, done = images - schedule.step_images, images >= schedule.target_images
        if done or images // schedule.log_every_images > before // schedule.log_every_images:
            row = _read(stage.name, sums, steps, images)
            sums, steps = {}, 0
            row["seconds"] = round(history.seconds + time.monotonic() - started, 3)
            history.rows.append(row)
            observer.advanced(stage, min(images, schedule.target_images), schedule.target_images, row)
        for milestone in milestones:
            if milestone.is_due(before, images, schedule.target_images):
                measured = processes.from_first(partial(milestone.action, images))
                if measured:
                    history.rows.append({"images": images, **measured})

    watch = _Watch(observer, schedule.checkpoint_every_seconds, processes)
    started = watch.saved_at
    if newest is not None and newest.is_end:
        measure()
    while images < schedule.target_images:
        metrics = _global_means(task.step(images), processes)
        images += schedule.step_images
        steps += 1
        for name, value in metrics.items():
            sums[name] = sums[name] + value if name in sums else value
        done = images >= schedule.target_images
        if done and schedule.is_continued:
            save(is_end=True)
        measure()
        if not done:
            reason, must_save = watch.look()
            if must_save:
                save()
                watch.saved_at = time.monotonic()
            if reason is not None:
                raise Stopped(
                    f"{stage.role}: stopped at {images:,} of {schedule.target_images:,} images ({reason}); "
                    f"saved up to there, nothing is lost: the same command goes on"
                )
    history.seconds += time.monotonic() - started
    return history


class _Watch:
    """Whether to stop, and whether to save: by the observer and the clock of the first process.

    All processes must learn of it at the same step. So on several of them the first also says after how many steps
    they ask again, as many as took `POLL_SECONDS` before.
    """

    def __init__(self, observer: Observer, save_every_seconds: float, processes: Processes) -> None:
        self.saved_at = self._polled_at = time.monotonic()
        self._observer, self._save_every_seconds, self._processes = observer, save_every_seconds, processes
        self._steps, self._steps_between = 0, 1
        self._leaving = os.environ.get(LEAVING)

    def look(self) -> tuple[str | None, bool]:
        """After a step: a reason to stop, and whether to save before anything else."""
        if self._processes.is_alone:
            now = time.monotonic()
            return self._decide(now, ask=now - self._polled_at >= POLL_SECONDS)
        self._steps += 1
        if self._steps < self._steps_between:
            return None, False
        reason, must_save, self._steps_between = self._processes.from_first(self._decide_for_all)
        self._steps = 0
        return reason, must_save

    def _decide(self, now: float, *, ask: bool) -> tuple[str | None, bool]:
        reason = None
        if ask:
            self._polled_at = now
            reason = self._observer.should_stop()
            if self._leaving is not None and _is_recent(Path(self._leaving)):
                self._save_every_seconds = min(self._save_every_seconds, LEAVING_SAVES_SECONDS)
        return reason, reason is not None or now - self.saved_at >= self._save_every_seconds

    def _decide_for_all(self) -> tuple[str | None, bool, int]:
        now = time.monotonic()
        steps = int(self._steps * POLL_SECONDS / max(now - self._polled_at, 1e-6))
        return *self._decide(now, ask=True), min(max(steps, 1), MAX_STEPS_BETWEEN_POLLS)


def _is_recent(file: Path) -> bool:
    """A file that a machine left when it went the last time says nothing."""
    try:
        return time.time() - file.stat().st_mtime < LEAVING_HOLDS_SECONDS
    except FileNotFoundError:
        return False


def apply_gradients(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], processes: Processes = ALONE) -> Tensor:
    """One optimiser step, skipped on the device when a loss or a gradient is not finite.

    On several processes gradients and losses are averaged first, so that all of them take or skip the same step: a
    mean with a part that is not finite is not finite either.

    Args:
        optimizer: a fused torch optimiser, which takes `found_inf`.
        losses: scalars that must be finite too.
        processes: each with the gradients of its own losses, of the same parameters.

    Returns:
        Scalar on the device: 1 where the step was skipped, else 0.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    values = torch.stack([loss.detach().float() for loss in losses])
    processes.average([*gradients, values])
    norm = torch.nn.utils.get_total_norm(gradients)
    found = ~torch.isfinite(torch.cat([norm.detach().view(1), values])).all()
    found_inf = found.float()
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # the hook that GradScaler uses
    optimizer.step()
    return found_inf


def _global_means(metrics: dict[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """Over the images of all processes, so that each has the same sums: a checkpoint of one is a checkpoint of all."""
    if processes.is_alone:
        return metrics
    means = processes.mean(torch.stack([value.float() for value in metrics.values()]))
    return dict(zip(metrics, means.unbind(), strict=True))


def _read(stage: str, sums: dict[str, Tensor], steps: int, images: int) -> dict[str, float]:
    """The interval's means, read in one copy from the device; refuses a non-finite one."""
    names = list(sums)
    values = torch.stack([sums[name].float() for name in names]).tolist()
    row = {f"{stage}/{name}": value / steps for name, value in zip(names, values, strict=True)}
    skipped = round(row.pop(f"{stage}/{SKIPPED}", 0.0) * steps)
    if skipped:
        bad = [name for name, value in row.items() if value != value or abs(value) == float("inf")]
        raise DivergedError(
            f"{stage}: a loss or a gradient was not finite in {skipped} of the {steps} steps before "
            f"{images:,} images ({', '.join(bad) or 'gradients only'}); "
            f"lower its learning rate or its weights. Earlier artifacts are intact"
        )
    return {"images": images, **row}


def rows_so_far(checkpoints: Checkpoints, target_images: int | None = None) -> list[dict[str, float]]:
    """What an unfinished loop, of that length, had measured when it last saved."""
    newest = checkpoints.latest(target_images)
    rows: list[dict[str, float]] = [] if newest is None else _read_state(newest.folder)["rows"]
    return rows


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    torch.save(state, folder / "state.pt")

"""What every training loop shares, once: intervals, metrics, the finite flag, checkpoints, resume and stopping.

A loop knows its position only as images seen. It waits for the device at most once per logging interval, where it reads
the metrics and the finite flag together; random numbers come from `hidfd.distributed.random_streams`, so a checkpoint
needs none.

On several processes all run the same loop, step by step, and hold the same state. The first one measures, tells the
observer, decides and writes; the others learn of its decisions at the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hidfd.distributed.process_group import ALONE, ProcessGroup
from hidfd.errors import DivergedError, Stopped
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.checkpoints import Checkpoints
from hidfd.training.stopping import (
    Interruptions,
)

LOOPS = ("teacher", "generation", "distillation")
"""Stages that train, and write checkpoints."""

SKIPPED = "skipped_steps"
"""Metric of the finite flag: optimiser steps that were skipped on the device."""


class Training(Protocol):
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
    task: Training,
    stage: Stage,
    schedule: Schedule,
    checkpoints: Checkpoints,
    observer: Observer,
    milestones: Iterable[Milestone] = (),
    on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    processes: ProcessGroup = ALONE,
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

    watch = Interruptions(observer, schedule.checkpoint_every_seconds, processes)
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


def _global_means(metrics: dict[str, Tensor], processes: ProcessGroup) -> dict[str, Tensor]:
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

"""What every training loop shares, once: intervals, metrics, the finite flag, checkpoints, resume and stopping.

A loop knows its position only as images seen. It waits for the device at most once per logging interval, where it
reads the metrics and the finite flag together; random numbers come from `hidfd.streams`, so a checkpoint needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hidfd.checkpoints import Checkpoints
from hidfd.errors import DivergedError, Stopped
from hidfd.progress import Observer
from hidfd.stages import Stage

LOOPS = ("teacher", "generation", "distillation")
"""Stages that train, and write checkpoints."""

SKIPPED = "skipped_steps"
"""Metric of the finite flag: optimiser steps that were skipped on the device."""


class Task(Protocol):
    """What is trained. `step` may not wait for the device."""

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """One optimiser step on the batch after `images_seen`; returns detached scalars, `SKIPPED` among them."""

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
    """Budget and intervals of a loop, in images and seconds."""

    target_images: int
    step_images: int
    log_every_images: int
    checkpoint_every_seconds: float


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
) -> History:
    """Train until the target, from the newest checkpoint if there is one; `on_resume` hears its rows so far.

    Raises:
        Stopped: the observer asked for it; a checkpoint was written first.
        DivergedError: a loss or a gradient was not finite; says which, and where.
    """
    history, sums, steps, images = History(), dict[str, Tensor](), 0, 0
    newest = checkpoints.latest()
    if newest is not None:
        images, folder = newest
        state = _read_state(folder)
        task.load_state_dict(state["task"])
        history = History(state["rows"], state["seconds"])
        sums, steps = state["sums"], state["steps"]
        observer.note(f"{stage.role}: resuming at {images:,} of {schedule.target_images:,} images")
        on_resume(history.rows)
    observer.stage_started(stage, schedule.target_images, images)

    def save() -> None:
        state = {
            "task": task.state_dict(),
            "rows": history.rows,
            "seconds": history.seconds + time.monotonic() - started,
            "sums": sums,
            "steps": steps,
        }
        checkpoints.save(images, lambda folder: _write_state(folder, state))

    started = saved_at = polled_at = time.monotonic()
    while images < schedule.target_images:
        metrics = task.step(images)
        before, images = images, images + schedule.step_images
        steps += 1
        for name, value in metrics.items():
            sums[name] = sums[name] + value if name in sums else value
        done = images >= schedule.target_images

        if done or images // schedule.log_every_images > before // schedule.log_every_images:
            row = _read(stage.name, sums, steps, images)
            sums, steps = {}, 0
            row["seconds"] = round(history.seconds + time.monotonic() - started, 3)
            history.rows.append(row)
            observer.advanced(stage, min(images, schedule.target_images), schedule.target_images, row)
        for milestone in milestones:
            if milestone.is_due(before, images, schedule.target_images):
                measured = milestone.action(images)
                if measured:
                    history.rows.append({"images": images, **measured})

        now = time.monotonic()
        if not done and now - polled_at >= 0.5:
            polled_at = now
            reason = observer.should_stop()
            if reason is not None:
                save()
                raise Stopped(
                    f"{stage.role}: stopped at {images:,} of {schedule.target_images:,} images ({reason}); "
                    f"saved up to there, nothing is lost: the same command goes on"
                )
        if not done and now - saved_at >= schedule.checkpoint_every_seconds:
            save()
            saved_at = time.monotonic()
    history.seconds += time.monotonic() - started
    return history


def apply_gradients(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor]) -> Tensor:
    """One optimiser step, skipped on the device when a loss or a gradient is not finite.

    Args:
        optimizer: a fused torch optimiser, which takes `found_inf`.
        losses: scalars that must be finite too.

    Returns:
        Scalar on the device: 1 where the step was skipped, else 0.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    found = ~torch.isfinite(torch.stack([norm.detach(), *(loss.detach().float() for loss in losses)])).all()
    found_inf = found.float()
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # the hook that GradScaler uses
    optimizer.step()
    return found_inf


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


def rows_so_far(checkpoints: Checkpoints) -> list[dict[str, float]]:
    """What an unfinished loop had measured when it last saved."""
    newest = checkpoints.latest()
    rows: list[dict[str, float]] = [] if newest is None else _read_state(newest[1])["rows"]
    return rows


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    torch.save(state, folder / "state.pt")

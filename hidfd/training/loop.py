"""The training loop: intervals, metrics, the finite flag, checkpoints, resuming and stopping.

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
from hidfd.store.artifacts import reading
from hidfd.store.checkpoints import Checkpoints
from hidfd.training.stopping import Interruptions

LOOPS = ("teacher", "generation", "distillation")
"""Names of the stages that train and write checkpoints."""

SKIPPED = "skipped_steps"
"""Name of the metric that counts optimiser steps that were skipped on the device."""


class Training(Protocol):
    """The networks and optimisers that a loop trains. `step` must not wait for the device."""

    def step(self, images_seen: int) -> dict[str, Tensor]:
        """Take one optimiser step on the batch after `images_seen`; return detached scalars, `SKIPPED` among them.

        A metric that only some steps return has its mean over those.

        On several processes each returns the means over its own images.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: tensors, numbers, and containers of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class Milestone:
    """An action at given numbers of images: measure, draw a grid.

    Attributes:
        action: called with the images seen; returns a row of metrics, empty for none.
        every_images: due at each multiple, and at the end.
        at_images: due at these too, each at the first step that reaches it.
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
    """The length and the intervals of a loop, in images and seconds.

    Attributes:
        target_images: images after which the loop ends.
        step_images: images that one step sees.
        log_every_images: images between two rows of metrics.
        checkpoint_every_seconds: seconds between two checkpoints.
        is_continued: whether a longer run continues from the end of this one; so no step may depend on the target.
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
    """The measurements of a loop.

    Attributes:
        rows: one dict per logging interval or milestone: `images`, `unix_time` (when it was measured), metrics named
            `stage/metric` and, of an interval, `seconds` of training.
        seconds: time of training, over all attempts that led here.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def run_loop(
    training: Training,
    stage: Stage,
    schedule: Schedule,
    checkpoints: Checkpoints,
    observer: Observer,
    milestones: Iterable[Milestone] = (),
    on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    processes: ProcessGroup = ALONE,
) -> History:
    """Train until the target, from the newest checkpoint if there is one.

    Args:
        milestones: actions of the first process at given numbers of images.
        on_resume: called with the rows of the checkpoint that the loop resumes from.
        processes: the processes that train together.

    Raises:
        Stopped: the observer asked for it; a checkpoint was written first.
        DivergedError: a loss or a gradient was not finite; says which, and where.
    """
    history, sums, steps, images = History(), dict[str, Tensor](), dict[str, int](), 0
    newest = processes.from_first(lambda: checkpoints.latest(schedule.end_images))
    if newest is not None:
        images = newest.images
        state = _read_state(newest.folder if processes.is_first else checkpoints.seen_here(newest))
        training.load_state_dict(state["task"])
        history = History(state["rows"], state["seconds"])
        sums, steps = state["sums"], state["steps"]
        if isinstance(steps, int):  # of earlier versions, in which every step returned every metric
            steps = dict.fromkeys(sums, steps)
        observer.note(f"{stage.role}: resuming at {images:,} of {schedule.target_images:,} images")
        on_resume(history.rows)
    observer.stage_started(stage, schedule.target_images, images)
    observer.training_began(stage, history.rows)

    def save(*, is_end: bool = False) -> None:
        state = {
            "task": training.state_dict(),  # the key of earlier versions, whose checkpoints stay readable
            "rows": history.rows,
            "seconds": history.seconds + time.monotonic() - started,
            "sums": sums,
            "steps": steps,
        }
        processes.from_first(
            lambda: checkpoints.save(images, lambda folder: _write_state(folder, state), is_end=is_end)
        )

    def record(row: dict[str, float]) -> None:
        row["unix_time"] = round(time.time(), 3)
        history.rows.append(row)
        observer.logged(stage, row)

    def measure() -> None:
        """Log and run the milestones that are due after the step that was just taken."""
        nonlocal sums, steps
        before, done = images - schedule.step_images, images >= schedule.target_images
        if done or images // schedule.log_every_images > before // schedule.log_every_images:
            row = _interval_row(stage.name, sums, steps, images)
            sums, steps = {}, {}
            row["seconds"] = round(history.seconds + time.monotonic() - started, 3)
            record(row)
            observer.advanced(stage, min(images, schedule.target_images), schedule.target_images, row)
        for milestone in milestones:
            if milestone.is_due(before, images, schedule.target_images):
                measured = processes.from_first(partial(milestone.action, images))
                if measured:
                    record({"images": images, **measured})

    interruptions = Interruptions(observer, schedule.checkpoint_every_seconds, processes)
    started = interruptions.saved_at
    if newest is not None and newest.is_end:
        measure()
    while images < schedule.target_images:
        metrics = _global_means(training.step(images), processes)
        images += schedule.step_images
        for name, value in metrics.items():
            sums[name] = sums[name] + value if name in sums else value
            steps[name] = steps.get(name, 0) + 1
        done = images >= schedule.target_images
        if done and schedule.is_continued:
            save(is_end=True)
        measure()
        if not done:
            reason, must_save = interruptions.poll()
            if must_save:
                save()
                interruptions.saved_at = time.monotonic()
            if reason is not None:
                raise Stopped(
                    f"{stage.role}: stopped at {images:,} of {schedule.target_images:,} images ({reason}); "
                    f"saved up to there, nothing is lost: the same command goes on"
                )
    history.seconds += time.monotonic() - started
    return history


def _global_means(metrics: dict[str, Tensor], processes: ProcessGroup) -> dict[str, Tensor]:
    """Return means over the images of all processes: each has the same sums then, and one checkpoint serves all."""
    if processes.is_alone:
        return metrics
    means = processes.mean(torch.stack([value.float() for value in metrics.values()]))
    return dict(zip(metrics, means.unbind(), strict=True))


def _interval_row(stage: str, sums: dict[str, Tensor], steps: dict[str, int], images: int) -> dict[str, float]:
    """Read the interval's means in one copy from the device; refuse an interval with a step that was not finite.

    Args:
        steps: metric -> how many steps returned it.
    """
    names = list(sums)
    values = torch.stack([sums[name].float() for name in names]).tolist()
    row = {f"{stage}/{name}": value / steps[name] for name, value in zip(names, values, strict=True)}
    taken = steps.get(SKIPPED, 0)
    skipped = round(row.pop(f"{stage}/{SKIPPED}", 0.0) * taken)
    if skipped:
        bad = [name for name, value in row.items() if value != value or abs(value) == float("inf")]
        raise DivergedError(
            f"{stage}: a loss or a gradient was not finite in {skipped} of the {taken} steps before "
            f"{images:,} images ({', '.join(bad) or 'gradients only'}); "
            f"lower its learning rate or its weights. Earlier artifacts are intact"
        )
    return {"images": images, **row}


def rows_so_far(checkpoints: Checkpoints, target_images: int | None = None) -> list[dict[str, float]]:
    """Return the rows of an unfinished loop up to its newest checkpoint.

    Args:
        target_images: the length of the loop; None where its checkpoints belong to one length alone.
    """
    newest = checkpoints.latest(target_images)
    rows: list[dict[str, float]] = [] if newest is None else _read_state(newest.folder)["rows"]
    return rows


def _read_state(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises:
        StoreError: it holds something else, which its manifest says is what was written.
    """
    with reading(str(folder / "state.pt"), str(folder.parent)):
        state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        if missing := {"task", "rows", "seconds", "sums", "steps"}.difference(state):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return state


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    torch.save(state, folder / "state.pt")

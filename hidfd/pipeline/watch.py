"""Long parts of a stage that have no checkpoints: they tell of every batch, and may be stopped after it. Torch-free.

What works through many images calls `images_done` after each batch, wherever it lies; the stage that it works for
says with `watched` who is told. So a network that is asked about a pool needs to know nothing of observers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hidfd.errors import Stopped
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer

_told: ContextVar[Callable[[int], None] | None] = ContextVar("told", default=None)


def images_done(count: int) -> None:
    """Tell whoever watches that a batch of images is done; 0 where something else took its time.

    Raises:
        Stopped: the observer asked for it.
    """
    told = _told.get()
    if told is not None:
        told(count)


@contextmanager
def watched(observer: Observer, stage: Stage, total: int | None, doing: str) -> Iterator[None]:
    """Report the batches that are done inside the block as the progress of a stage, and stop between two of them.

    Args:
        total: images that the block works through; None where they are no progress of the stage, which has not begun.
        doing: what is stopped, for the message.
    """
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if total is not None and count:
            observer.advanced(stage, min(done, total), total, {})
        reason = None if done == total else observer.should_stop()
        if reason is not None:
            far = f" at {done:,} of {total:,} images" if total else ""
            raise Stopped(f"{doing}: stopped{far} ({reason}); it starts anew, and what was built before is kept")

    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)

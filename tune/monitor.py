"""What happens beside a running study: it is shown, projected, kept from `store remove`, and may be stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from hidfd.pipeline.graph import Stage, kept_digests
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.snapshot import StudySnapshot
from tune.tracking.background import Projection

LOOK_EVERY_SECONDS = 2.0
"""How often a driver looks for requests in its ledger."""

SHOW_EVERY_SECONDS = 1.0
"""How often a running study is shown anew."""


def current(planner: Planner) -> StudySnapshot:
    """Where a study stands that this process drives."""
    return snapshot_of(planner.state, planner.running, planner.notes, planner.stopping)


class Watch:
    """Called whenever there may be something new; does each thing as seldom as it has to."""

    def __init__(
        self,
        planner: Planner,
        store: Store,
        holder: str | None,
        projection: Projection,
        observer: Observer,
        show: Callable[[StudySnapshot], None],
    ) -> None:
        """Shows and tells nothing yet.

        Args:
            planner: of the study.
            store: where its artifacts stand.
            holder: this driver, as requests name it.
            projection: to MLflow.
            observer: its `stop_reason` stops the study.
            show: called with what stands.
        """
        self._planner, self._store, self._projection = planner, store, projection
        self._observer, self._show, self._holder = observer, show, holder
        self._shown = self._looked = 0.0
        self._referenced: set[str] = set()  # keys of works
        self._digests: set[str] = set()

    def __call__(self) -> None:
        if self._observer.stop_reason is not None:
            self._planner.drain(self._observer.stop_reason)
        now = time.monotonic()
        if now - self._shown < SHOW_EVERY_SECONDS:
            return
        self._shown = now
        self.hear_requests()
        self.refer()
        snapshot = current(self._planner)
        self._show(snapshot)
        self._projection.offer(snapshot)

    def hear_requests(self) -> None:
        """`tune stop` from another terminal is what Ctrl-C is in this one; what an earlier driver was asked is past."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_SECONDS:
            return
        self._looked = now
        requests = [asked for asked in self._planner.state.ledger.requests().values() if asked["to"] == self._holder]
        if requests and self._observer.stop_reason is None:
            self._observer.stop_reason = f"`tune stop` by {requests[0]['by']}"
            self._observer.note(f"{self._observer.stop_reason}: saving, then stopping")
        if any(asked["now"] for asked in requests):
            os.kill(os.getpid(), signal.SIGTERM)  # the second signal, which ends the process at once

    def refer(self) -> None:
        """All that the study needs, before it is built, so that `store remove` beside a running study leaves it."""
        definition, tasks = self._planner.state.definition, self._planner.state.tasks
        new = tasks.keys() - self._referenced
        if new or not self._digests:
            configs = [definition.base, *(tasks[key].spec.config for key in new)]
            self._digests.update(digest for config in configs for digest in kept_digests(config))
            self._store.write_references(definition.name, self._digests)
            self._referenced |= new


class Importing(Observer):
    """The observer of an import, during which nobody else looks for requests."""

    def __init__(self, observer: Observer, look: Callable[[], None]) -> None:
        self._observer, self._look = observer, look

    def stage_started(self, stage: Stage, target_images: int | None, images_seen: int = 0) -> None:
        self._observer.stage_started(stage, target_images, images_seen)

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        self._observer.advanced(stage, images, target_images, metrics)

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        self._observer.stage_finished(stage, seconds)

    def note(self, text: str) -> None:
        self._observer.note(text)

    def should_stop(self) -> str | None:
        self._look()
        return self._observer.should_stop()

"""The monitor of a running study: shows it, sends it to MLflow, and reads requests to stop it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from hidfd.pipeline.graph import kept_digests
from hidfd.pipeline.observer import ForwardingObserver, Observer
from hidfd.store.store import Store
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.snapshot import StudySnapshot
from tune.tracking.background import BackgroundTracker

READ_REQUESTS_EVERY_SECONDS = 2.0
"""Seconds after which a driver reads the requests in its ledger again."""

SHOW_EVERY_SECONDS = 1.0
"""Seconds after which a new snapshot of a running study is shown."""


def live_snapshot(planner: Planner) -> StudySnapshot:
    """Return the snapshot of a study that this process drives."""
    return snapshot_of(planner.state, planner.running, planner.notes, planner.stopping)


class StudyMonitor:
    """The monitor that an engine calls as its `on_change`; it limits how often it shows, reads and writes."""

    def __init__(
        self,
        planner: Planner,
        store: Store,
        holder: str | None,
        projection: BackgroundTracker,
        observer: Observer,
        show: Callable[[StudySnapshot], None],
        owner: Mapping[str, Any] | None = None,
    ) -> None:
        """Build a monitor that has shown nothing yet.

        Args:
            planner: of the study.
            store: of its artifacts.
            holder: this driver, as requests name it.
            projection: to MLflow.
            observer: its `stop_reason` stops the study.
            show: called with a new snapshot.
            owner: of the study's references in the store; see `tune.ownership`.
        """
        self._owner = owner
        self._planner, self._store, self._projection = planner, store, projection
        self._observer, self._show, self._holder = observer, show, holder
        self._shown_at = self._read_at = 0.0
        self._referenced: set[str] = set()  # keys of tasks
        self._digests: set[str] = set()  # of all that the study needs, as written into the store

    def __call__(self) -> None:
        """Stop the study where the observer asks for it, and do what is due."""
        if self._observer.stop_reason is not None:
            self._planner.drain(self._observer.stop_reason)
        self.write_references()  # however soon the next task ends
        now = time.monotonic()
        if now - self._shown_at < SHOW_EVERY_SECONDS:
            return
        self._shown_at = now
        self.read_requests()
        snapshot = live_snapshot(self._planner)
        self._show(snapshot)
        self._projection.offer(snapshot, self._planner.take_rows())

    def read_requests(self) -> None:
        """Stop the study where `tune stop` has asked this driver for it, as after Ctrl-C.

        Requests to an earlier driver are ignored.
        """
        now = time.monotonic()
        if now - self._read_at < READ_REQUESTS_EVERY_SECONDS:
            return
        self._read_at = now
        requests = [
            request for request in self._planner.state.ledger.requests().values() if request["to"] == self._holder
        ]
        if requests and self._observer.stop_reason is None:
            self._observer.stop_reason = f"`tune stop` by {requests[0]['by']}"
            self._observer.note(f"{self._observer.stop_reason}: saving, then stopping")
        if any(request["now"] for request in requests):
            os.kill(os.getpid(), signal.SIGTERM)  # the second signal, which ends the process at once

    def write_references(self) -> None:
        """Write into the store which artifacts the study needs, before they are built.

        `store remove` leaves these, even while the study runs.
        """
        definition, tasks = self._planner.state.definition, self._planner.state.tasks
        if len(tasks) > len(self._referenced) or not self._digests:
            new = tasks.keys() - self._referenced
            configs = [definition.base, *(tasks[key].spec.config for key in new)]
            self._digests.update(digest for config in configs for digest in kept_digests(config))
            self._store.write_references(definition.name, self._digests, self._owner)
            self._referenced |= new


class ImportObserver(ForwardingObserver):
    """An observer of the import that also reads requests, since no engine calls the monitor yet."""

    def __init__(self, observer: Observer, read_requests: Callable[[], None]) -> None:
        super().__init__(observer)
        self._read_requests = read_requests

    def should_stop(self) -> str | None:
        self._read_requests()
        return super().should_stop()

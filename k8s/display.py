"""A watched job in the terminal: a live table where there is one, else plain lines of what has changed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from k8s.job.watch import JobSnapshot
from k8s.preflight.check import Check, CheckStatus

STYLES = {CheckStatus.PASS: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red"}

LINE_EVERY_SECONDS = 60.0
"""Between two plain lines of which only numbers differ."""


class JobDisplay:
    """Shows one view after another; for a `with`.

    Args:
        stream: default standard output.
        as_json: a line for each change instead of text.
    """

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self._as_json = as_json
        self._said: dict[str, str] = {}
        self._said_progress = -LINE_EVERY_SECONDS
        self._live: Live | None = None
        if self._console.is_terminal and not as_json:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> JobDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: JobSnapshot) -> None:
        """What has changed since the last one, and what stands."""
        if self._as_json:
            self._show_json(view)
            return
        for pod, line in view.lines:
            self._console.print(f"{pod}: {line}")
        self._tell("job", str(view.state))
        self._tell("away", f"{view.away}; asking again" if view.away else "")
        self._tell("queue", view.queued or "")
        for trouble in view.troubles:
            self._tell(trouble, trouble)
        for name, words in view.progress.cut_off.items():
            self._tell(f"{name} cut off", f"{name} {words}")
        if self._live is not None:
            self._live.update(job_table(view))
        elif time.monotonic() - self._said_progress >= LINE_EVERY_SECONDS and self._tell(
            "study", view.progress.words()
        ):
            self._said_progress = time.monotonic()

    def _tell(self, about: str, words: str) -> bool:
        """Whether it was new."""
        if self._said.get(about, "") == words:
            return False
        self._said[about] = words
        if words:
            now = datetime.now().astimezone().strftime("%H:%M:%S")
            self._console.print(f"{now}  {words}")
        return True

    def _show_json(self, view: JobSnapshot) -> None:
        document = to_json(view)
        text = json.dumps(document)
        if self._said.get("json") != text or view.lines:
            self._said["json"] = text
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            lines = [{"pod": pod, "line": line} for pod, line in view.lines]
            print(json.dumps({"time": now, **document, "lines": lines}), file=self._console.file, flush=True)


def to_json(view: JobSnapshot) -> dict[str, Any]:
    """Plain JSON of a view, but for its log lines."""
    progress, state = view.progress, view.state
    return {
        "job": view.name,
        "deployment_status": state.deployment,
        "job_status": state.job,
        "tries": state.tries,
        "most_tries": state.most_tries,
        "ray_cluster": state.cluster,
        "ended": state.has_ended,
        "succeeded": state.has_succeeded,
        "num_trials": progress.num_students,
        "num_trials_ended": progress.num_ended,
        "best": progress.best,
        "best_trial": progress.best_trial,
        "spent": progress.spent,
        "limits": progress.limits,
        "verdict": progress.verdict,
        "running": progress.running,
        "cut_off": progress.cut_off,
        "queued": view.queued,
        "troubles": list(view.troubles),
        "away": view.away,
    }


def checks_table(checks: Sequence[Check]) -> Table:
    """Preflight's findings."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        words = check.found + (f"\n-> {check.todo}" if check.todo else "")
        table.add_row(check.status.value, check.name, words, style=STYLES[check.status])
    return table


def job_table(view: JobSnapshot) -> Table:
    """One view of a job."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("job", f"{view.name}: {view.state}")
    if view.queued:
        table.add_row("queue", view.queued, style="yellow")
    table.add_row("Ray cluster", view.state.cluster or "-")
    table.add_row("study", view.progress.words() or "not started")
    for name, words in sorted(view.progress.running.items()):
        table.add_row(f"  {name}", words)
    for name, words in sorted(view.progress.cut_off.items()):
        if name not in view.progress.running:
            table.add_row(f"  {name}", words, style="yellow")
    for trouble in view.troubles:
        table.add_row("pod", trouble, style="yellow")
    if view.away:
        table.add_row("API server", view.away, style="red")
    return table

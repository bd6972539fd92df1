"""A watched job: a live table on a terminal, elsewhere plain lines of what has changed, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console

from hidfd.live_display import LiveDisplay
from hidfd.text_table import TextColumn, TextTable
from k8s.job.watch import JobSnapshot
from k8s.preflight.check import Check, CheckStatus

STYLES = {CheckStatus.PASS: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red"}

LINE_EVERY_SECONDS = 60.0
"""Shortest time between two plain lines on the progress of the study, which differ in numbers only."""


class JobDisplay(LiveDisplay):
    """The state of a job, snapshot after snapshot; used by `with`.

    Args:
        stream: where to write; default standard output.
        as_json: whether to print a JSON line for each change instead of text.
    """

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        console = Console(file=stream or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        super().__init__(console, is_live=console.is_terminal and not as_json)
        self._as_json = as_json
        self._printed: dict[str, str] = {}
        self._progress_printed_at = -LINE_EVERY_SECONDS

    def show(self, snapshot: JobSnapshot) -> None:
        """Print what has changed since the snapshot before, and draw the table."""
        if self._as_json:
            self._show_json(snapshot)
            return
        for pod, line in snapshot.lines:
            self._console.print(f"{pod}: {line}")
        self._print_news("job", str(snapshot.state))
        self._print_news("away", f"{snapshot.away}; asking again" if snapshot.away else "")
        self._print_news("queue", snapshot.queued or "")
        for trouble in snapshot.troubles:
            self._print_news(trouble, trouble)
        for name, words in snapshot.progress.cut_off.items():
            self._print_news(f"{name} cut off", f"{name} {words}")
        if self.is_live:
            self.draw(job_table(snapshot))
            return
        is_due = time.monotonic() - self._progress_printed_at >= LINE_EVERY_SECONDS
        if is_due and self._print_news("study", snapshot.progress.words()):
            self._progress_printed_at = time.monotonic()

    def _print_news(self, subject: str, words: str) -> bool:
        """Print a line on a subject unless the line before on it was the same; return whether it was another one."""
        if self._printed.get(subject, "") == words:
            return False
        self._printed[subject] = words
        if words:
            now = datetime.now().astimezone().strftime("%H:%M:%S")
            self._console.print(f"{now}  {words}")
        return True

    def _show_json(self, snapshot: JobSnapshot) -> None:
        document = to_json(snapshot)
        text = json.dumps(document)
        if self._printed.get("json") != text or snapshot.lines:
            self._printed["json"] = text
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            lines = [{"pod": pod, "line": line} for pod, line in snapshot.lines]
            print(json.dumps({"time": now, **document, "lines": lines}), file=self._console.file, flush=True)


def to_json(snapshot: JobSnapshot) -> dict[str, Any]:
    """Return a snapshot as plain JSON, without its log lines."""
    progress, state = snapshot.progress, snapshot.state
    return {
        "job": snapshot.name,
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
        "queued": snapshot.queued,
        "troubles": list(snapshot.troubles),
        "away": snapshot.away,
    }


def checks_table(checks: Sequence[Check]) -> TextTable:
    """Return the findings of a preflight as a table."""
    columns = [TextColumn(""), TextColumn(""), TextColumn("", 1, wraps=True)]
    table = TextTable(columns, has_rule=False, has_headings=False)
    for check in checks:
        words = check.found + (f"\n-> {check.todo}" if check.todo else "")
        table.add_row(check.status.value, check.name, words, style=STYLES[check.status])
    return table


def job_table(snapshot: JobSnapshot) -> TextTable:
    """Return one snapshot of a job as a table."""
    table = TextTable([TextColumn(""), TextColumn("", 1, wraps=True)], has_rule=False, has_headings=False)
    table.add_row("job", f"{snapshot.name}: {snapshot.state}")
    if snapshot.queued:
        table.add_row("queue", snapshot.queued, style="yellow")
    table.add_row("Ray cluster", snapshot.state.cluster or "-")
    table.add_row("study", snapshot.progress.words() or "not started")
    for name, words in sorted(snapshot.progress.running.items()):
        table.add_row(f"  {name}", words)
    for name, words in sorted(snapshot.progress.cut_off.items()):
        if name not in snapshot.progress.running:
            table.add_row(f"  {name}", words, style="yellow")
    for trouble in snapshot.troubles:
        table.add_row("pod", trouble, style="yellow")
    if snapshot.away:
        table.add_row("API server", snapshot.away, style="red")
    return table

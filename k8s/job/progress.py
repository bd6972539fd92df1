"""The progress of a study, added up from the run lines of its driver (docs/run-lines.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hidfd.formatting import plural, progress, used_of

ENDS_IN_WORDS = {"lost": "lost its process", "node lost": "lost its node", "interrupted": "lost its driver"}
"""The `end` of an attempt that was cut off -> words."""


@dataclass
class Progress:
    """The progress of a study, as far as its run lines were read.

    Attributes:
        num_students: number of search trials at most; None before the first line.
        num_ended: number of search trials that have ended.
        best, best_trial: best value of the search so far, and its trial's number.
        running: name of a task -> its stage and images, in words.
        cut_off: name of a task that has not ended -> what ended its last attempt, also while it runs again.
        spent, limits: name of a budget -> what is spent of it, and its limit if it has one.
        verdict: the study's result in words, at its end.
        error, exit_code: message and exit code of a driver that has failed.
    """

    num_students: int | None = None
    num_ended: int = 0
    best: float | None = None
    best_trial: int | None = None
    running: dict[str, str] = field(default_factory=dict)
    cut_off: dict[str, str] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float | None] = field(default_factory=dict)
    verdict: str | None = None
    error: str | None = None
    exit_code: int | None = None

    def read(self, line: str) -> bool:
        """Take in one line of the driver's log; return whether it was a run line."""
        event = _event(line)
        match event.get("event"):
            case "study_started":
                self._take_totals(event)
                self.running, self.cut_off, self.error, self.exit_code = {}, {}, None, None
            case "work_started":
                self.running[event["work"]] = f"since {progress(event.get('images_from') or 0)}"
            case "work_progress":
                reached = progress(event.get("images") or 0, event.get("target_images"))
                self.running[event["work"]] = f"{event.get('stage')} {reached}"
            case "work_interrupted":
                self.running.pop(event["work"], None)
                end, reached = str(event.get("end")), progress(event.get("images_to") or 0)
                self.cut_off[event["work"]] = f"{ENDS_IN_WORDS.get(end, end)} at {reached}; it goes on from there"
            case "work_ended":
                self.running.pop(event["work"], None)
                self.cut_off.pop(event["work"], None)
            case "trial_ended":
                self.num_ended += 1
            case "best_changed":
                self.best, self.best_trial = event.get("value"), event.get("trial")
            case "budget":
                self._take_totals(event)  # the first lines are missing where a log was rotated
                self.spent, self.limits = event.get("spent") or {}, event.get("limits") or {}
            case "study_ended":
                self.verdict, self.running = event.get("verdict"), {}
            case "error":
                self.error, self.exit_code = event.get("error"), event.get("exit_code")
            case _:
                return "event" in event
        return True

    def _take_totals(self, event: dict[str, Any]) -> None:
        self.num_students = event.get("num_students")
        self.num_ended = event.get("num_trials_ended") or 0
        self.best, self.best_trial = event.get("best_value"), event.get("best_trial")

    def words(self) -> str:
        """Describe the progress in a line; empty before the first run line."""
        if self.num_students is None:
            return ""
        parts = [
            f"{self.num_ended} of {plural(self.num_students, 'trial')}"
            if self.num_students
            else plural(self.num_ended, "trial")
        ]
        if self.best is not None:
            parts.append(f"best {self.best:.4f} (trial {self.best_trial})")
        parts += [
            used_of(self.spent.get(name, 0.0), limit, name.replace("_", " "))
            for name, limit in self.limits.items()
            if limit is not None
        ]
        return ", ".join(parts)


def _event(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    is_ours = isinstance(found, dict) and ("study" in found or found.get("event") == "error")
    return found if is_ours else {}

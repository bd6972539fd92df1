"""What the driver's lines (docs/run-lines.md) say of a study, added up."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

ENDS = {"lost": "lost its process", "node lost": "lost its node", "interrupted": "lost its driver"}
"""What `end` says of an attempt that was cut off, in words."""


@dataclass
class Progress:
    """As far as the lines were read.

    Attributes:
        num_students: that the search may suggest; None before the first line.
        num_ended: trials that have ended.
        best, best_trial: of the search so far.
        running: name of a task -> where it is.
        cut_off: name of a task that has not ended -> what ended its last attempt, also once it runs again.
        spent, limits: of the budget.
        verdict: at the end.
        error, exit_code: of a driver that ended with an error.
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
        """Take over one line of the driver's log; returns whether it was one of those lines."""
        event = _event(line)
        match event.get("event"):
            case "study_started":
                self._stand(event)
                self.running, self.cut_off, self.error, self.exit_code = {}, {}, None, None
            case "work_started":
                self.running[event["work"]] = f"since {event.get('images_from') or 0:,} images"
            case "work_progress":
                target = event.get("target_images")
                of = f" of {target:,}" if target else ""
                self.running[event["work"]] = f"{event.get('stage')} {event.get('images') or 0:,}{of} images"
            case "work_interrupted":
                self.running.pop(event["work"], None)
                end, images = str(event.get("end")), event.get("images_to") or 0
                self.cut_off[event["work"]] = f"{ENDS.get(end, end)} at {images:,} images; it goes on from there"
            case "work_ended":
                self.running.pop(event["work"], None)
                self.cut_off.pop(event["work"], None)
            case "trial_ended":
                self.num_ended += 1
            case "best_changed":
                self.best, self.best_trial = event.get("value"), event.get("trial")
            case "budget":
                self._stand(event)  # for who has not seen the beginning, such as after a log was rotated
                self.spent, self.limits = event.get("spent") or {}, event.get("limits") or {}
            case "study_ended":
                self.verdict, self.running = event.get("verdict"), {}
            case "error":
                self.error, self.exit_code = event.get("error"), event.get("exit_code")
            case _:
                return "event" in event
        return True

    def _stand(self, event: dict[str, Any]) -> None:
        self.num_students = event.get("num_students")
        self.num_ended = event.get("num_trials_ended") or 0
        self.best, self.best_trial = event.get("best_value"), event.get("best_trial")

    def words(self) -> str:
        """In a line; empty before the first."""
        if self.num_students is None:
            return ""
        parts = [f"{self.num_ended} of {self.num_students} trials" if self.num_students else f"{self.num_ended} trials"]
        if self.best is not None:
            parts.append(f"best {self.best:.4f} (trial {self.best_trial})")
        parts += [
            f"{self.spent.get(name, 0.0):.3g} of {limit:g} {name.replace('_', ' ')}"
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

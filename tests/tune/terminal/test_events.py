"""What a watcher of the driver's log reads: a documented JSON line for each change, each once, and all at the end."""

import io
import itertools
import json
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.tune.world import TESTED, World, definition
from tune.engines.local import run_local
from tune.planner.budget import LIMITS
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.study.task import Task
from tune.terminal.events import RunLines

DOCUMENT = (Path(__file__).parents[3] / "docs" / "run-lines.md").read_text()
DOCUMENTED = {
    event: set(re.findall(r"`(\w+)`", fields))
    for event, fields in re.findall(r"^\| `(\w+)` \|([^|]*)\|", DOCUMENT, flags=re.MULTILINE)
}
COMMON = {"event", "time", "study"}
STARTED = 1_760_000_000.0


class Clock:
    """Ten seconds pass between two looks."""

    def __init__(self) -> None:
        self.now = STARTED

    def __call__(self) -> float:
        self.now += 10
        return self.now


def watched(planner: Planner, world: World, clock: Clock, *, look_at_all: bool = True) -> list[dict[str, Any]]:
    """The lines of a run; without looking at all, only its beginning and its end are seen."""
    stream = io.StringIO()
    lines = RunLines(stream, clock=clock, now=clock)

    def look() -> None:
        lines.show(snapshot_of(planner.state, planner.running, planner.notes, planner.stopping))

    look()
    run_local(planner, world.execute, look if look_at_all else lambda: None)
    look()
    lines.end(snapshot_of(planner.state), Path("report.html"))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def lost_once() -> World:
    left = Counter({("generator-0", 3): 1})

    def lose(task: Task, step: int) -> bool:
        left[task.label, step] -= 1
        return left[task.label, step] >= 0

    return World(lose=lose)


def test_every_line_is_as_the_document_says() -> None:
    clock, world = Clock(), lost_once()
    lines = watched(world.planner(definition(data=TESTED), clock), world, clock)
    seen = {line["event"] for line in lines}
    assert seen >= DOCUMENTED.keys() - {"search_closed", "stopping", "note", "error"}
    for line in lines:
        assert line.keys() == COMMON | DOCUMENTED[line["event"]], line
        assert line["study"] == "s"
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
        if line["event"] == "budget":
            assert line["spent"].keys() == line["limits"].keys() == set(LIMITS)
    assert (lines[0]["event"], lines[-1]["event"]) == ("study_started", "study_ended")
    assert lines[-1]["document"]["verdict"] == lines[-1]["verdict"]
    assert lines[-1]["document"]["report"] == "report.html"


def test_each_change_is_told_once_however_seldom_one_looks() -> None:
    for look_at_all in (True, False):
        clock, world = Clock(), lost_once()
        planner = world.planner(definition(data=TESTED), clock)
        lines = watched(planner, world, clock, look_at_all=look_at_all)
        tasks, trials = planner.state.tasks.values(), planner.state.search_trials
        told = [(line["work"], line["attempt"]) for line in lines if line["event"] == "work_started"]
        assert sorted(told) == sorted((task.label, number) for task in tasks for number in range(len(task.attempts)))
        ends = {line["work"]: line["state"] for line in lines if line["event"] == "work_ended"}
        assert ends == {task.label: task.outcome.state for task in tasks if task.outcome}
        assert len([line for line in lines if line["event"] == "work_ended"]) == len(tasks)
        interrupted = [(line["work"], line["end"]) for line in lines if line["event"] == "work_interrupted"]
        assert interrupted == [("generator-0", "lost")]
        ended = {line["trial"]: line["state"] for line in lines if line["event"] == "trial_ended"}
        assert ended == {search_trial.number: search_trial.state for search_trial in trials}
        best = [line for line in lines if line["event"] == "best_changed"][-1]
        assert planner.best is not None
        assert (best["trial"], best["value"]) == (planner.best.number, planner.best.value)
        values = [line["value"] for line in lines if line["event"] == "best_changed"]
        assert values == sorted(values)


def test_run_that_goes_on_tells_only_what_is_new() -> None:
    clock, world = Clock(), World()
    first = watched(world.planner(definition(), clock), world, clock)
    again = watched(world.planner(definition(), clock), world, clock)
    assert [line["event"] for line in again] == ["study_started", "study_ended"]
    assert again[0]["num_ended"] == sum(line["event"] == "work_ended" for line in first)
    planner = world.planner(definition({"seeds": [1001, 1002]}), clock)
    more = [line["work"] for line in watched(planner, world, clock) if line["event"] == "work_ended"]
    assert len(more) == 5
    assert all(label.endswith("-seed1002") or label.startswith("generator-") for label in more)


def test_why_it_stops_is_told_once() -> None:
    clock, world = Clock(), World()
    planner = world.planner(definition(), clock)
    planner.drain("Ctrl-C")
    lines = watched(planner, world, clock)
    assert [line["reason"] for line in lines if line["event"] == "stopping"] == ["Ctrl-C"]
    assert not lines[-1]["finished"]


def test_progress_is_told_at_a_calm_rate() -> None:
    clock, world = Clock(), World()
    lines = watched(world.planner(definition(), clock), world, clock)
    moments = [
        datetime.fromisoformat(line["time"]).timestamp()
        for line in lines
        if line["event"] == "work_progress" and line["work"] == "trial-0"
    ]
    assert len(moments) > 1
    assert all(later - earlier >= 20 for earlier, later in itertools.pairwise(moments))

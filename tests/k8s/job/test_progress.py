"""The driver's lines, added up, as `tune run --json` prints them."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from k8s.job.progress import Progress
from tests.tune.world import World, definition
from tune.engines.local import run_local
from tune.planner.snapshots import snapshot_of
from tune.terminal.events import RunLines


def lines_of_a_run(world: World) -> list[str]:
    """Return the run lines of a study of six students in a world without time, one snapshot after every step."""
    planner = world.planner(definition({"budget": {"cpu_hours": 5}}), lambda: 0.0)
    stream, clock = io.StringIO(), iter(range(0, 10**6, 61))
    lines = RunLines(stream, clock=lambda: float(next(clock)), now=lambda: 0.0)

    def look() -> None:
        lines.show(snapshot_of(planner.state, planner.running, planner.notes))

    look()
    run_local(planner, world.execute, look)
    lines.end(snapshot_of(planner.state), Path("report.html"))
    return stream.getvalue().splitlines()


def test_a_whole_run_adds_up_to_what_the_study_says_itself() -> None:
    progress, lines = Progress(), lines_of_a_run(World())
    assert all(progress.read(line) for line in lines)
    end = json.loads(lines[-1])
    best = end["document"]["best"]
    assert (progress.num_ended, progress.num_students) == (6, 6)
    assert (progress.best_trial, progress.best) == (best, end["document"]["trials"][best]["value"])
    assert progress.running == {}
    assert progress.verdict == end["verdict"]
    assert progress.words().startswith(f"6 of 6 trials, best {progress.best:.4f} (trial {best}), ")
    assert progress.words().endswith(" of 5 cpu hours")


def test_run_that_goes_on_counts_what_had_ended_before() -> None:
    world = World()
    lines_of_a_run(world)
    progress = Progress()
    progress.read(lines_of_a_run(world)[0])
    assert progress.num_ended == 6
    assert progress.best is not None


def test_work_under_way_says_where_it_is() -> None:
    progress, seen = Progress(), set()
    for line in lines_of_a_run(World()):
        progress.read(line)
        seen |= set(progress.running.values())
    assert "since 0 images" in seen
    assert any(words.startswith("generation ") and words.endswith(" of 3,200 images") for words in seen)


def test_lines_for_people_are_left_to_them() -> None:
    progress = Progress()
    for line in ("generator-0: started", "{not json", '{"loss": 1}', "[1]"):
        assert not progress.read(line)
    assert progress.words() == ""


def test_events_that_nobody_knows_yet_are_no_words_for_people() -> None:
    assert Progress().read('{"event": "from_the_future", "study": "s"}')
    assert not Progress().read('{"event": "request finished", "level": "info"}'), "somebody else's"


def test_watcher_who_comes_late_learns_the_whole_progress_within_a_minute() -> None:
    lines = lines_of_a_run(World())
    late = next(number for number, line in enumerate(lines) if json.loads(line)["event"] == "budget")
    progress, whole = Progress(), Progress()
    for number, line in enumerate(lines):
        whole.read(line)
        if number >= late:
            progress.read(line)
    assert progress.words() == whole.words()


def test_driver_that_ended_with_an_error_says_which(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    progress = Progress()
    progress.read(json.dumps({"event": "error", "error": "study.sampler: expected ...", "exit_code": 2}))
    assert (progress.error, progress.exit_code) == ("study.sampler: expected ...", 2)


def test_work_that_is_cut_off_is_told_until_it_ends_as_it_may_run_again_before_anybody_looks() -> None:
    progress = Progress()
    cut_off = {"event": "work_interrupted", "study": "f", "work": "generator-0", "end": "node lost", "images_to": 27000}
    progress.read(json.dumps({"event": "work_started", "study": "f", "work": "generator-0"}))
    progress.read(json.dumps(cut_off))
    assert progress.running == {}
    assert progress.cut_off == {"generator-0": "lost its node at 27,000 images; it goes on from there"}
    progress.read(json.dumps({"event": "work_started", "study": "f", "work": "generator-0", "images_from": 27000}))
    assert progress.running == {"generator-0": "since 27,000 images"}
    assert list(progress.cut_off) == ["generator-0"]
    progress.read(json.dumps({"event": "work_ended", "study": "f", "work": "generator-0"}))
    assert progress.cut_off == {}

"""A running study in a log: plain lines, each of which is news."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.tune.snapshots import study_snapshot
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState
from tune.terminal.display import StudyDisplay, _Running
from tune.terminal.progress import LINE_EVERY_SECONDS, STILL_EVERY_SECONDS


@pytest.fixture
def under_way(tmp_path: Path) -> StudySnapshot:
    return study_snapshot(tmp_path, rounds=6, folders=False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(stream: io.StringIO) -> list[str]:
    lines = stream.getvalue().splitlines()
    stream.seek(0)
    stream.truncate()
    return lines


def with_progress(snapshot: StudySnapshot, images: int) -> StudySnapshot:
    tasks = tuple(
        replace(task, stage="distillation", images=images, target_images=1000)
        if task.state is TaskState.RUNNING
        else task
        for task in snapshot.tasks
    )
    return replace(snapshot, tasks=tasks)


def test_each_change_is_said_once(under_way: StudySnapshot) -> None:
    stream = io.StringIO()
    display = StudyDisplay(stream, clock=Clock())
    display.show(under_way)
    first = lines_of(stream)
    running = [task.label for task in under_way.tasks if task.state is TaskState.RUNNING]
    assert running
    assert [f"{label}: started" for label in running] == [line for line in first if line.endswith(": started")]
    display.show(under_way)
    assert lines_of(stream) == []


def test_what_a_task_said_stands_before_its_end_and_before_what_is_built_on_it(under_way: StudySnapshot) -> None:
    stream = io.StringIO()
    first, *others = under_way.tasks
    assert first.state.is_final
    (running, *_) = (task.label for task in others if task.state is TaskState.RUNNING)
    notes = ("of the study", f"{first.label}: warning: a doubt", f"{running}: a word")
    StudyDisplay(stream, clock=Clock()).show(replace(under_way, notes=notes))
    lines = lines_of(stream)
    assert lines[0] == f"{first.label}: warning: a doubt"
    assert lines[1].startswith(f"{first.label}: done")
    assert lines.index(f"{running}: started") + 1 == lines.index(f"{running}: a word")
    assert [lines.count(note) for note in notes] == [1, 1, 1]


def test_task_that_was_lost_and_runs_again_between_two_snapshots_says_so(under_way: StudySnapshot) -> None:
    stream = io.StringIO()
    display = StudyDisplay(stream, clock=Clock())
    display.show(under_way)
    lines_of(stream)
    (running, *_) = (task for task in under_way.tasks if task.state is TaskState.RUNNING)
    again = replace(running.attempts[-1], number=len(running.attempts), images_from=640)
    lost = replace(running, attempts=(*running.attempts, again))
    display.show(replace(under_way, tasks=tuple(lost if task is running else task for task in under_way.tasks)))
    assert lines_of(stream) == [f"{running.label}: started again, from its last checkpoint; it had reached 640 images"]


def test_task_of_a_killed_driver_that_the_ledger_heard_nothing_of_says_that_it_runs_again(
    under_way: StudySnapshot,
) -> None:
    stream = io.StringIO()
    (running, *_) = (task for task in under_way.tasks if task.state is TaskState.RUNNING)
    killed = replace(running.attempts[0], images_from=0, images_to=0, end="interrupted")
    resumed = replace(running, attempts=(killed, replace(killed, number=1, end=None)))
    tasks = tuple(resumed if task is running else task for task in under_way.tasks)
    StudyDisplay(stream, clock=Clock()).show(replace(under_way, tasks=tasks))
    assert f"{running.label}: started again, from its last checkpoint" in lines_of(stream)


def test_progress_is_said_at_intervals_and_not_again_while_nothing_moves(under_way: StudySnapshot) -> None:
    stream, clock = io.StringIO(), Clock()
    display = StudyDisplay(stream, clock=clock)
    count = sum(task.state is TaskState.RUNNING for task in under_way.tasks)
    display.show(with_progress(under_way, 100))
    lines_of(stream)
    clock.now = LINE_EVERY_SECONDS
    display.show(with_progress(under_way, 200))
    assert [line.split(": ")[1][:32] for line in lines_of(stream)] == ["distillation 200 of 1,000 images"] * count
    clock.now = 2 * LINE_EVERY_SECONDS
    display.show(with_progress(under_way, 200))
    assert lines_of(stream) == [], "nothing has moved"
    clock.now = LINE_EVERY_SECONDS + STILL_EVERY_SECONDS
    display.show(with_progress(under_way, 200))
    assert len(lines_of(stream)) == count, "a sign of life"


def test_quiet_display_says_nothing(under_way: StudySnapshot) -> None:
    stream = io.StringIO()
    StudyDisplay(stream, quiet=True, clock=Clock()).show(under_way)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [80, 100, 160])
def test_running_tasks_are_drawn_with_whole_words_on_every_screen(width: int, under_way: StudySnapshot) -> None:
    label = "trial-12-synthetic-only-without-smoothing-seed1001"
    words = "distillation 3,200 of 24,000,000 images  310 images/s  21 h 30 min left"
    running = {task.key: words for task in under_way.tasks[:2]}
    named = (replace(under_way.tasks[0], label=label), *under_way.tasks[1:])
    stream = io.StringIO()
    Console(file=stream, width=width).print(_Running(replace(under_way, tasks=named), running))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any(label in line for line in lines)
    assert sum(words in line for line in lines) == 2

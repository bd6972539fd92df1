"""A timeline of a study: its attempts as bars on as few lanes as possible, with pauses cut out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hidfd.formatting import clock_tick, duration
from tune.report.selection import generator_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind

WIDTH, LANE_HEIGHT, LEFT = 1000.0, 26.0, 4.0
COLOURS = ("#1f5f99", "#b9770e", "#5d8a66", "#8c4a6b", "#3f8797", "#7a6a3a", "#6c5b9e", "#a3563c")
"""Colours of generators, in turn; a generator and its students share one."""

NEUTRAL_COLOUR = "#8c98a4"
"""Colour of tasks without a generator."""

CHARACTER_WIDTH = 6.1
"""Width of a letter at the font size of the bars, in the units of the drawing."""

CUT_SHARE = 0.02
"""Room that a pause keeps, as a share of the busy time; shorter pauses are not cut out."""

MIN_PAUSE_SECONDS = 20.0
MAX_TICKS = 9
TICK_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 86_400, 172_800, 604_800)
"""Seconds between two marks of the time axis, to choose from."""


@dataclass(frozen=True)
class Bar:
    """The bar of one attempt.

    Attributes:
        x, y, width: its place, in the units of the drawing.
        label: the longest form of its task's name that fits into it.
        title: the attempt in words.
        colour: the colour of its generator.
        is_build: whether it is drawn in full colour; students are paler.
        is_reused: whether its task was found in the store, so that nothing was computed.
    """

    x: float
    y: float
    width: float
    label: str
    title: str
    colour: str
    is_build: bool
    is_reused: bool


@dataclass(frozen=True)
class Timeline:
    """The drawing, which is `WIDTH` units wide.

    Attributes:
        bars: one for each attempt.
        ticks: x and label of each mark on the time axis.
        cuts: x of each pause that was cut out.
        height: of all lanes together.
    """

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    cuts: tuple[float, ...]
    height: float


def timeline(snapshot: StudySnapshot) -> Timeline | None:
    """Return the timeline of all attempts of a study; None before the first one."""
    entries = sorted(
        (
            (a.started, max(a.started, a.ended or a.last_seen), a, task)
            for task in snapshot.tasks
            for a in task.attempts
        ),
        key=lambda entry: (entry[0], entry[3].number, entry[2].number),
    )
    if not entries:
        return None
    busy = _busy_spans([(start, end) for start, end, _, _ in entries])
    seconds = max(sum(end - start for start, end in busy), 1e-6)
    room = CUT_SHARE * seconds
    scale = (WIDTH - 2 * LEFT) / (seconds + room * (len(busy) - 1))

    def position(moment: float) -> float:
        passed = 0.0
        for start, end in busy:
            if moment <= end:
                return LEFT + scale * (passed + max(0.0, moment - start))
            passed += end - start + room
        return WIDTH - LEFT

    generators = [task.key for task in snapshot.tasks if task.kind is TaskKind.GENERATOR]
    free_from: list[float] = []
    bars = []
    for start, end, attempt, task in entries:
        lane = next((n for n, free in enumerate(free_from) if free <= start + 1e-3), len(free_from))
        free_from[lane : lane + 1] = [end]
        build = generator_of(task, snapshot)
        x, width = position(start), max(1.5, position(end) - position(start))
        on = f" on {build.label}" if build is not None and build is not task else ""
        how = "found in the store" if task.reused else attempt.end or "running"
        bars.append(
            Bar(
                x=x,
                y=lane * LANE_HEIGHT,
                width=width,
                label=next((name for name in _names(task) if CHARACTER_WIDTH * len(name) + 6 <= width), ""),
                title=f"{task.label}{on}: {how} after {duration(end - start)}, at {attempt.node}",
                colour=COLOURS[generators.index(build.key) % len(COLOURS)] if build else NEUTRAL_COLOUR,
                is_build=task.kind.is_build,
                is_reused=task.reused,
            )
        )
    cuts = tuple(position(end) + scale * room / 2 for _, end in busy[:-1])
    return Timeline(tuple(bars), tuple(_ticks(busy, position)), cuts, LANE_HEIGHT * len(free_from))


def _names(task: TaskSnapshot) -> tuple[str, ...]:
    """Return the forms of a task's name that its bar may show, the longest first."""
    without_seed = task.label.removesuffix(f"-seed{task.seed}")
    is_numbered = task.kind.is_build or task.role == "search"
    return (task.label, without_seed, without_seed.rpartition("-")[2]) if is_numbered else (task.label, without_seed)


def _busy_spans(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans, in order of their start, joined where they overlap or the pause between them is short."""
    total = sum(end - start for start, end in spans)
    short = max(MIN_PAUSE_SECONDS, CUT_SHARE * total)
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= short:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _ticks(busy: list[tuple[float, float]], position: Callable[[float], float]) -> Iterator[tuple[float, str]]:
    """Yield marks at round numbers of busy seconds."""
    total = sum(end - start for start, end in busy)
    step = next((step for step in TICK_STEPS if total / step <= MAX_TICKS), TICK_STEPS[-1])
    passed = 0.0
    for start, end in busy:
        for count in range(math.ceil(passed / step), math.floor((passed + end - start) / step) + 1):
            yield position(start + count * step - passed), clock_tick(count * step)
        passed += end - start

"""Who ran when: the attempts of a study as bars on as few lanes as hold them, pauses cut out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hidfd.formatting import clock_tick, duration
from tune.report.summary import generator_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind

WIDTH, LANE_HEIGHT, LEFT = 1000.0, 26.0, 4.0
COLOURS = ("#1f5f99", "#b9770e", "#5d8a66", "#8c4a6b", "#3f8797", "#7a6a3a", "#6c5b9e", "#a3563c")
"""Of generators, in turn; a generator and the students on it share one."""

NEUTRAL = "#8c98a4"
CHARACTER = 6.1
"""Width of a letter at the bars' font size, in the drawing's units."""

CUT_SHARE = 0.02
"""Room that a pause keeps, as a share of the busy time."""

MIN_PAUSE_SECONDS = 20.0
MAX_TICKS = 9
STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 86_400, 172_800, 604_800)


@dataclass(frozen=True)
class Bar:
    """One attempt; places in the drawing's units.

    Attributes:
        x, y, width: of the bar.
        label: as much of its name as fits into the bar.
        title: all of it in words.
        colour: of its generator.
        solid: a build; students are paler.
        reused: everything was found in the store: nothing was computed.
    """

    x: float
    y: float
    width: float
    label: str
    title: str
    colour: str
    solid: bool
    reused: bool


@dataclass(frozen=True)
class Timeline:
    """The drawing.

    Attributes:
        bars: to draw.
        ticks: place and words.
        cuts: places of pauses that were cut out.
        height: of the lanes.
    """

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    cuts: tuple[float, ...]
    height: float


def timeline(snapshot: StudySnapshot) -> Timeline | None:
    """All attempts of a study; None before the first."""
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
    busy = _busy([(start, end) for start, end, _, _ in entries])
    seconds = max(sum(end - start for start, end in busy), 1e-6)
    room = CUT_SHARE * seconds
    scale = (WIDTH - 2 * LEFT) / (seconds + room * (len(busy) - 1))

    def place(moment: float) -> float:
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
        x, width = place(start), max(1.5, place(end) - place(start))
        on = f" on {build.label}" if build is not None and build is not task else ""
        how = "found in the store" if task.reused else attempt.end or "running"
        bars.append(
            Bar(
                x=x,
                y=lane * LANE_HEIGHT,
                width=width,
                label=next((name for name in _names(task) if CHARACTER * len(name) + 6 <= width), ""),
                title=f"{task.label}{on}: {how} after {duration(end - start)}, at {attempt.node}",
                colour=COLOURS[generators.index(build.key) % len(COLOURS)] if build else NEUTRAL,
                solid=task.kind.is_build,
                reused=task.reused,
            )
        )
    cuts = tuple(place(end) + scale * room / 2 for _, end in busy[:-1])
    return Timeline(tuple(bars), tuple(_ticks(busy, place)), cuts, LANE_HEIGHT * len(free_from))


def _names(task: TaskSnapshot) -> tuple[str, ...]:
    """Of a bar, the longest first."""
    without_seed = task.label.removesuffix(f"-seed{task.seed}")
    is_numbered = task.kind.is_build or task.role == "search"
    return (task.label, without_seed, without_seed.rpartition("-")[2]) if is_numbered else (task.label, without_seed)


def _busy(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spans joined, across pauses that are short."""
    total = sum(end - start for start, end in spans)
    short = max(MIN_PAUSE_SECONDS, CUT_SHARE * total)
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= short:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _ticks(busy: list[tuple[float, float]], place: Callable[[float], float]) -> Iterator[tuple[float, str]]:
    """At round numbers of busy seconds."""
    total = sum(end - start for start, end in busy)
    step = next((step for step in STEPS if total / step <= MAX_TICKS), STEPS[-1])
    passed = 0.0
    for start, end in busy:
        for count in range(math.ceil(passed / step), math.floor((passed + end - start) / step) + 1):
            yield place(start + count * step - passed), clock_tick(count * step)
        passed += end - start

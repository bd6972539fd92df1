"""The figures of a search as Plotly shows them: Optuna's own, in the style of the pages and with readable axes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from hidfd.report.figures import ACCENT, COLOURS, GREY, INK
from tune.report.pictures.log_axes import log_marks, marks_in_words
from tune.report.pictures.still_figures import SCALE, DrawnSearch, complete_trials, distributions_of

PANELS_IN_A_ROW = 4
"""Number of parameters side by side; with more, names and marks would overlap in a window of 800 px."""

ROW_PIXELS, TITLE_PIXELS = 300, 85
"""Height of a row of panels, and the part of it that marks and names take."""

PANEL_GAP = 0.045
"""Room between panels side by side, as a share of the width."""

RANGE_MARGIN = 0.06
"""Room on both sides of a searched range, as a share of it."""


def interactive_figure(name: str, function: str, search: DrawnSearch) -> dict[str, Any]:
    """Return data and layout for `Plotly.newPlot`, in the style of the pages.

    Args:
        name: of the figure: contour, pareto, parallel, slice, or another one.
        function: of `optuna.visualization`, which draws it.
        search: that it shows.
    """
    import optuna.visualization  # slow

    draw = getattr(optuna.visualization, function)
    match name:
        case "contour":
            figure = draw(search.study, params=search.pair, target_name=search.objective)
        case "pareto":
            figure = draw(search.study, target_names=search.objectives)
        case _:
            figure = draw(search.study, target_name=search.objective)
    in_style_of_pages(figure)
    if name in ("parallel", "slice"):
        _recolour(figure)
    if name == "parallel":
        _mark_parallel_axes(figure, search)
        figure.update_annotations(bgcolor="rgba(255, 255, 255, 0.75)", borderpad=1)
    if name == "slice":
        _arrange_in_rows(figure, search)
        figure.update_xaxes(nticks=4, tickfont={"size": 10}, title={"font": {"size": 11}, "standoff": 6})
    _mark_log_axes(figure, search)
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain


def in_style_of_pages(figure: Any) -> None:
    """Give a Plotly figure the colours, fonts and margins of the pages."""
    figure.update_layout(
        title=None,
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": INK, "size": 12},
        colorway=[ACCENT, *COLOURS[2:], GREY],
        margin={"l": 70, "r": 30, "t": 40, "b": 60},
        width=None,
    )


def _recolour(figure: Any) -> None:
    """Replace Optuna's colour scale, which begins in white, so that the worst student would be invisible."""
    from plotly.colors import make_colorscale, sample_colorscale

    scale = make_colorscale(list(SCALE))
    figure.update_traces(marker={"colorscale": scale, "reversescale": False}, selector={"mode": "markers"})
    for trace in _lines(figure):
        (colour,) = sample_colorscale(scale, [trace.y[0]])  # the objective, 0..1
        trace.update(line={"color": colour, "width": 2}, opacity=0.9)


def _mark_log_axes(figure: Any, search: DrawnSearch) -> None:
    """Mark logarithmic axes as in the still figures; Plotly would write a 2 between 0.01 and 0.1, and 10µ."""
    distributions = distributions_of(search.study)
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        if axis.type != "log":
            continue
        if axis.range is not None:
            low, high = (10.0**end for end in axis.range)
        else:
            searched = distributions[axis.title.text]
            assert isinstance(searched, FloatDistribution | IntDistribution)
            low, high = searched.low, searched.high
            ends = math.log10(low), math.log10(high)
            margin = RANGE_MARGIN * (ends[1] - ends[0]) or RANGE_MARGIN
            axis.range = (ends[0] - margin, ends[1] + margin)
        marks = log_marks(low, high)
        axis.update(tickmode="array", tickvals=marks, ticktext=marks_in_words(marks), nticks=None)


def _mark_parallel_axes(figure: Any, search: DrawnSearch) -> None:
    """Mark the logarithmic axes of parallel coordinates, where Optuna writes both ends over the decades beside them."""
    trials, lines = complete_trials(search.study), list(_lines(figure))
    distributions = distributions_of(search.study)
    for place, name in enumerate(sorted({name for trial in trials for name in trial.params}), start=1):
        searched = distributions[name]
        if not isinstance(searched, FloatDistribution | IntDistribution) or not searched.log:
            continue
        drawn = [
            (trial.params[name], line.y[place])
            for trial, line in zip(trials, lines, strict=True)
            if name in trial.params
        ]
        (low, bottom), (high, top) = min(drawn), max(drawn)
        marks = log_marks(low, high)
        scale = (top - bottom) / math.log(high / low) if low < high else 0.0
        others = [note for note in figure.layout.annotations if note.x != place or note.text == "None"]
        style = next(note for note in figure.layout.annotations if note.x == place).to_plotly_json()
        figure.layout.annotations = [
            *others,
            *(
                {**style, "y": bottom + scale * math.log(mark / low), "text": label}
                for mark, label in zip(marks, marks_in_words(marks), strict=True)
            ),
        ]


def _arrange_in_rows(figure: Any, search: DrawnSearch) -> None:
    """Arrange the panels of parameters, which Optuna puts into one row, in as many rows as they need."""
    count = len(list(figure.select_xaxes()))
    num_rows = math.ceil(count / PANELS_IN_A_ROW)
    if num_rows == 1:
        return
    gap = TITLE_PIXELS / (num_rows * ROW_PIXELS)
    width = (1 - (PANELS_IN_A_ROW - 1) * PANEL_GAP) / PANELS_IN_A_ROW
    height = (1 - (num_rows - 1) * gap) / num_rows
    for place in range(count):
        row, column = divmod(place, PANELS_IN_A_ROW)
        left, top = column * (width + PANEL_GAP), 1 - row * (height + gap)
        number = place + 1 if place else ""
        figure.layout[f"xaxis{number}"].domain = (left, left + width)
        figure.layout[f"yaxis{number}"].update(
            domain=(max(0.0, top - height), top),
            showticklabels=column == 0,
            title={"text": search.objective if column == 0 else None},
        )
    figure.update_layout(height=num_rows * ROW_PIXELS + TITLE_PIXELS)


def _lines(figure: Any) -> Iterator[Any]:
    """Yield the line of each student in parallel coordinates, without the entries of a legend."""
    return (trace for trace in figure.select_traces(selector={"mode": "lines"}) if trace.y[0] is not None)

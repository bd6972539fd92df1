"""Accuracy over total cost of both arms of `study.worth`, with their crossings, as a PNG and for Plotly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from hidfd.report.figures import ACCENT, GREY, INK, label_axes, new_figure
from tune.report.labels import METRIC_NAMES
from tune.report.pictures.interactive_figures import in_style_of_pages
from tune.report.pictures.log_axes import log_marks, marks_in_words
from tune.report.pictures.panels import HIGHLIGHT
from tune.study.snapshot import CrossingSnapshot, WorthBudgetSnapshot, WorthSnapshot
from tune.study.worth.answer import crossing_in_words

TITLE = "When a generator pays"

CAPTION = (
    "A dot for each student budget, at the mean over seeds ± their sample standard deviation, over what one student "
    "costs in all: for hybrid its whole generator counts. The numbers are student steps. Where hybrid is the higher "
    "curve, its generator pays."
)

COLOURS = {"hybrid": ACCENT, "real-only": GREY}
"""Arm -> colour of its curve."""

WIDTH_INCHES, HEIGHT_INCHES = 8.0, 4.0

MARGIN = 1.15
"""Room on both sides of the costs, as a factor."""


def is_drawable(worth: WorthSnapshot | None) -> bool:
    """Return whether anything can be drawn yet."""
    return worth is not None and bool(_points(worth.budgets))


def draw_worth(worth: WorthSnapshot) -> Figure:
    """Draw accuracy over total cost, a curve with error bars for each arm, and a line with a band at each crossing."""
    figure, axes = new_figure(WIDTH_INCHES, HEIGHT_INCHES)
    costs = [cost for cost, *_ in _points(worth.budgets)]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / MARGIN, max(costs) * MARGIN)
    marks = log_marks(min(costs), max(costs))
    axes.minorticks_off()
    axes.set_xticks(marks, marks_in_words(marks))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    labels: list[Annotation] = []
    for arm, colour in COLOURS.items():
        points = _points(budget for budget in worth.budgets if budget.arm == arm)
        if not points:
            continue
        x, y, errors, steps = zip(*points, strict=True)
        axes.errorbar(
            x, y, yerr=errors, color=colour, marker="o", markersize=5, linewidth=1.8, capsize=3, elinewidth=1, label=arm
        )
        below = arm == "real-only"
        labels += [
            axes.annotate(
                f"{count:,}",
                (cost, value),
                (6, -6) if below else (-6, 6),
                textcoords="offset points",
                ha="left" if below else "right",
                va="top" if below else "bottom",
                fontsize=8,
                color=INK if below else colour,
                bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.8, "edgecolor": "none"},
                zorder=4,
            )
            for cost, value, count in zip(x, y, steps, strict=True)
        ]
    for crossing in worth.crossings:
        _mark_crossing(axes, crossing, worth)
    axes.margins(y=0.12)
    axes.legend(
        fontsize=8, frameon=False, ncols=3, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
    )
    label_axes(axes, f"{worth.unit} of one student in all", f"{METRIC_NAMES[worth.metric]}, %")
    _drop_overlapping(figure, labels)
    return figure


def interactive_worth(worth: WorthSnapshot) -> dict[str, Any]:
    """Return data and layout of the same figure for `Plotly.newPlot`."""
    import plotly.graph_objects as go  # slow

    figure = go.Figure()
    for arm, colour in COLOURS.items():
        of_arm = _points(budget for budget in worth.budgets if budget.arm == arm)
        if of_arm:
            x, y, errors, steps = zip(*of_arm, strict=True)
            figure.add_scatter(
                x=x,
                y=y,
                error_y={"array": errors, "thickness": 1},
                mode="lines+markers",
                name=arm,
                line={"color": colour},
                text=[f"{count:,} steps" for count in steps],
            )
    points = _points(worth.budgets)
    costs, accuracies = [cost for cost, *_ in points], [accuracy for _, accuracy, *_ in points]
    for crossing in worth.crossings:
        low, at, high = _crossing_costs(crossing, worth)
        figure.add_vrect(low, high, fillcolor=HIGHLIGHT, opacity=0.12, line_width=0)
        figure.add_scatter(
            x=[at, at],
            y=[min(accuracies), max(accuracies)],
            mode="lines",
            name=crossing_in_words(crossing, worth),
            line={"color": HIGHLIGHT, "dash": "dash"},
        )
    in_style_of_pages(figure)
    marks = log_marks(min(costs), max(costs))
    figure.update_xaxes(
        type="log", title=f"{worth.unit} of one student in all", tickvals=marks, ticktext=marks_in_words(marks)
    )
    figure.update_yaxes(title=f"{METRIC_NAMES[worth.metric]}, %")
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain


def _points(budgets: Iterable[WorthBudgetSnapshot]) -> list[tuple[float, float, float, int]]:
    """Return cost, accuracy and deviation (in per cent) and steps of each budget that has them, by cost."""
    return sorted(
        (budget.cost, 100 * budget.mean, 100 * (budget.deviation or 0.0), budget.steps)
        for budget in budgets
        if budget.cost is not None and budget.mean is not None
    )


def _crossing_costs(crossing: CrossingSnapshot, worth: WorthSnapshot) -> tuple[float, float, float]:
    """Return hybrid's total cost at the ends of a crossing's interval and at the crossing itself: low, at, high."""
    hybrid = [budget for budget in worth.budgets if budget.difference is not None and budget.difference.num_seeds]
    low = hybrid[0].steps if crossing.low is None else crossing.low
    high = hybrid[-1].steps if crossing.high is None else crossing.high
    return _cost_at(low, hybrid), _cost_at(crossing.steps, hybrid), _cost_at(high, hybrid)


def _cost_at(steps: float, hybrid: Sequence[WorthBudgetSnapshot]) -> float:
    """Interpolate hybrid's cost between two budgets, linearly in steps, as the student's own part is."""
    known = [(budget.steps, budget.cost) for budget in hybrid if budget.cost is not None]
    for (before, cheaper), (after, dearer) in itertools.pairwise(known):
        if before <= steps <= after:
            return cheaper + (dearer - cheaper) * (steps - before) / (after - before)
    return known[0][1] if steps < known[0][0] else known[-1][1]


def _mark_crossing(axes: Axes, crossing: CrossingSnapshot, worth: WorthSnapshot) -> None:
    low, at, high = _crossing_costs(crossing, worth)
    axes.axvspan(low, high, color=HIGHLIGHT, alpha=0.12, linewidth=0)
    axes.axvline(at, color=HIGHLIGHT, linewidth=1.4, linestyle="--", label=crossing_in_words(crossing, worth))


def _drop_overlapping(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Remove each label that would lie over one before it; the table beside the figure has all numbers."""
    figure.draw_without_rendering()
    kept: list[Any] = []
    for label in labels:
        box = label.get_window_extent()
        if any(box.overlaps(other) for other in kept):
            label.remove()
        else:
            kept.append(box)

"""Figures as small inline SVG, with text as text: no global state, no display, no pyplot."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hidfd.formatting import short_count

ACCENT, GREY, PALE, INK = "#1f5f99", "#8c98a4", "#c3cbd3", "#1a1f24"
COLOURS = (ACCENT, GREY, "#b9770e", "#5d8a66")

NAMED_CLASSES = 30
"""Largest number of classes whose names are readable below an axis, and their numbers in a confusion matrix."""

Points = Sequence[tuple[float, float]]


def svg(figure: Figure) -> Markup:
    """Render a figure as inline SVG that fills its column; equal figures give equal bytes."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hidfd"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    opening, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None
    # HTML knows the name spaces of inline SVG; without them no web address is left in a page.
    return Markup(f'<svg class="chart" role="img" {box.group()}>{rest.strip()}')


def new_figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes in the pages' style."""
    figure, (axes,) = new_panels(width_inches, height_inches, 1)
    return figure, axes


def new_panels(width_inches: float, height_inches: float, count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with several pairs of axes side by side that share their vertical axis."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    panels = [axes for axes in figure.subplots(1, count, sharey=True, squeeze=False).flat if isinstance(axes, Axes)]
    for axes in panels:
        _style(axes)
    return figure, panels


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    axes.grid(axis="y", color="#eef1f4", linewidth=0.8)
    axes.set_axisbelow(True)


def label_axes(axes: Axes, x: str, y: str = "") -> None:
    """Name the axes, small and grey."""
    axes.set_xlabel(x, fontsize=8, color=GREY)
    axes.set_ylabel(y, fontsize=8, color=GREY)


def lines(series: Mapping[str, Points], line: float | None = None, x: str = "images seen") -> Markup:
    """Draw some curves in one small panel.

    Args:
        series: name -> points; the names are shown if there are several.
        line: a value to compare the curves with, dotted.
        x: name of the horizontal axis.
    """
    # Fixed margins: a page has some twenty of these, and fitting the margins of each would take half of the time.
    figure = Figure(figsize=(3.5, 2.0))
    axes = figure.add_axes((0.17, 0.22, 0.8, 0.74))
    _style(axes)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        few = "o" if len(points) <= 8 else None
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, marker=few, markersize=3, label=name)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.9, linestyle=":")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="best", handlelength=1.2, labelcolor=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    label_axes(axes, x)
    return svg(figure)


def bars(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], line: float | None = None, y: str = "per cent"
) -> Markup:
    """Draw a value or two of each class as bars side by side.

    Args:
        names: of the classes.
        series: at most two: name -> a value per class, None for a class that has none.
        line: a value to compare them with, dotted.
        y: name of the vertical axis.
    """
    figure, axes = new_figure(9.0, 2.7)
    width = 0.8 / len(series)
    for index, ((label, values), colour) in enumerate(zip(series.items(), (ACCENT, PALE), strict=False)):
        positions = [k + (index - (len(series) - 1) / 2) * width for k in range(len(values))]
        axes.bar(positions, [value or 0.0 for value in values], width, label=label, color=colour)
        for position, value in zip(positions, values, strict=True):
            if value is None and len(names) <= NAMED_CLASSES:
                axes.text(position, 0, "–", ha="center", va="bottom", fontsize=8, color=GREY)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.9, linestyle=":")
    if len(names) <= NAMED_CLASSES:
        slanted = len(names) > 12 or max(map(len, names)) > 9
        axes.set_xticks(range(len(names)), names, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axes.margins(x=0.01)
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    label_axes(axes, "" if len(names) <= NAMED_CLASSES else "class", y)
    return svg(figure)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Draw a confusion matrix, `counts[label][prediction]`, in per cent of its rows."""
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    side = 5.6 if len(names) <= NAMED_CLASSES else 6.5
    figure, axes = new_figure(side, side * 0.9)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=115, rasterized=len(names) > NAMED_CLASSES)
    axes.invert_yaxis()
    if len(names) <= NAMED_CLASSES:
        ticks = [k + 0.5 for k in range(len(names))]
        axes.set_xticks(ticks, names, rotation=45, ha="right")
        axes.set_yticks(ticks, names)
        for label, row in enumerate(shares):
            for prediction, share in enumerate(row):
                if share >= 0.5:
                    ink = "white" if share > 60 else INK
                    centre = (prediction + 0.5, label + 0.5)
                    axes.text(*centre, f"{share:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.tick_params(length=0)
    label_axes(axes, "predicted", "label")
    return svg(figure)

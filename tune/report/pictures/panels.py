"""Pictures of a study's page: the comparison, the objective over each parameter, and agreement beside accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from hidfd.report.figures import ACCENT, COLOURS, GREY, INK, PALE, label_axes, new_figure, svg
from tune.report.pictures.log_axes import log_marks, marks_in_words
from tune.study.config import CategoricalParameter, RealParameter
from tune.study.states import Value

HIGHLIGHT = COLOURS[2]
MAX_CHOICES_LABELLED = 8
"""The most choices that an axis has labels for."""

MARGIN = 0.06
"""Room on both sides of a searched range, as a share of it."""


def seed_dots(rows: Mapping[str, Sequence[float]], x: str) -> Markup:
    """Draw a line per setting, with a dot per seed and a bar at their mean.

    Args:
        rows: name -> values in per cent, possibly none yet.
        x: label of the axis.
    """
    figure, axes = new_figure(9.0, 0.75 + 0.3 * len(rows))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#eef1f4", linewidth=0.8)
    for place, values in enumerate(rows.values()):
        colour = ACCENT if place == 0 else GREY
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0)
        if values:
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.04)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    label_axes(axes, x)
    return svg(figure)


def over_parameter(
    complete: Sequence[tuple[Value, float]],
    pruned: Sequence[tuple[Value, float]],
    best: tuple[Value, float] | None,
    searched: RealParameter,
    y: str,
) -> Markup:
    """Draw the objective over one parameter, over the whole range that was searched.

    Args:
        complete, pruned: parameter and objective (in per cent) of students that ran to their end, or to a rung.
        best: the same of the best student, if there is one.
        searched: the parameter's range.
        y: label of the axis.
    """
    figure, axes = new_figure(3.5, 2.1)
    choices = list(map(str, searched.choices)) if isinstance(searched, CategoricalParameter) else []

    def position(value: Value) -> float:
        return float(choices.index(str(value)) if choices else value)

    for entries, face, edge in ((pruned, "none", GREY), (complete, ACCENT, ACCENT)):
        positions = [position(value) for value, _ in entries]
        axes.scatter(
            positions, [v for _, v in entries], s=26, facecolors=face, edgecolors=edge, linewidths=1.1, alpha=0.85
        )
    if best is not None:
        axes.scatter([position(best[0])], [best[1]], s=52, color=HIGHLIGHT, zorder=3)
    if isinstance(searched, CategoricalParameter):
        axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set_xticks(range(len(choices)), choices if len(choices) <= MAX_CHOICES_LABELLED else [""] * len(choices))
    elif searched.log:
        beyond = (searched.high / searched.low) ** MARGIN
        axes.set_xscale("log")
        axes.set_xlim(searched.low / beyond, searched.high * beyond)
        marks = log_marks(searched.low, searched.high)
        axes.minorticks_off()
        axes.set_xticks(marks, marks_in_words(marks))
    else:
        beyond = MARGIN * (searched.high - searched.low)
        axes.set_xlim(searched.low - beyond, searched.high + beyond)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    label_axes(axes, "", y)
    return svg(figure)


def agreement_beside_accuracy(groups: Mapping[str, Sequence[tuple[float, float, float]]]) -> Markup:
    """Draw validation accuracy over agreement, a dot per student.

    Args:
        groups: name -> (agreement, its standard error, validation accuracy) of each student, in per cent.
    """
    figure, axes = new_figure(5.4, 3.3)
    for (name, students), colour in zip(groups.items(), (ACCENT, HIGHLIGHT), strict=False):
        if students:
            x, errors, y = zip(*students, strict=True)
            axes.errorbar(x, y, xerr=errors, fmt="none", ecolor=PALE, elinewidth=1, zorder=1)
            axes.scatter(x, y, s=28, color=colour, label=name, zorder=2, alpha=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if sum(map(bool, groups.values())) > 1:
        axes.legend(fontsize=8, frameon=False, loc="lower right", handletextpad=0.2, labelcolor=INK)
    label_axes(axes, "agreement with the teacher (no labels), per cent", "validation accuracy, per cent")
    return svg(figure)

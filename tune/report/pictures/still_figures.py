"""The figures of a search as still pictures, by Matplotlib in the style of the pages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from hidfd.report.figures import ACCENT, GREY, INK, PALE, label_axes, new_figure, new_panels
from tune.report.pictures.log_axes import log_marks, marks_in_words
from tune.report.pictures.panels import HIGHLIGHT, MARGIN, MAX_CHOICES_LABELLED
from tune.report.timeline import LANE_HEIGHT, WIDTH, Timeline

SCALE = (PALE, ACCENT, "#0b2a4a")
"""Colours from the worst to the best student: darker is better."""

COLOUR_MAP = LinearSegmentedColormap.from_list("better", SCALE)

PNG_WIDTH_INCHES, PNG_HEIGHT_INCHES = 8.0, 4.0


@dataclass(frozen=True)
class DrawnSearch:
    """A search as its figures take it.

    Attributes:
        study: the search as Optuna sees it, in memory; shares in per cent.
        objectives: names of the objectives with their units, for the axes; the first one chooses the best student.
        pair: names of two parameters to show together; empty where fewer are searched.
    """

    study: optuna.Study
    objectives: list[str]
    pair: list[str] = field(default_factory=list)

    @property
    def objective(self) -> str:
        """The objective that chooses the best student."""
        return self.objectives[0]


def history(search: DrawnSearch) -> Figure:
    """Draw the objective of students in the order of suggestion, and the best so far."""
    figure, axes = new_figure(PNG_WIDTH_INCHES, PNG_HEIGHT_INCHES)
    complete = complete_trials(search.study)
    feasible = [trial for trial in complete if _is_feasible(trial)]
    best_so_far: list[float] = []
    for trial in feasible:
        best_so_far.append(max(_value(trial), *best_so_far[-1:]) if best_so_far else _value(trial))
    axes.step(
        [trial.number for trial in feasible], best_so_far, where="post", color=PALE, linewidth=1.6, label="best so far"
    )
    for trials, face, words in (
        (feasible, ACCENT, "ran to its end"),
        ([trial for trial in complete if not _is_feasible(trial)], "none", "the same, infeasible"),
    ):
        if trials:
            numbers, values = [trial.number for trial in trials], [_value(trial) for trial in trials]
            axes.scatter(numbers, values, facecolors=face, edgecolors=ACCENT, s=34, zorder=2, label=words)
    pruned = [trial for trial in search.study.get_trials(deepcopy=False) if trial.intermediate_values]
    pruned = [trial for trial in pruned if trial.state is TrialState.PRUNED]
    last = [trial.intermediate_values[max(trial.intermediate_values)] for trial in pruned]
    if pruned:
        places = [trial.number for trial in pruned]
        axes.scatter(places, last, facecolors="none", edgecolors=GREY, s=30, label="stopped early, at its last rung")
    axes.scatter(
        [search.study.best_trial.number], [search.study.best_value], color=HIGHLIGHT, s=60, zorder=3, label="the best"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(
        fontsize=8, frameon=False, ncols=4, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
    )
    label_axes(axes, "trial", search.objective)
    return figure


def importance(search: DrawnSearch) -> Figure:
    """Draw a bar for each parameter: how much it matters, by PED-ANOVA."""
    found = optuna.importance.get_param_importances(search.study)
    figure, axes = new_figure(PNG_WIDTH_INCHES, 1.1 + 0.36 * len(found))
    axes.grid(visible=False)
    for row, share in enumerate(found.values()):
        axes.barh(row, share, 0.6, color=ACCENT)
        axes.text(share, row, f"  {share:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.margins(x=0.1)
    label_axes(axes, "share of what the parameters explain; few students say little")
    return figure


def parallel(search: DrawnSearch) -> Figure:
    """Draw a line for each student over all parameters, darker for a better one."""
    figure, axes = new_figure(PNG_WIDTH_INCHES, PNG_HEIGHT_INCHES)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    trials = sorted(complete_trials(search.study), key=_value)
    scale = _scale(trials)
    distributions = distributions_of(search.study)
    for trial in trials:
        places = [_position(distributions[name], trial.params[name]) for name in distributions if name in trial.params]
        drawn = [number for number, name in enumerate(distributions) if name in trial.params]
        is_best = trial.number == search.study.best_trial.number
        colour = HIGHLIGHT if is_best else COLOUR_MAP(scale(_value(trial)))
        axes.plot(drawn, places, color=colour, linewidth=2.4 if is_best else 1.5, marker="o", markersize=4)
    for number, distribution in enumerate(distributions.values()):
        axes.axvline(number, color=PALE, linewidth=0.9, zorder=0)
        for place, words in _ticks(distribution):
            ground = {"facecolor": "white", "alpha": 0.7, "pad": 0.6, "edgecolor": "none"}
            axes.text(number + 0.02, place, words, fontsize=7, color=GREY, va="center", bbox=ground, zorder=3)
    axes.set_xticks(range(len(distributions)), [_on_two_lines(name) for name in distributions])
    axes.set_yticks([])
    axes.set_ylim(-MARGIN, 1 + MARGIN)
    axes.margins(x=0.06)
    _add_colour_bar(figure, axes, scale, f"{search.objective}; the best in orange")
    return figure


def slices(search: DrawnSearch) -> Figure:
    """Draw the objective over one parameter at a time."""
    distributions = distributions_of(search.study)
    width = max(PNG_WIDTH_INCHES, 2.1 * len(distributions))
    figure, panels = new_panels(width, 3.0, len(distributions))
    for axes, (name, distribution) in zip(panels, distributions.items(), strict=True):
        trials = [trial for trial in complete_trials(search.study) if name in trial.params]
        places = [_position(distribution, trial.params[name]) for trial in trials]
        colours = [HIGHLIGHT if trial.number == search.study.best_trial.number else ACCENT for trial in trials]
        axes.scatter(places, [_value(trial) for trial in trials], c=colours, s=30, alpha=0.9)
        _set_ticks(axes, "x", distribution)
        label_axes(axes, name, search.objective if axes is panels[0] else "")
    return figure


def parameter_pair(search: DrawnSearch) -> Figure:
    """Draw students as dots with their values over two parameters; nothing is interpolated between them."""
    figure, axes = new_figure(PNG_WIDTH_INCHES, PNG_HEIGHT_INCHES)
    axes.grid(visible=False)
    trials = [trial for trial in complete_trials(search.study) if set(search.pair) <= trial.params.keys()]
    scale, distributions = _scale(trials), distributions_of(search.study)
    across, upwards = (distributions[name] for name in search.pair)
    for trial in trials:
        x, y = (_position(distributions[name], trial.params[name]) for name in search.pair)
        is_best = trial.number == search.study.best_trial.number
        axes.scatter(
            [x],
            [y],
            color=COLOUR_MAP(scale(_value(trial))),
            s=110,
            edgecolors=HIGHLIGHT if is_best else "none",
            linewidths=2.2,
        )
        axes.annotate(f"{_value(trial):.1f}", (x, y), (8, 5), textcoords="offset points", fontsize=8, color=INK)
    _set_ticks(axes, "x", across)
    _set_ticks(axes, "y", upwards)
    label_axes(axes, *search.pair)
    _add_colour_bar(figure, axes, scale, f"{search.objective}; the best with an orange rim")
    return figure


def front(search: DrawnSearch) -> Figure:
    """Draw the first objective over the second: students on the Pareto front, surpassed ones and infeasible ones."""
    figure, axes = new_figure(PNG_WIDTH_INCHES, PNG_HEIGHT_INCHES)
    on_front = {trial.number for trial in search.study.best_trials}
    groups: dict[str, list[tuple[float, float]]] = {"on the front": [], "surpassed": [], "infeasible": []}
    for trial in complete_trials(search.study):
        beside = "surpassed" if _is_feasible(trial) else "infeasible"
        group = "on the front" if trial.number in on_front else beside
        groups[group].append((trial.values[1], trial.values[0]))
    axes.plot(
        *zip(*sorted(groups["on the front"]), strict=True),
        color=HIGHLIGHT,
        linewidth=1.2,
        drawstyle="steps-post",
        zorder=1,
    )
    for (group, places), (face, edge) in zip(
        groups.items(), ((HIGHLIGHT, HIGHLIGHT), (ACCENT, ACCENT), ("none", GREY)), strict=True
    ):
        if places:
            x, y = zip(*places, strict=True)
            axes.scatter(x, y, s=34, facecolors=face, edgecolors=edge, label=group, zorder=2)
    axes.legend(
        fontsize=8, frameon=False, ncols=3, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    label_axes(axes, search.objectives[1], search.objective)
    return figure


def workers(timeline: Timeline) -> Figure:
    """Draw the timeline: builds in full colour, students pale, in the colour of the generator that they share."""
    figure, axes = new_figure(11.0, 0.8 + timeline.height / 60)
    axes.grid(visible=False)
    middle = LANE_HEIGHT / 2
    for bar in timeline.bars:
        alpha = 1.0 if bar.is_build else 0.3
        axes.barh(bar.y + middle, bar.width, 21, left=bar.x, color=bar.colour, alpha=alpha, edgecolor="white")
        ink = "white" if bar.is_build else INK
        axes.text(bar.x + 4, bar.y + middle, bar.label, va="center", fontsize=7, color=ink, clip_on=True)
    for x in timeline.cuts:
        axes.axvline(x, color=INK, linestyle="--", linewidth=0.8)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(timeline.height, 0)
    axes.set_yticks([])
    axes.set_xticks([x for x, _ in timeline.ticks], [label for _, label in timeline.ticks])
    axes.spines["left"].set_visible(False)
    label_axes(
        axes, "full colour: builds; pale: students, in the colour of the generator that they share; one lane a slot"
    )
    return figure


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ran to their end."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def distributions_of(study: optuna.Study) -> dict[str, BaseDistribution]:
    """Return every parameter of the search, upstream first."""
    return {name: found for trial in study.get_trials(deepcopy=False) for name, found in trial.distributions.items()}


def _position(distribution: BaseDistribution, value: Any) -> float:
    """Return where a value lies in its range, 0..1."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if low == high:
        return 0.5
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _ticks(distribution: BaseDistribution) -> list[tuple[float, str]]:
    """Return position (0..1) and label of each choice, of ends and middle, or of the marks of a logarithmic range."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        named = len(choices) <= MAX_CHOICES_LABELLED
        return [((n + 0.5) / len(choices), str(choice) if named else "") for n, choice in enumerate(choices)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log and low < high:
        marks = log_marks(low, high)
        return [
            (_position(distribution, mark), label) for mark, label in zip(marks, marks_in_words(marks), strict=True)
        ]
    return [(0.0, f"{low:.3g}"), (0.5, f"{(low + high) / 2:.3g}"), (1.0, f"{high:.3g}")]


def _set_ticks(axes: Axes, side: str, distribution: BaseDistribution) -> None:
    places, words = zip(*_ticks(distribution), strict=True)
    if side == "x":
        axes.set_xticks(places, words)
        axes.set_xlim(-MARGIN, 1 + MARGIN)
    else:
        axes.set_yticks(places, words)
        axes.set_ylim(-MARGIN, 1 + MARGIN)


def _scale(trials: list[FrozenTrial]) -> Normalize:
    values = [_value(trial) for trial in trials]
    return Normalize(min(values), max(*values, min(values) + 1e-9))


def _add_colour_bar(figure: Figure, axes: Axes, scale: Normalize, words: str) -> None:
    bar = figure.colorbar(ScalarMappable(scale, COLOUR_MAP), ax=axes, pad=0.02, fraction=0.04)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    bar.set_label(words, fontsize=8, color=GREY)


def _on_two_lines(name: str) -> str:
    """Return a long name broken into two lines."""
    head, _, tail = name.rpartition("_")
    return f"{head}_\n{tail}" if len(name) > 14 and head else name

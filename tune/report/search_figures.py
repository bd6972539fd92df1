"""Optuna's figures of a search, made from a snapshot: one interactive page, and a PNG of each figure.

The page contains the plotting library and needs no network. It is a single page because MLflow shows an HTML artifact
without the files beside it, so that six pages would contain the library six times. The PNGs are Matplotlib's
(`tune.report.pictures.still_figures`), as Plotly would need a browser for them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from markupsafe import Markup
from matplotlib.figure import Figure
from optuna.trial import TrialState, create_trial

from hidfd.report.html import render, write_page
from hidfd.report.links import FIGURES as PAGE
from hidfd.report.links import REPORT, Link, link_to, navigation_element, navigation_of
from hidfd.store.disk import store_errors
from tune.report.labels import METRIC_NAMES, short_names
from tune.report.pictures import still_figures
from tune.report.pictures.interactive_figures import interactive_figure
from tune.report.pictures.still_figures import DrawnSearch
from tune.report.pictures.worth import CAPTION, TITLE, draw_worth, interactive_worth, is_drawable
from tune.report.selection import generator_of
from tune.report.timeline import timeline
from tune.samplers.distributions import distribution_of
from tune.study.metrics import MEASURES, optuna_direction
from tune.study.snapshot import StudySnapshot, TrialSnapshot
from tune.study.states import TaskState

FOLDER = "figures"
"""Folder of the PNGs."""

PAIR = ("distillation.inflation", "generation.smoothing.temperature")
"""Parameters to show together: how often real images are seen, and how even the classes of synthetic ones are."""

PNG_DOTS_PER_INCH = 130

STATES = {
    TaskState.COMPLETE: TrialState.COMPLETE,
    TaskState.PRUNED: TrialState.PRUNED,
    TaskState.COLLAPSED: TrialState.PRUNED,
    TaskState.DIVERGED: TrialState.PRUNED,
    TaskState.INFEASIBLE: TrialState.PRUNED,
    TaskState.FAILED: TrialState.FAIL,
}
"""State of a trial -> its state for Optuna, as in the ledger; a trial that has not ended is RUNNING."""


@dataclass(frozen=True)
class SearchFigure:
    """One of Optuna's figures of a search.

    Attributes:
        name: of its PNG, and of its element in the page.
        title, caption: what it shows, and how to read it.
        min_complete: with fewer complete students it shows nothing.
        min_parameters: with fewer searched parameters it shows nothing.
        still: draws the PNG.
        interactive: the function of `optuna.visualization` that draws it for the page.
    """

    name: str
    title: str
    caption: str
    min_complete: int
    min_parameters: int
    still: Callable[[DrawnSearch], Figure]
    interactive: str


FIGURES = (
    SearchFigure(
        "history",
        "History",
        "A dot for each student that ran to its end, in the order of suggestion; the line is the best so far.",
        min_complete=1,
        min_parameters=1,
        still=still_figures.history,
        interactive="plot_optimization_history",
    ),
    SearchFigure(
        "importance",
        "Which parameters matter",
        "By PED-ANOVA: how differently a parameter is spread among the best students and among all. Few students say "
        "little.",
        min_complete=4,
        min_parameters=2,
        still=still_figures.importance,
        interactive="plot_param_importances",
    ),
    SearchFigure(
        "parallel",
        "All parameters at once",
        "A line for each student, darker for a better one.",
        min_complete=2,
        min_parameters=2,
        still=still_figures.parallel,
        interactive="plot_parallel_coordinate",
    ),
    SearchFigure(
        "slice",
        "One parameter at a time",
        "The parameters moved together: a panel alone proves no cause. Darker dots are later students.",
        min_complete=2,
        min_parameters=1,
        still=still_figures.slices,
        interactive="plot_slice",
    ),
    SearchFigure(
        "contour",
        "Two parameters together",
        "Interpolated between the dots, which are the students; far from them the colour means nothing.",
        min_complete=3,
        min_parameters=2,
        still=still_figures.parameter_pair,
        interactive="plot_contour",
    ),
)
"""The figures of the objective that chooses the best student."""

FRONT = SearchFigure(
    "pareto",
    "Pareto front",
    "What is traded off: the students on the front are those that no other one surpasses in every objective.",
    min_complete=1,
    min_parameters=1,
    still=still_figures.front,
    interactive="plot_pareto_front",
)
"""The figure of all objectives together, where there are several; it comes first."""

MOST_AXES = 3
"""The most objectives that Optuna draws a front of."""


def write_study_figures(snapshot: StudySnapshot, folder: Path) -> Path | None:
    """Write `figures.html` and `figures/*.png` into a study's folder.

    Args:
        snapshot: of the study, at any moment.
        folder: of the study.

    Returns:
        Path of the page; None where there is nothing to draw yet.

    Raises:
        StoreError: the files cannot be written there.
    """
    with _quiet():
        drawn = _drawn_figures(snapshot)
    lanes = timeline(snapshot)
    if not drawn and lanes is None:
        return None
    with _quiet():
        interactive = {
            figure.name: interactive_figure(figure.name, figure.interactive, search) for figure, search in drawn
        }
        stills = {figure.name: figure.still(search) for figure, search in drawn}
        if lanes is not None:
            stills["timeline"] = still_figures.workers(lanes)
        if snapshot.worth is not None and is_drawable(snapshot.worth):
            interactive["worth"], stills["worth"] = interactive_worth(snapshot.worth), draw_worth(snapshot.worth)
    with store_errors("writing the figures into", folder):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for name, still in stills.items():
            still.savefig(folder / FOLDER / f"{name}.png", dpi=PNG_DOTS_PER_INCH)
        html = render(
            "tune/report/figures.html",
            about={"page": "figures", "name": snapshot.name},
            navigation=navigation_element(navigation_of("figures", folder)),
            trials=[trial_link(trial, snapshot, folder) for trial in snapshot.trials],
            snapshot=snapshot,
            worth={"name": "worth", "title": TITLE, "caption": CAPTION} if "worth" in stills else None,
            figures=[figure for figure, _ in drawn],
            interactive=interactive,
            timeline=lanes,
            library=_library() if interactive else "",
        )
        return write_page(folder / PAGE, html)


def trial_link(trial: TrialSnapshot, snapshot: StudySnapshot, folder: Path) -> Link:
    """Return a link from the page of figures to that of a search trial, by its number."""
    task = snapshot.task(trial.key) if trial.key else None
    text = str(trial.number)
    return Link(text, None) if task is None else link_to(text, Path(task.folder) / REPORT, folder)


def study_of(snapshot: StudySnapshot) -> optuna.Study:
    """Return the search as an Optuna study in memory, with the same trial numbers and with values in per cent."""
    names = short_names(snapshot.searched)
    searched = dict(snapshot.search.items())
    study = optuna.create_study(direction="maximize", study_name=snapshot.name)
    for trial in snapshot.trials:
        state = STATES.get(trial.state, TrialState.RUNNING)
        study.add_trial(
            create_trial(
                state=state,
                value=100 * (trial.value or 0.0) if state is TrialState.COMPLETE else None,
                params={names[path]: value for path, value in trial.params.items()},
                distributions={names[path]: distribution_of(searched[path]) for path in trial.params},
                intermediate_values=_rungs(trial, snapshot),
                user_attrs={"generator": _generator(trial, snapshot)},
                constraints=_constraints(trial, snapshot),
            )
        )
    return study


def front_of(snapshot: StudySnapshot) -> DrawnSearch:
    """Return the complete students of a study with several objectives as an Optuna study in memory."""
    names = [snapshot.objective, *snapshot.study.further_objectives][:MOST_AXES]
    study = optuna.create_study(directions=[optuna_direction(name) for name in names], study_name=snapshot.name)
    scales = [100.0 if MEASURES[name].unit == "share" else 1.0 for name in names]
    for trial in snapshot.trials:
        task = snapshot.task(trial.key) if trial.key else None
        if task is not None and trial.state is TaskState.COMPLETE:
            values = [scale * task.metrics[name] for name, scale in zip(names, scales, strict=True)]
            study.add_trial(create_trial(values=values, constraints=_constraints(trial, snapshot)))
    units = {"share": ", %", "ms": ", ms"}
    return DrawnSearch(study, [f"{METRIC_NAMES[name]}{units.get(MEASURES[name].unit, '')}" for name in names])


def pair_of(study: optuna.Study, snapshot: StudySnapshot) -> list[str]:
    """Return short names of two parameters to show together: `PAIR` if both are searched, else the most important."""
    names = short_names(snapshot.searched)
    if all(path in names for path in PAIR):
        return [names[path] for path in PAIR]
    if len(names) < 2:
        return []
    return list(optuna.importance.get_param_importances(study))[:2]


def _drawn_figures(snapshot: StudySnapshot) -> list[tuple[SearchFigure, DrawnSearch]]:
    """Return the figures that have enough to show, each with what it is drawn from."""
    study = study_of(snapshot)
    num_complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    figures = [
        figure
        for figure in FIGURES
        if num_complete >= figure.min_complete and len(snapshot.searched) >= figure.min_parameters
    ]
    if snapshot.best is None or not figures:
        return []
    search = DrawnSearch(study, [f"{METRIC_NAMES[snapshot.objective]}, %"], pair_of(study, snapshot))
    drawn = [(figure, search) for figure in figures]
    return [(FRONT, front_of(snapshot)), *drawn] if snapshot.front else drawn


def _constraints(trial: TrialSnapshot, snapshot: StudySnapshot) -> dict[str, float] | None:
    """Return whether a trial is feasible, as Optuna takes it; None without constraints, so that none are drawn."""
    return {"feasible": 0.0 if trial.feasible else 1.0} if snapshot.study.constraints else None


def _rungs(trial: TrialSnapshot, snapshot: StudySnapshot) -> dict[int, float]:
    task = snapshot.task(trial.key) if trial.key else None
    return {rung.images: 100 * rung.value for rung in task.rungs} if task is not None else {}


def _generator(trial: TrialSnapshot, snapshot: StudySnapshot) -> str | None:
    task = snapshot.task(trial.key) if trial.key else None
    build = generator_of(task, snapshot) if task is not None else None
    return None if build is None else build.label


def _library() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna: it calls its figures experimental, and warns of small studies as the captions do."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)

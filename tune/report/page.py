"""A study's report page: one HTML file that needs no network, made from a snapshot and its trial folders."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml

from hidfd.config.yaml_tree import value_at
from hidfd.formatting import NONE, percent, points, progress, relative_paths, setting
from hidfd.report.curves import training_pictures
from hidfd.report.figures import svg
from hidfd.report.html import Picture, render, write_page
from hidfd.report.links import FIGURES, REPORT, Link, link_to, navigation_element, navigation_of
from hidfd.store.disk import DAMAGE, store_errors
from hidfd.store.store import Store
from tune.planner.comparison import TABLE_METRICS
from tune.report import summary
from tune.report.cautions import cautions
from tune.report.champion import best_student
from tune.report.commands import mlflow_command, verb_command
from tune.report.handover import handover_of
from tune.report.labels import METRIC_NAMES, difference_cell, gain_cell, metric_cell, short_names
from tune.report.objectives import front_in_words, further_columns, missed_constraints
from tune.report.pictures import still_figures
from tune.report.pictures.generators import generator_pictures
from tune.report.pictures.panels import agreement_beside_accuracy, over_parameter, seed_dots
from tune.report.pictures.worth import CAPTION, TITLE, draw_worth, is_drawable
from tune.report.search_figures import front_of
from tune.report.selection import (
    best_of_comparison,
    best_trial,
    generator_of,
    leading_finalist,
    students,
    winning_controls,
)
from tune.report.timeline import timeline
from tune.study.metrics import written
from tune.study.snapshot import RowSnapshot, StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskState, Value
from tune.study.verdict import parts_of
from tune.study.worth.answer import cost_in_words, standing_of


def write_study_report(snapshot: StudySnapshot, folder: Path, store: Store | None = None) -> Path:
    """Write `report.html` into a study's folder and return its path; parts that the study has not reached are left out.

    Args:
        snapshot: of the study, at any moment.
        folder: of the study; links to trials are relative to it.
        store: that holds its students; without one the page does not say where their weights are.

    Raises:
        StoreError: the page cannot be written there.
    """
    html = render(
        "tune/report/study.html",
        about=summary.about_study(snapshot),
        navigation=navigation_element(navigation_of("study", folder)),
        handover=handover_of(snapshot, folder, store),
        snapshot=snapshot,
        state="finished" if snapshot.finished else "under way",
        verdict=list(parts_of(summary.conclusion_in_words(snapshot), snapshot.gains)),
        is_beaten=bool(winning_controls(snapshot)),
        leading=snapshot.gains[0].name if snapshot.gains else None,
        compared=METRIC_NAMES[snapshot.gains[0].metric] if snapshot.gains else None,
        has_search=any(row.search_value is not None for row in snapshot.comparison_rows),
        tiles=summary.headline_tiles(snapshot),
        rows=[comparison_row(row, snapshot, folder) for row in snapshot.comparison_rows],
        metrics=[METRIC_NAMES[metric] for metric in _metrics(snapshot)],
        seeds=comparison_picture(snapshot),
        worth=worth_section(snapshot, folder),
        cautions=cautions(snapshot),
        asked=summary.request_facts(snapshot),
        searched=summary.searched_parameters(snapshot),
        trials=[trial_row(trial, snapshot, folder) for trial in snapshot.trials],
        ended_badly=bad_ends(snapshot),
        parameters=short_names(snapshot.searched),
        objective=METRIC_NAMES[snapshot.objective],
        further=[METRIC_NAMES[name] for name in further_columns(snapshot)],
        has_accuracy=any("validation_accuracy" in task.metrics for task in snapshot.tasks),
        front=front_picture(snapshot),
        panels=parameter_pictures(snapshot),
        ranking=ranking_picture(snapshot),
        generators=generator_pictures(snapshot),
        builds=build_links(snapshot, folder),
        figures=link_to("Figures of the search", folder / FIGURES, folder),
        cost=summary.cost_facts(snapshot),
        timeline=timeline(snapshot),
        training=training_of_best(snapshot),
        show_best=_show_best(snapshot),
        notes=[relative_paths(note) for note in snapshot.notes],
        command=relative_paths(snapshot.command),
        mlflow=mlflow_command(snapshot),
        tracking=snapshot.tracking,
        config=relative_paths(yaml.safe_dump({"name": snapshot.name, **snapshot.settings()}, sort_keys=False)),
    )
    with store_errors("writing the report into", folder):
        return write_page(folder / REPORT, html)


def comparison_row(row: RowSnapshot, snapshot: StudySnapshot, folder: Path) -> dict[str, Any]:
    """Return what a row of the comparison table shows, by the names that the template uses."""
    finalist = leading_finalist(snapshot)
    best_params = finalist.params if finalist is not None and row.role == "control" else {}
    tasks = [task for key in row.keys if (task := snapshot.task(key))]
    gain = next((gain for gain in snapshot.gains if gain.other == row.name), None)
    misses = {missed_constraints(row.means, snapshot)} if row.role == "finalist" and not row.feasible else set()
    return {
        "name": row.name,
        "is_best": row is best_of_comparison(snapshot),
        "gain": None if gain is None else (gain_cell(gain), gain.standing),
        "image_error": points(gain.image_error) if gain is not None else None,
        "count": f"{row.num_complete}"
        if row.num_complete == len(row.keys)
        else f"{row.num_complete} of {len(row.keys)}",
        "cells": [
            (
                *metric_cell(metric, row.means.get(metric), row.deviations.get(metric)),
                percent(row.search_value) if metric == snapshot.objective and row.search_value is not None else None,
            )
            for metric in _metrics(snapshot)
        ],
        "settings": _settings(row, best_params, snapshot),
        "links": [_link(str(task.seed), task, folder) for task in tasks],
        "reasons": sorted({relative_paths(task.reason) for task in tasks if task.reason} | misses),
    }


def worth_section(snapshot: StudySnapshot, folder: Path) -> dict[str, Any] | None:
    """Return what the page shows of when a generator pays: the answer, the figure and the table of budgets."""
    worth = snapshot.worth
    if worth is None:
        return None
    return {
        "answer": worth.answer or "under way",
        "notes": worth.notes,
        "metric": METRIC_NAMES[worth.metric],
        "unit": worth.unit,
        "picture": Picture(TITLE, CAPTION, svg(draw_worth(worth))) if is_drawable(worth) else None,
        "budgets": [
            {
                "name": budget.name,
                "steps": f"{budget.steps:,}",
                "count": budget.num_complete,
                "cost": NONE if budget.cost is None else cost_in_words(budget.cost),
                "accuracy": metric_cell(worth.metric, budget.mean, budget.deviation),
                "ahead": None if budget.difference is None else difference_cell(budget.difference),
                "standing": None if budget.difference is None else standing_of(budget.difference),
                "at_equal_steps": None if budget.at_equal_steps is None else difference_cell(budget.at_equal_steps),
                "links": [_link(str(task.seed), task, folder) for key in budget.keys if (task := snapshot.task(key))],
            }
            for budget in worth.budgets
        ],
    }


def training_of_best(snapshot: StudySnapshot) -> dict[str, list[Picture]]:
    """Return the curves of the best student so far and of its generator: stage -> panels; none of a damaged file."""
    best = best_student(snapshot)
    path = Path(best.folder) / "metrics.jsonl" if best is not None else None
    if path is None or not path.is_file():
        return {}
    with contextlib.suppress(*DAMAGE):
        return training_pictures(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    return {}


def _show_best(snapshot: StudySnapshot) -> str | None:
    """Return the command that shows where the numbers of the best student so far come from."""
    best = best_student(snapshot)
    return None if best is None else verb_command("show", snapshot, best.label)


def comparison_picture(snapshot: StudySnapshot) -> Picture | None:
    """Return the picture of the comparison: each student a dot, a line for each row."""
    metric = "validation_accuracy" if "validation_accuracy" in _metrics(snapshot) else snapshot.objective
    values = {
        row.name: [
            100 * task.metrics[metric]
            for key in row.keys
            if (task := snapshot.task(key)) and task.state is TaskState.COMPLETE and metric in task.metrics
        ]
        for row in snapshot.comparison_rows
    }
    if not any(values.values()):
        return None
    name = METRIC_NAMES[metric]
    has_seeds = max(map(len, values.values())) > 1
    sure = "The verdict compares them seed by seed." if has_seeds else "One seed decides nothing."
    caption = f"A dot for each seed, a bar at their mean. {sure}"
    return Picture(name.capitalize(), caption, seed_dots(values, f"{name}, per cent"))


def trial_row(trial: TrialSnapshot, snapshot: StudySnapshot, folder: Path) -> dict[str, Any]:
    """Return what a row of the table of search trials shows, by the names that the template uses."""
    task = snapshot.task(trial.key) if trial.key else None
    build = generator_of(task, snapshot) if task else None
    is_complete = trial.state is TaskState.COMPLETE
    accuracy = task.metrics.get("validation_accuracy") if task and is_complete else None
    return {
        "is_best": trial.number == snapshot.best,
        "is_quiet": trial.state not in (TaskState.COMPLETE, TaskState.RUNNING),
        "link": _link(str(trial.number), task, folder),
        "params": [setting(trial.params[path]) if path in trial.params else NONE for path in snapshot.searched],
        "generator": _link(build.label if build else NONE, build, folder),
        "state": str(trial.state),
        "value": percent(trial.value if is_complete else None),
        "error": points(task.value_error) if task and is_complete else None,
        "accuracy": percent(accuracy),
        "further": [
            written(name, task.metrics.get(name) if task and is_complete else None)
            for name in further_columns(snapshot)
        ],
        "progress": _progress(trial, task),
        "remark": _remark(trial, task, snapshot),
        "reason": relative_paths(trial.reason or ""),
    }


def front_picture(snapshot: StudySnapshot) -> Picture | None:
    """Return the picture of the Pareto front; None with one objective."""
    words = front_in_words(snapshot)
    if words is None:
        return None
    return Picture("The Pareto front", f"{words}.", svg(still_figures.front(front_of(snapshot))))


def _remark(trial: TrialSnapshot, task: TaskSnapshot | None, snapshot: StudySnapshot) -> str:
    if trial.number == snapshot.best:
        return "best"
    if trial.number in snapshot.front:
        return "on the front"
    if not trial.feasible and task is not None:
        return missed_constraints(task.metrics, snapshot)
    return "from the store" if task and task.reused else ""


def bad_ends(snapshot: StudySnapshot) -> dict[str, list[int]]:
    """Return reason -> numbers of the search trials that collapsed, diverged, failed or could not be built for it."""
    reasons: dict[str, list[int]] = {}
    for trial in snapshot.trials:
        if (
            trial.state in (TaskState.COLLAPSED, TaskState.DIVERGED, TaskState.INFEASIBLE, TaskState.FAILED)
            and trial.reason
        ):
            reasons.setdefault(relative_paths(trial.reason), []).append(trial.number)
    return reasons


def parameter_pictures(snapshot: StudySnapshot) -> list[Picture]:
    """Return a picture of the objective over each searched parameter, once two students have ended."""
    complete = [trial for trial in snapshot.trials if trial.state is TaskState.COMPLETE and trial.value is not None]
    pruned = [(trial, rung) for trial in snapshot.trials if (rung := _last_rung_percent(trial, snapshot)) is not None]
    if len(complete) + len(pruned) < 2:
        return []
    best, names, pictures = best_trial(snapshot), short_names(snapshot.searched), []
    searched = dict(snapshot.search.items())
    for path in snapshot.searched:
        ended = [(trial.params[path], 100 * (trial.value or 0.0)) for trial in complete if path in trial.params]
        dropped = [(trial.params[path], value) for trial, value in pruned if path in trial.params]
        marked: tuple[Value, float] | None = None
        if best is not None and best.value is not None and path in best.params:
            marked = best.params[path], 100 * best.value
        y = f"{METRIC_NAMES[snapshot.objective]}, %"
        drawn = over_parameter(ended, dropped, marked, searched[path], y)
        pictures.append(Picture(names[path], path, drawn))
    return pictures


def ranking_picture(snapshot: StudySnapshot) -> Picture | None:
    """Return the picture of agreement against validation accuracy, with Kendall's tau in words; None without labels."""
    words = summary.rank_agreement_in_words(snapshot)
    groups: dict[str, list[tuple[float, float, float]]] = {"search": [], "comparisons": []}
    for task in students(snapshot):
        if task.state is TaskState.COMPLETE and {"agreement", "validation_accuracy"} <= task.metrics.keys():
            error = task.metrics.get("agreement_standard_error", 0.0)
            place = (100 * task.metrics["agreement"], 100 * error, 100 * task.metrics["validation_accuracy"])
            groups["search" if task.role == "search" else "comparisons"].append(place)
    if words is None or not any(groups.values()):
        return None
    return Picture("Agreement beside accuracy", words, agreement_beside_accuracy(groups))


def build_links(snapshot: StudySnapshot, folder: Path) -> list[Link]:
    """Return links to the pages of collections and generators that have one."""
    links = [_link(task.label, task, folder) for task in snapshot.tasks if task.kind.is_build]
    return [link for link in links if link.target is not None]


def _progress(trial: TrialSnapshot, task: TaskSnapshot | None) -> str:
    """Return how far a student came that has no final numbers (yet): its last rung, or where it is now."""
    if trial.state is TaskState.PRUNED and task is not None and task.rungs:
        rung = task.rungs[-1]
        return f"agreement {percent(rung.value)} at {rung.images:,} images"
    if trial.state is TaskState.RUNNING and task is not None and task.target_images:
        return f"{task.stage or 'at'} {progress(task.images, task.target_images)}"
    return ""


def _last_rung_percent(trial: TrialSnapshot, snapshot: StudySnapshot) -> float | None:
    """Return a pruned student's last agreement in per cent; None unless agreement is the objective, as at rungs."""
    if snapshot.objective != "agreement":
        return None
    task = snapshot.task(trial.key) if trial.key else None
    if trial.state is not TaskState.PRUNED or task is None or not task.rungs:
        return None
    return 100 * task.rungs[-1].value


def _metrics(snapshot: StudySnapshot) -> list[str]:
    """Return the columns of the comparison table: the metrics that at least one row has."""
    metrics = dict.fromkeys([*TABLE_METRICS, *further_columns(snapshot)])
    return [metric for metric in metrics if any(metric in row.means for row in snapshot.comparison_rows)]


def _settings(row: RowSnapshot, best_params: dict[str, Value], snapshot: StudySnapshot) -> str:
    """Return how a row differs: a control from the best trial, any other row from the study's own `trial:`."""
    if row.role == "finalist":
        return f"the settings of trial {row.trial} on fresh seeds"
    own = snapshot.trial.model_dump(mode="json")
    differing = {
        path: value
        for path, value in row.params.items()
        if value != best_params.get(path, value_at(own, path.split(".")))
    }
    return ", ".join(f"{path} {setting(value)}" for path, value in differing.items()) or "as the study file says"


def _link(text: str, task: TaskSnapshot | None, folder: Path) -> Link:
    return Link(text, None) if task is None else link_to(text, Path(task.folder) / REPORT, folder)

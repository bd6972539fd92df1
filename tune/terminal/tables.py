"""Snapshots and forecasts as tables and lines for terminals. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hidfd.formatting import (
    NONE,
    duration,
    duration_range,
    listed,
    percent,
    percent_with_error,
    plural,
    short_setting,
    size,
    used_of,
)
from hidfd.pipeline.costs import Range
from hidfd.pipeline.network_sizes import unknown_networks
from hidfd.text_table import TextColumn, TextTable
from tune.planner.budget import units_of
from tune.planner.forecast import Forecast
from tune.report.labels import metric_cell, short_names
from tune.report.objectives import BEST_MARK, FRONT_MARK, further_columns, missed_constraints
from tune.report.selection import best_of_comparison, generator_of, leading_finalist
from tune.study.definition import Definition
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskState

NOUNS = {"teacher": "teacher", "collection": "collection", "generation": "generator", "distillation": "student"}
"""Stage -> the noun for what it makes."""

OFTEN_SEEN = 30
"""Number of times that a student may see each view of its bank before a plan warns. Ten was best at 1,200 and at 10,800
steps; 86 cost real-only 2.7 points and hybrid 1.9 (docs/experiments.md, 2026-12-01)."""


def trials_table(snapshot: StudySnapshot) -> TextTable | None:
    """Return the table of search trials: the complete ones first, the best on top; None without a search.

    Its last column says why a trial has no number; one that is its generator's, or that several share, is left to
    `shared_reasons`.
    """
    if not snapshot.trials:
        return None
    names = short_names(snapshot.searched)
    has_labels = any("validation_accuracy" in task.metrics for task in snapshot.tasks)
    has_accuracy = has_labels and snapshot.objective != "validation_accuracy"
    further = further_columns(snapshot)
    columns = [TextColumn(""), TextColumn("trial"), TextColumn("generator", 3)]
    columns += [TextColumn(name, 4, is_right=True) for name in names.values()]
    columns.append(TextColumn(snapshot.objective.replace("_", " "), is_right=True))
    columns += [TextColumn("validation accuracy", 1, is_right=True)] * has_accuracy
    columns += [TextColumn(MEASURES[name].in_words, 2, is_right=True) for name in further]
    table = TextTable([*columns, TextColumn("", 5, says_all=True)], title="Search")
    order = sorted(
        snapshot.trials,
        key=lambda trial: (trial.value is None, not trial.feasible, -(trial.value or 0.0), trial.number),
    )
    shared = {trial.number for trials in _trials_by_reason(snapshot).values() for trial in trials}
    for trial in order:
        task = snapshot.task(trial.key) if trial.key else None
        mark = BEST_MARK if trial.number == snapshot.best else FRONT_MARK if trial.number in snapshot.front else ""
        cells = [mark, str(trial.number), _generator(snapshot, task)]
        cells += [short_setting(trial.params.get(path)) for path in names]
        cells.append(percent_with_error(trial.value, task.value_error if task else None))
        is_complete = task is not None and trial.state is TaskState.COMPLETE
        if has_accuracy:
            cells.append(percent(task.metrics.get("validation_accuracy") if task and is_complete else None))
        cells += [written(name, task.metrics.get(name) if task and is_complete else None) for name in further]
        remark = trial.state.value if trial.number in shared else _remark(trial, task)
        table.add_row(*cells, remark or (missed_constraints(task.metrics, snapshot) if task else ""))
    return table


def shared_reasons(snapshot: StudySnapshot) -> list[str]:
    """Return a line for each generator that ended its trials, and for each other reason that several trials share."""
    lines = []
    for (generator, reason), trials in _trials_by_reason(snapshot).items():
        numbers = listed("trial", [trial.number for trial in trials])
        where = numbers if generator is None else f"{generator} ({numbers})"
        lines.append(f"{where}: {reason.removeprefix(f'{generator} ')}")
    return lines


def _trials_by_reason(snapshot: StudySnapshot) -> dict[tuple[str | None, str], list[TrialSnapshot]]:
    """Return (generator, reason) -> trials, of reasons that are a generator's own or that several trials have."""
    found: dict[tuple[str | None, str], list[TrialSnapshot]] = {}
    own: set[tuple[str | None, str]] = set()
    for trial in snapshot.trials:
        if trial.reason and trial.state not in (TaskState.COMPLETE, TaskState.PRUNED):
            task = snapshot.task(trial.key) if trial.key else None
            build = generator_of(task, snapshot) if task else None
            where = None if build is None else build.label, trial.reason
            found.setdefault(where, []).append(trial)
            if build is not None and build.state.is_final and build.state is not TaskState.COMPLETE:
                own.add(where)
    return {where: trials for where, trials in found.items() if len(trials) > 1 or where in own}


def comparison_table(snapshot: StudySnapshot) -> TextTable | None:
    """Return the comparison table, a line per setting; None without one."""
    if not snapshot.comparison_rows:
        return None
    metrics = [
        (name, heading)
        for name, heading in (
            ("agreement", "agreement"),
            ("validation_accuracy", "validation accuracy"),
            ("test_accuracy", "test accuracy"),
            ("generator.memorisation", "memorisation"),
        )
        if any(name in row.means for row in snapshot.comparison_rows)
    ]
    further = further_columns(snapshot)
    finalists = [row for row in snapshot.comparison_rows if row.role == "finalist"]
    best = leading_finalist(snapshot)
    title = "Comparison"
    if len(finalists) > 1:
        title = f"Finalists on fresh seeds{f', and the controls of {best.name}' if best else ''}"
    elif finalists:
        title = f"Trial {snapshot.best} beside its controls, on fresh seeds"
    headings = [*(heading for _, heading in metrics), *(MEASURES[name].in_words for name in further)]
    columns = [TextColumn(""), TextColumn("n", is_right=True)]
    columns += [TextColumn(heading, rank, is_right=True) for rank, heading in enumerate(headings, start=1)]
    table = TextTable(columns, title=title)
    for row in snapshot.comparison_rows:
        is_infeasible = row.role == "finalist" and not row.feasible
        name = f"{row.name} (infeasible)" if is_infeasible else row.name
        cells = [f"{name} {BEST_MARK}" if row is best_of_comparison(snapshot) else name, str(row.num_complete)]
        cells += [percent_with_error(row.means.get(name), row.deviations.get(name)) for name, _ in metrics]
        for name in further:
            value, error = metric_cell(name, row.means.get(name), row.deviations.get(name))
            cells.append(f"{value} ± {error}" if error else value)
        table.add_row(*cells)
    return table


def task_table(tasks: Iterable[TaskSnapshot]) -> TextTable:
    """Return a table of tasks: their state, and how far they came, for how long and where."""
    columns = [
        TextColumn("task"),
        TextColumn("state", says_all=True),
        TextColumn("stage", 3),
        TextColumn("images", 1, True),
    ]
    columns += [TextColumn("took", 2, True), TextColumn("on", 4), TextColumn("", 5, says_all=True)]
    table = TextTable(columns)
    for task in tasks:
        images = f"{task.images:,}" + (f" of {task.target_images:,}" if task.target_images else "")
        if task.state is TaskState.COMPLETE and task.target_images:
            images = f"{task.target_images:,}"  # the images of a build's last stage are not those of its longest one
        took = "reused" if task.reused else duration(task.seconds) if task.seconds else ""
        node = task.attempts[-1].node if task.attempts else ""
        row = (task.label, task.state.value, task.stage or "", images if task.images else "", took, node)
        table.add_row(*row, task.reason or "")
    return table


def budget_in_words(snapshot: StudySnapshot) -> str | None:
    """Return how much of the budget is used; None without a budget."""
    budget = snapshot.study.budget
    used = [
        used_of(snapshot.spent[name], limit, unit)
        for name, unit in units_of(budget.currency).items()
        if (limit := getattr(budget, name)) is not None
    ]
    return f"{', '.join(used)} used" if used else None


def forecast_table(forecast: Forecast) -> TextTable:
    """Return the table of a plan, a line per stage."""
    columns = [TextColumn("what"), TextColumn("in all"), TextColumn("in the store", 1), TextColumn("each", 2)]
    table = TextTable([*columns, TextColumn("left to do"), TextColumn("storage", 3)], has_rule=False)
    for row in forecast.rows:
        is_unknown = row.each is None and row.what in ("generation", "distillation") and row.left.high > 0
        each = f"~ {duration(row.each.expected)}" if row.each else "not known" if is_unknown else ""
        left = f"~ {_with_range(row.seconds)}" if row.each else ""
        storage = size(row.left.high * row.bytes_each) if row.left.high else ""
        table.add_row(row.what, str(row.count), str(row.built), each, left, storage)
    return table


def forecast_lines(forecast: Forecast, definition: Definition) -> list[str]:
    """Return what belongs to a plan besides its table, a line each."""
    prunes = bool(definition.rungs) and bool(definition.search)
    lines = [f"~ expected, {forecast.basis}{'; the low end has pruning stop what it can' if prunes else ''}"]
    unknown = list(dict.fromkeys(name for trial in definition.trials_of_networks for name in unknown_networks(trial)))
    if unknown:
        lines.append(
            f"not known: operations and sizes of {' and '.join(unknown)}, and what depends on them, until "
            f"`python -m hidfd import FILE` or a run has built it once"
        )
    if forecast.num_unsuggested:
        lines.append(
            f"{plural(forecast.num_unsuggested, 'student is', 'students are')} not suggested yet: what the store has "
            f"of {'it' if forecast.num_unsuggested == 1 else 'them'} is known only then"
        )
    if forecast.num_users:
        generators = plural(forecast.num_generators, "generator")
        lines.append(
            f"sharing: {plural(forecast.num_users, 'student uses', 'students use')} {generators}; one for each would "
            f"take ~ {duration(forecast.saved_seconds)} more"
        )
    if forecast.worth:
        lines.append(_worth_in_words(forecast, definition))
        worn_out = _worn_out_bank_in_words(definition)
        lines += [] if worn_out is None else [worn_out]
    lines += left_in_words(forecast, definition)
    if not forecast.seconds.high:
        return lines
    gpus = f" and {plural(forecast.gpus, 'GPU')}" if forecast.gpus else ""
    views = forecast.cache_bytes_left
    cached = f", its cache of views by {size(views)} at most" if views else ""
    at_once = f"at once: {plural(forecast.cpus, 'CPU')}{gpus}"
    lines.append(f"{at_once}; the store grows by ~ {size(forecast.bytes_left)}{cached}")
    if definition.base.data.test is not None and definition.study.test_labels == "once" and definition.search:
        lines.append("at the end the test labels are opened for the best trial and its controls (study.test_labels)")
    return lines


def _worth_in_words(forecast: Forecast, definition: Definition) -> str:
    """Return what each arm of `study.worth` takes in all, and that the students of a seed share its generator."""
    budgets = definition.worth_budgets
    parts = []
    for name, (count, seconds) in forecast.worth.items():
        took = "" if seconds is None else f" ~ {duration(seconds.expected)}"
        if name == "generators":
            parts.append(
                f"{plural(count, 'generator')}{took}, one for each seed, which all hybrid students of it share"
            )
            continue
        steps = [f"{budget.steps:,}" for budget in budgets if budget.arm == name]
        parts.append(f"{plural(count, f'{name} student')} of {', '.join(steps)} steps{took}")
    return f"when a generator pays (study.worth), in all: {'; '.join(parts)}"


def _worn_out_bank_in_words(definition: Definition) -> str | None:
    """Return a warning where the longest students of `study.worth` see each view of their bank very often."""
    student = definition.base.distillation
    images = max(budget.steps for budget in definition.worth_budgets) * student.batch_images
    if not student.view_bank or images <= OFTEN_SEEN * student.view_bank:
        return None
    times = round(images / student.view_bank)
    return (
        f"view_bank: the longest of them see each of {student.view_bank:,} views {times:,} times, which holds "
        f"real-only back more than hybrid; for ten times each: trial.distillation.view_bank={math.ceil(images / 10)}"
    )


def left_in_words(forecast: Forecast, definition: Definition) -> list[str]:
    """Return what a study has still to do, and the limits of its budget that may not suffice; a line each."""
    counts = [plural(count, NOUNS[row.what]) for row in forecast.rows if (count := math.ceil(row.left.high))]
    if not counts:
        return ["left to do: nothing that takes long"]
    words = f"left to do: {', '.join(counts)}: ~ {_with_range(forecast.seconds)} of work"
    words += f", {forecast.side} side by side: ~ {_with_range(forecast.clock_seconds)}"
    budget = definition.study.budget
    for name, unit in (("cpu_hours", "CPU-hours"), ("gpu_hours", "GPU-hours"), ("money", budget.currency)):
        amount = forecast.amounts[name]
        if amount.high:
            words += f", ~ {amount.expected:.3g} {unit} ({amount.low:.3g} to {amount.high:.3g})"
    return [words, *forecast.short_of]


def _with_range(seconds: Range) -> str:
    return duration_range(seconds.expected, seconds.low, seconds.high)


def _remark(trial: TrialSnapshot, task: TaskSnapshot | None) -> str:
    if trial.state is TaskState.COMPLETE:
        return ""
    if trial.state is TaskState.PRUNED and task is not None and task.rungs:
        last = task.rungs[-1]
        return f"pruned at {last.images:,} images with {percent(last.value)}"
    return trial.reason or trial.state.value


def _generator(snapshot: StudySnapshot, task: TaskSnapshot | None) -> str:
    build = generator_of(task, snapshot) if task else None
    return NONE if build is None else build.label.removeprefix("generator-")

"""The students of `study.worth` as far as they are measured: accuracy and total cost on each seed, and the answer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hidfd.formatting import plural
from tune.study.definition import Definition
from tune.study.snapshot import WorthBudgetSnapshot, WorthSnapshot
from tune.study.states import TaskKind, TaskState
from tune.study.task import Task
from tune.study.worth.answer import answer_in_words, cost_in_words
from tune.study.worth.budgets import WorthBudget
from tune.study.worth.equal_cost import Arm, crossings_of, differences_at_equal_cost, differences_at_equal_steps


def worth_of(
    definition: Definition,
    students: Mapping[str, Sequence[str]],
    tasks: Mapping[str, Task],
    *,
    has_ended: bool = False,
) -> WorthSnapshot | None:
    """Return when a generator pays, as far as it is measured; None where the study does not ask.

    The cost of a student is the time that building it took, times the GPUs that it held, or the CPUs without any; for
    hybrid its whole generator counts as well. The collection, which both arms need, does not.

    Args:
        definition: of the study.
        students: name of a budget -> keys of its students, one per seed.
        tasks: key -> task of the study.
        has_ended: whether no number is to come any more.
    """
    if not definition.worth_budgets:
        return None
    has_labels = definition.base.data.validation is not None
    metric = "validation_accuracy" if has_labels else definition.study.objective
    budgets = [
        _measured(budget, students.get(budget.name, ()), tasks, metric, definition.resources)
        for budget in definition.worth_budgets
    ]
    hybrid, real_only = (_arm(budgets, arm) for arm in ("hybrid", "real-only"))
    num_images = _num_images(budgets, tasks) if has_labels else None
    differences = differences_at_equal_cost(hybrid, real_only, num_images)
    at_equal_steps = {found.steps: found for found in differences_at_equal_steps(hybrid, real_only, num_images)}
    crossings = crossings_of(differences)
    by_steps = {difference.steps: difference for difference in differences}
    shown = tuple(
        replace(budget, difference=by_steps[budget.steps], at_equal_steps=at_equal_steps[budget.steps])
        if budget.arm == "hybrid"
        else budget
        for budget in budgets
    )
    keys = [key for budget in budgets for key in budget.keys]
    all_ended = has_ended or (bool(keys) and all(_has_ended(key, tasks) for key in keys))
    unit = "GPU-seconds" if definition.resources.get("gpus", 0.0) > 0 else "CPU-seconds"
    return WorthSnapshot(
        metric=metric,
        unit=unit,
        budgets=shown,
        crossings=tuple(crossings),
        answer=answer_in_words(differences, crossings) if all_ended else None,
        notes=tuple(_notes(shown, tasks, unit)) if all_ended else (),
    )


def _measured(
    budget: WorthBudget, keys: Sequence[str], tasks: Mapping[str, Task], metric: str, resources: Mapping[str, float]
) -> WorthBudgetSnapshot:
    values = tuple(_value(tasks.get(key), metric) for key in keys)
    costs = tuple(_cost(tasks.get(key), tasks, resources) for key in keys)
    known = [value for value in values if value is not None]
    known_costs = [cost for cost in costs if cost is not None]
    return WorthBudgetSnapshot(
        name=budget.name,
        arm=budget.arm,
        steps=budget.steps,
        keys=tuple(keys),
        values=values,
        costs=costs,
        mean=statistics.fmean(known) if known else None,
        deviation=statistics.stdev(known) if len(known) > 1 else None,
        cost=statistics.fmean(known_costs) if known_costs else None,
    )


def _has_ended(key: str, tasks: Mapping[str, Task]) -> bool:
    task = tasks.get(key)
    return task is not None and task.outcome is not None


def _value(task: Task | None, metric: str) -> float | None:
    outcome = None if task is None else task.outcome
    return outcome.metrics.get(metric) if outcome is not None and outcome.state is TaskState.COMPLETE else None


def _cost(student: Task | None, tasks: Mapping[str, Task], resources: Mapping[str, float]) -> float | None:
    """Return the cost of a student with its generator, if it has one; None while a part of it is not known."""
    if student is None:
        return None
    needed = [task for key in student.spec.needs if (task := tasks.get(key))]
    parts = [student, *(task for task in needed if task.spec.kind is TaskKind.GENERATOR)]
    total = 0.0
    for task in parts:
        seconds = None if task.outcome is None else task.outcome.build_seconds
        held = task.attempts[-1].resources if task.attempts else resources
        processors = held.get("gpus", 0.0) if resources.get("gpus", 0.0) > 0 else held.get("cpus", 1.0)
        if not seconds or not processors:
            return None
        total += seconds * processors * max(1.0, held.get("workers", 1.0))
    return total


def _arm(budgets: Sequence[WorthBudgetSnapshot], arm: str) -> Arm:
    return {budget.steps: (budget.cost, budget.values) for budget in budgets if budget.arm == arm}


def _num_images(budgets: Sequence[WorthBudgetSnapshot], tasks: Mapping[str, Task]) -> float | None:
    """Return the number of validation images, as measured beside a student."""
    outcomes = (task.outcome for budget in budgets for key in budget.keys if (task := tasks.get(key)))
    found = (outcome.metrics.get("validation_images") for outcome in outcomes if outcome is not None)
    return next((count for count in found if count), None)


def _notes(budgets: Sequence[WorthBudgetSnapshot], tasks: Mapping[str, Task], unit: str) -> list[str]:
    """Return what the answer leaves out, and which costs are not of this study, in words."""
    notes = []
    reached = [budget.cost for budget in budgets if budget.arm == "real-only" and budget.cost is not None]
    for budget in budgets:
        num_seeds = len(budget.keys)
        silent = sum(value is None for value in budget.values)
        if silent:
            notes.append(f"{budget.name}: no number of {plural(silent, 'student')} of {num_seeds}")
        unknown = sum(
            cost is None and value is not None for cost, value in zip(budget.costs, budget.values, strict=True)
        )
        if unknown:
            notes.append(f"{budget.name}: the cost of {plural(unknown, 'student')} of {num_seeds} is not known")
        difference = budget.difference
        outside = 0 if difference is None else budget.num_complete - difference.num_seeds
        if outside and budget.cost is not None and reached:
            seeds = "" if outside == num_seeds else f" on {plural(outside, 'seed')} of {num_seeds}"
            measured = f"{cost_in_words(min(reached))} to {cost_in_words(max(reached))}"
            other = "longer" if budget.cost > min(reached) else "shorter"
            notes.append(
                f"{budget.name} is left out{seeds}: it costs {cost_in_words(budget.cost)} {unit}, and real-only was "
                f"measured from {measured}; with a {other} budget in study.worth the same command goes on"
            )
    students = [tasks[key] for budget in budgets for key in budget.keys if key in tasks]
    reused = sum(task.outcome is not None and task.outcome.reused for task in students)
    if reused:
        notes.append(
            f"{plural(reused, 'student was', 'students were')} in the store already: their costs are the seconds that "
            f"they took there, whatever machine that was"
        )
    return notes

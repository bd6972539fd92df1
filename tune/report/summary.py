"""A study's request, result and cost in words, for its page, MLflow and the terminal."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from hidfd.formatting import (
    NONE,
    duration,
    grouped,
    number,
    ordinal,
    percent,
    percent_with_error,
    plural,
    points,
    setting,
)
from hidfd.report.html import Tile
from hidfd.store.disk import DAMAGE
from tune.planner.comparison import TABLE_METRICS, TRUSTED_TAU
from tune.report.labels import METRIC_NAMES, metric_cell
from tune.report.objectives import (
    constraints_in_words,
    further_columns,
    missed_constraints,
    trade_offs_in_words,
    why_no_champion,
)
from tune.report.selection import best_trial, generator_of, leading_finalist, students, teacher_accuracy
from tune.study.config import CategoricalParameter, IntParameter, PrunerConfig, RealParameter
from tune.study.snapshot import RowSnapshot, StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskKind, TaskState

FEW_STUDENTS = 10
"""Number of students below which a rank correlation says little."""


def conclusion_in_words(snapshot: StudySnapshot) -> str:
    """Return the result in a sentence; until there is one, how far the study is."""
    if snapshot.verdict:
        return snapshot.verdict
    if snapshot.worth is not None and snapshot.worth.answer and not snapshot.comparison_rows and not snapshot.trials:
        return snapshot.worth.answer
    ended = Counter(task.state for task in students(snapshot))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(ended.items())) or "none yet"
    best = best_trial(snapshot)
    leader = "" if best is None else f" The best trial so far is number {best.number} with {percent(best.value)}."
    if not snapshot.finished:
        return f"Under way, so there is no verdict yet. Students: {counts}.{leader}"
    if snapshot.comparison_rows and not any(row.role == "finalist" for row in snapshot.comparison_rows):
        seeds, variants = plural(len(snapshot.study.seeds), "seed"), plural(len(snapshot.comparison_rows), "variant")
        return f"{variants} on {seeds} each, side by side below. Students: {counts}."
    reason = why_no_champion(snapshot)
    if reason is not None:
        return f"There is no champion: {reason}. Students: {counts}."
    if leading_finalist(snapshot) is not None and not any(row.role == "control" for row in snapshot.comparison_rows):
        return f"The study has ended without a verdict: nothing was compared with its best trial. Students: {counts}."
    return f"The study has ended without a verdict: part of the comparison has no number. Students: {counts}."


def about_study(snapshot: StudySnapshot) -> dict[str, Any]:
    """Return what the study's page says of itself to the page over all results."""
    row, best, name = leading_finalist(snapshot), best_trial(snapshot), METRIC_NAMES[snapshot.objective]
    variants = [row for row in snapshot.comparison_rows if row.role == "variant" and snapshot.objective in row.means]
    value = ""
    if row is None and variants:
        row = max(variants, key=lambda variant: variant.means[snapshot.objective])
    if row is not None and snapshot.objective in row.means:
        on = f"{row.name}, {plural(row.num_complete, 'fresh seed')}"
        value = (
            f"{name} {percent_with_error(row.means[snapshot.objective], row.deviations.get(snapshot.objective))} ({on})"
        )
    elif best is not None:
        value = f"{name} {percent(best.value)} (trial {best.number}, the best so far)"
    times = [attempt.ended or attempt.last_seen for task in snapshot.tasks for attempt in task.attempts]
    state = "finished" if snapshot.finished else "under way"
    return {"page": "study", "name": snapshot.name, "state": state, "best": value, "when": max(times, default=None)}


def headline_tiles(snapshot: StudySnapshot) -> list[Tile]:
    """Return the few numbers to see first, as far as the study has them."""
    tiles, row, best = [], leading_finalist(snapshot), best_trial(snapshot)
    if row is not None:
        tiles += _finalist_tiles(row, snapshot)
    elif best is not None:
        tiles.append(_trial_tile(best, snapshot))
    teacher = teacher_accuracy(snapshot)
    if teacher is not None:
        tiles.append(Tile("The teacher's validation accuracy", percent(teacher), "what a student is measured against"))
    generators = {build.key for task in students(snapshot) if (build := generator_of(task, snapshot))}
    if students(snapshot):
        meaning = f"on {plural(len(generators), 'generator')}; each generator was built once and shared"
        tiles.append(Tile("Students", str(len(students(snapshot))), meaning))
    if snapshot.cpu_seconds:
        meaning = f"of processor time; {duration(busy_seconds(snapshot))} by the clock while anything ran"
        tiles.append(Tile("CPU-seconds", grouped(snapshot.cpu_seconds), meaning))
    return tiles


def request_facts(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    """Return what the study was asked for: the name of each setting, and its value in words."""
    study, trial = snapshot.study, snapshot.trial
    objective = {
        "agreement": "agreement with the teacher on held-out images of the candidate pool; it needs no labels",
        "validation_accuracy": "accuracy on the labelled validation images",
    }[snapshot.objective]
    facts = [("Maximised", objective)]
    if study.further_objectives:
        chosen = f"the finalists are the students on the Pareto front with the most {METRIC_NAMES[snapshot.objective]}"
        facts.append(("Traded off", f"{trade_offs_in_words(snapshot)}; {chosen}"))
    if study.constraints:
        facts.append(("Constraints", constraints_in_words(snapshot)))
    if snapshot.num_students:
        facts += _search_facts(snapshot)
    if study.variants:
        facts.append(("Variants", ", ".join(study.variants)))
    if study.worth:
        budgets = f"students of {', '.join(f'{steps:,}' for steps in study.worth)} steps"
        facts.append(("When a generator pays", f"{budgets}, hybrid and real-only, at equal total cost"))
    facts.append(("Fresh seeds", f"{', '.join(map(str, study.seeds))}, each for generator, synthesis and student"))
    data, teacher, collection, student = trial.data, trial.teacher, trial.collection, trial.distillation
    origin = "trained here" if teacher.train else "from a checkpoint"
    facts.append(("Teacher", f"{teacher.architecture}, {origin}, {data.num_classes} classes"))
    domain = "in-domain" if data.candidates_in_domain else "not said to be in-domain"
    held_out = f"{collection.holdout_images:,} others held out to measure agreement on"
    facts.append(("Real images", f"{collection.num_images:,} collected (the pool is {domain}); {held_out}"))
    budget = f"{student.target_images:,} images in batches of {student.batch_images}"
    facts.append(("Student", f"{student.architecture}, {budget}"))
    if trial.method != "hidfd":
        facts.append(("Method", f"{trial.method}, in place of generation, synthesis and distillation"))
    return facts


def searched_parameters(snapshot: StudySnapshot) -> list[tuple[str, str, str]]:
    """Return path, range and the best trial's value of every searched parameter."""
    best = best_trial(snapshot)
    parameters = dict(snapshot.search.items())
    return [
        (path, _range_in_words(parameters[path]), NONE if best is None else setting(best.params.get(path)))
        for path in snapshot.searched
    ]


def cost_facts(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    """Return what the study cost, and what sharing, early stopping and the store saved."""
    facts = []
    if snapshot.cpu_seconds:
        facts.append(("CPU-seconds", f"{grouped(snapshot.cpu_seconds)} ({_cpu_seconds_by_purpose(snapshot)})"))
        facts.append(("By the clock", f"{duration(busy_seconds(snapshot))} during which something ran"))
    users = Counter(
        build.key
        for task in students(snapshot)
        if (task.attempts or task.reused) and (build := generator_of(task, snapshot))
    )
    if users:
        saved = sum((count - 1) * _build_seconds(snapshot.task(key)) for key, count in users.items())
        served = f"{plural(len(users), 'generator')} served {plural(sum(users.values()), 'student')}"
        facts.append(("Sharing", f"{served}; one for each would have taken about {duration(saved)} more"))
    pruned = [task for task in students(snapshot) if task.state is TaskState.PRUNED and task.target_images]
    if pruned:
        whole = round(sum(1 - task.images / (task.target_images or 1) for task in pruned), 1)
        noun = "one" if whole == 1 else "ones"
        facts.append(
            ("Stopping early", f"{plural(len(pruned), 'student')}; this saved the work of {whole:.1f} whole {noun}")
        )
    num_reused = sum(task.reused for task in snapshot.tasks)
    if num_reused:
        facts.append(("From the store", f"{num_reused} of {len(snapshot.tasks)} tasks, which had been built before"))
    return facts


def rank_agreement_in_words(snapshot: StudySnapshot) -> str | None:
    """Return whether agreement ranks students as accuracy does; None without labels or with too few students."""
    tau, count = snapshot.rank_agreement, snapshot.rank_agreement_count
    if tau is None:
        return None
    words = (
        f"Kendall’s τ = {tau:.2f} over {count} students: of two students of one kind (the same sources of images, size "
        f"of the collection and head), the one that agrees more with the teacher is also the more accurate one in "
        f"{percent((1 + tau) / 2, 0)} of the pairs."
    )
    if tau < TRUSTED_TAU:
        words += f" Below {TRUSTED_TAU}, agreement does not rank students as labels do: do not trust its choice."
    return words + (" So few students say little." if count < FEW_STUDENTS else "")


def busy_seconds(snapshot: StudySnapshot) -> float:
    """Return the seconds by the clock during which at least one task ran."""
    total, until = 0.0, float("-inf")
    for start, end in sorted((a.started, a.ended or a.last_seen) for task in snapshot.tasks for a in task.attempts):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _finalist_tiles(row: RowSnapshot, snapshot: StudySnapshot) -> list[Tile]:
    n = f"mean over n = {row.num_complete} fresh seeds, ± their sd" if row.num_complete > 1 else "on 1 fresh seed"
    tiles = []
    for metric in TABLE_METRICS:
        if metric in row.means:
            meaning = f"of {row.name}, {n}"
            if metric == "generator.memorisation":
                meaning = "5 % is expected without copying"
            if metric == snapshot.objective and row.search_value is not None:
                meaning += f"; in the search trial {row.trial} had {percent(row.search_value)}, which chose it"
            error = points(row.deviations.get(metric))
            tiles.append(Tile(METRIC_NAMES[metric].capitalize(), percent(row.means[metric]), meaning, error))
    for metric in further_columns(snapshot):
        value, error = metric_cell(metric, row.means.get(metric), row.deviations.get(metric))
        meaning = missed_constraints(row.means, snapshot) or f"of {row.name}, {n}"
        tiles.append(Tile(METRIC_NAMES[metric].capitalize(), value, meaning, error))
    return tiles


def _trial_tile(best: TrialSnapshot, snapshot: StudySnapshot) -> Tile:
    task = snapshot.task(best.key or "")
    return Tile(
        METRIC_NAMES[snapshot.objective].capitalize(),
        percent(best.value),
        f"of trial {best.number}, the best so far; this very number chose it, so it is too high",
        points(task.value_error) if task else None,
    )


def _search_facts(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    study = snapshot.study
    begins = f" (at random until {plural(study.startup_students, 'student has', 'students have')} ended)"
    sampler = {
        "tpe": f"Optuna's TPE{begins}",
        "stage-aware": f"the stage-aware sampler{begins}",
        "random": "at random",
        "grid": "a grid",
    }[study.sampler]
    each = study.students_per_generator
    shared = f"for every {ordinal(each)} student; those between share it" if each > 1 else "for every student"
    if study.sampler == "grid":
        shared = "whenever the grid changes one of its parameters; students with equal ones share it"
    elif study.sampler == "stage-aware":
        shared = "where it promises more per operation than another student on a generator that exists"
    controls = [name.replace("_", "-") for name, is_on in study.controls if is_on is True]
    return [
        ("Search", f"{plural(snapshot.num_students, 'student')}, suggested by {sampler}"),
        ("Generators", f"a new one {shared}"),
        ("Stopping early", _pruner_in_words(study.pruner, snapshot.trial.distillation.target_images)),
        ("Controls", f"{', '.join(controls)}, for the same number of student steps" if controls else NONE),
    ]


def _range_in_words(parameter: RealParameter) -> str:
    if isinstance(parameter, CategoricalParameter):
        return "one of " + ", ".join(map(setting, parameter.choices))
    is_every_integer = isinstance(parameter, IntParameter) and parameter.step == 1
    steps = f", in steps of {setting(parameter.step)}" if parameter.step and not is_every_integer else ""
    log = ", on a logarithmic scale" if parameter.log else ""
    return f"{setting(parameter.low)} to {setting(parameter.high)}{steps}{log}"


def _pruner_in_words(pruner: PrunerConfig, target_images: int) -> str:
    if pruner.kind == "none":
        return "none: every student runs to its end"
    share, keep = percent(pruner.first_rung_fraction, 0), setting(pruner.reduction_factor)
    first = number(round(pruner.first_rung_fraction * target_images))
    return (
        f"ASHA: students are compared at exactly equal images, first at {share} of their budget (about {first}); "
        f"the best 1 in {keep} of those seen so far go on"
    )


def _cpu_seconds_by_purpose(snapshot: StudySnapshot) -> str:
    purposes = {
        "builds": [task for task in snapshot.tasks if task.kind.is_build],
        "search": [task for task in students(snapshot) if task.role == "search"],
        "comparisons": [task for task in students(snapshot) if task.role not in ("search", "worth")],
        "worth": [task for task in students(snapshot) if task.role == "worth"],
        "test labels": [task for task in snapshot.tasks if task.kind is TaskKind.TEST_EVALUATION],
    }
    spent = {
        purpose: sum(attempt.cpu_seconds or 0 for task in tasks for attempt in task.attempts)
        for purpose, tasks in purposes.items()
    }
    return ", ".join(f"{grouped(seconds)} {purpose}" for purpose, seconds in spent.items() if seconds)


def _build_seconds(build: TaskSnapshot | None) -> float:
    """Return how long a generator and its images took to build, also when the store had them: its manifest knows."""
    if build is None:
        return 0.0
    path = Path(build.folder) / "manifest.json"
    if not path.is_file():
        return build.seconds
    with contextlib.suppress(*DAMAGE):
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return float(sum(stage["seconds"] or 0.0 for stage in stages if stage["role"] in ("generation", "synthesis")))
    return build.seconds

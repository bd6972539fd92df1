"""What a study was asked for, what it found and cost, and what its numbers do not say: in words, for its page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

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
from tune.planner.comparison import TABLE_METRICS, TRUSTED_TAU, best_finalist
from tune.report.objectives import (
    cautions_of_trade_offs,
    constraints_in_words,
    further_columns,
    missed,
    traded_off,
    why_no_champion,
)
from tune.study.config import CategoricalParameter, IntParameter, PrunerConfig, RealParameter
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import RowSnapshot, StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskKind, TaskState

EXPECTED_MEMORISATION = 0.05
"""Share of samples that lie so near to a collected image without any copying (the threshold's own definition)."""

FEW_STUDENTS = 10
"""A rank correlation over fewer says little."""

METRIC_NAMES = {name: measure.in_words for name, measure in MEASURES.items()} | {
    "test_accuracy": "test accuracy",
    "generator.memorisation": "memorisation",
}


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Dotted path -> as many of its last components as tell it from the others."""
    known = list(dict.fromkeys(paths))
    return {path: next((name for name in _endings(path) if _is_unambiguous(name, known)), path) for path in known}


def generator_of(task: TaskSnapshot, snapshot: StudySnapshot) -> TaskSnapshot | None:
    """The build of the synthetic images that a student rests on, or that a build is; None for real images only."""
    chain = [task, *(found for key in task.needs if (found := snapshot.task(key)))]
    return next((found for found in chain if found.kind is TaskKind.GENERATOR), None)


def students(snapshot: StudySnapshot) -> list[TaskSnapshot]:
    """Every student of the study."""
    return [task for task in snapshot.tasks if task.kind is TaskKind.STUDENT]


def best_trial(snapshot: StudySnapshot) -> TrialSnapshot | None:
    """The search trial of the highest value so far."""
    return next((trial for trial in snapshot.trials if trial.number == snapshot.best), None)


def finalist_of(snapshot: StudySnapshot) -> RowSnapshot | None:
    """The row of the best finalist on fresh seeds, once one has a number."""
    numbered = (row for row in snapshot.rows if row.role == "finalist" and row.num_complete)
    return best_finalist(snapshot.rows, snapshot.objective) or next(numbered, None)


def measured(metric: str, value: float | None, error: float | None) -> tuple[str, str | None]:
    """A cell of the tables, and its error: shares in per cent and points, anything else in its own unit."""
    if metric in MEASURES and MEASURES[metric].unit != "share":
        return written(metric, value), written(metric, error) if error else None
    return percent(value), points(error)


def verdict(snapshot: StudySnapshot) -> str:
    """The result in a sentence; while there is none, how far the study is."""
    if snapshot.verdict:
        return snapshot.verdict
    ended = Counter(task.state for task in students(snapshot))
    counted = ", ".join(f"{count} {state}" for state, count in sorted(ended.items())) or "none yet"
    best = best_trial(snapshot)
    leader = "" if best is None else f" The best trial so far is number {best.number} with {percent(best.value)}."
    if not snapshot.finished:
        return f"Under way, so there is no verdict yet. Students: {counted}.{leader}"
    if snapshot.rows and not any(row.role == "finalist" for row in snapshot.rows):
        seeds = len(snapshot.study.seeds)
        return (
            f"{len(snapshot.rows)} variants on {plural(seeds, 'seed')} each, side by side below. Students: {counted}."
        )
    missing = why_no_champion(snapshot)
    if missing is not None:
        return f"There is no champion: {missing}. Students: {counted}."
    return f"The study has ended without a verdict: not all that was to be compared has a number. Students: {counted}."


def teacher_accuracy(snapshot: StudySnapshot) -> float | None:
    """Of the teacher on the validation images, as the evaluations of students found it; None without labels."""
    found = (task.metrics.get("teacher_validation_accuracy") for task in students(snapshot))
    return next((accuracy for accuracy in found if accuracy is not None), None)


def headline_tiles(snapshot: StudySnapshot) -> list[Tile]:
    """The few numbers to see first, as far as the study has them."""
    tiles, row, best = [], finalist_of(snapshot), best_trial(snapshot)
    objective = METRIC_NAMES[snapshot.objective]
    if row is not None:
        n = f"mean over n = {row.num_complete} fresh seeds, ± their sd" if row.num_complete > 1 else "on 1 fresh seed"
        for metric in TABLE_METRICS:
            if metric in row.means:
                meaning = (
                    f"of {row.name}, {n}" if metric != "generator.memorisation" else "5 % is expected without copying"
                )
                name = f"{METRIC_NAMES[metric].capitalize()}"
                tiles.append(Tile(name, percent(row.means[metric]), meaning, points(row.deviations.get(metric))))
        for metric in further_columns(snapshot):
            value, error = measured(metric, row.means.get(metric), row.deviations.get(metric))
            judged = missed(row.means, snapshot) or f"of {row.name}, {n}"
            tiles.append(Tile(METRIC_NAMES[metric].capitalize(), value, judged, error))
    elif best is not None:
        meaning = f"of trial {best.number}, the best so far: chosen on this very number, which flatters it"
        task = snapshot.task(best.key or "")
        error = points(task.value_error) if task else None
        tiles.append(Tile(objective.capitalize(), percent(best.value), meaning, error))
    teacher = teacher_accuracy(snapshot)
    if teacher is not None:
        tiles.append(Tile("The teacher's validation accuracy", percent(teacher), "what a student is measured against"))
    generators = {build.key for task in students(snapshot) if (build := generator_of(task, snapshot))}
    if students(snapshot):
        meaning = f"on {plural(len(generators), 'generator')}; each generator was built once and shared"
        tiles.append(Tile("Students", str(len(students(snapshot))), meaning))
    if snapshot.cpu_seconds:
        meaning = f"of processors; {duration(busy_seconds(snapshot))} by the clock while anything ran"
        tiles.append(Tile("CPU-seconds", grouped(snapshot.cpu_seconds), meaning))
    return tiles


def asked(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    """What the study was asked for."""
    study, trial = snapshot.study, snapshot.trial
    objective = {
        "agreement": "agreement with the teacher on held-out images of the candidate pool; it needs no labels",
        "validation_accuracy": "accuracy on the labelled validation images",
    }[snapshot.objective]
    facts = [("Maximised", objective)]
    if traded_off(snapshot):
        name = METRIC_NAMES[snapshot.objective]
        facts.append(("Traded off", f"{traded_off(snapshot)}; of the Pareto front the finalists have the most {name}"))
    if constraints_in_words(snapshot):
        facts.append(("Constraints", constraints_in_words(snapshot)))
    if snapshot.num_students:
        begins = f" (at random until {study.startup_students} students have ended)"
        sampler = {
            "tpe": f"Optuna's TPE{begins}",
            "stage-aware": f"the stage-aware sampler{begins}",
            "random": "at random",
            "grid": "a grid",
        }[study.sampler]
        facts.append(("Search", f"{plural(snapshot.num_students, 'student')}, suggested by {sampler}"))
        each = study.students_per_generator
        shared = f"for every {'single' if each == 1 else ordinal(each)} student; those between share it"
        if study.sampler == "grid":
            shared = "whenever the grid comes to other values of its parameters; students of equal ones share it"
        elif study.sampler == "stage-aware":
            shared = "where it promises more per operation than another student on one that stands"
        facts.append(("Generators", f"a new one {shared}"))
        facts.append(("Stopping early", _pruner(study.pruner, trial.distillation.target_images)))
        wanted = [name.replace("_", "-") for name, on in study.controls if on is True]
        facts.append(("Held against", f"{', '.join(wanted)}, at the same number of student steps" if wanted else NONE))
    if study.variants:
        facts.append(("Variants", ", ".join(study.variants)))
    facts.append(("Fresh seeds", f"{', '.join(map(str, study.seeds))}: generator, synthesis and student anew"))
    data, teacher, collection = trial.data, trial.teacher, trial.collection
    origin = "trained here" if teacher.train else "from a checkpoint"
    facts.append(("Teacher", f"{teacher.architecture}, {origin}, {data.num_classes} classes"))
    domain = "in-domain" if data.candidates_in_domain else "not said to be in-domain"
    held_out = f"{collection.holdout_images:,} others held out to judge by"
    facts.append(("Real images", f"{collection.num_images:,} collected (the pool is {domain}); {held_out}"))
    student = trial.distillation
    budget = f"{student.target_images:,} images in batches of {student.batch_images}"
    facts.append(("Student", f"{student.architecture}, {budget}"))
    return facts


def searched(snapshot: StudySnapshot) -> list[tuple[str, str, str]]:
    """Path, range and best trial's value of every searched parameter."""
    best = best_trial(snapshot)
    asked_for = dict(snapshot.search.items())
    return [
        (path, _range(asked_for[path]), NONE if best is None else setting(best.params.get(path)))
        for path in snapshot.searched
    ]


def cost(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    """What the study cost, and what sharing and stopping early saved."""
    facts = []
    if snapshot.cpu_seconds:
        parts = {
            "builds": [task for task in snapshot.tasks if task.kind.is_build],
            "search": [task for task in students(snapshot) if task.role == "search"],
            "comparisons": [task for task in students(snapshot) if task.role != "search"],
            "test labels": [task for task in snapshot.tasks if task.kind is TaskKind.TEST_EVALUATION],
        }
        spent = {
            name: sum(a.cpu_seconds or 0 for task in tasks for a in task.attempts) for name, tasks in parts.items()
        }
        split = ", ".join(f"{grouped(seconds)} {name}" for name, seconds in spent.items() if seconds)
        facts.append(("CPU-seconds", f"{grouped(snapshot.cpu_seconds)} ({split})"))
        facts.append(("By the clock", f"{duration(busy_seconds(snapshot))} during which something ran"))
    users = Counter(build.key for task in students(snapshot) if (build := generator_of(task, snapshot)) and _ran(task))
    if users:
        saved = sum((count - 1) * _build_seconds(snapshot.task(key)) for key, count in users.items())
        served = f"{plural(len(users), 'generator')} served {plural(sum(users.values()), 'student')}"
        facts.append(("Sharing", f"{served}; one for each would have taken about {duration(saved)} more"))
    pruned = [task for task in students(snapshot) if task.state is TaskState.PRUNED and task.target_images]
    if pruned:
        left = sum(1 - task.images / (task.target_images or 1) for task in pruned)
        facts.append(
            ("Stopping early", f"{plural(len(pruned), 'student')}; the work of {left:.1f} whole ones was saved")
        )
    reused = sum(task.reused for task in snapshot.tasks)
    if reused:
        facts.append(("From the store", f"{reused} of {len(snapshot.tasks)} tasks stood there already"))
    return facts


def rank_words(snapshot: StudySnapshot) -> str | None:
    """Whether choosing by agreement chooses by accuracy, in words; None without labels or with too few students."""
    tau, count = snapshot.rank_agreement, snapshot.rank_agreement_count
    if tau is None:
        return None
    share = percent((1 + tau) / 2, 0)
    words = (
        f"Kendall’s τ = {tau:.2f} over {count} students: of two students of one kind (the same sources of images, size "
        f"of the collection and head), the one that agrees more with the teacher also is the more accurate one in "
        f"{share} of the pairs."
    )
    if tau < TRUSTED_TAU:
        words += f" Below {TRUSTED_TAU}, agreement has not ranked them as their labels do: do not trust its choice."
    return words + (" So few students say little." if count < FEW_STUDENTS else "")


def cautions(snapshot: StudySnapshot) -> list[str]:
    """What the numbers of this study do not say."""
    found, row, best = [], finalist_of(snapshot), best_trial(snapshot)
    complete = [trial for trial in snapshot.trials if trial.state is TaskState.COMPLETE]
    name = METRIC_NAMES[snapshot.objective]
    if best is not None:
        rerun = (
            "its re-run on fresh seeds is the number to quote" if row else "quote it only after a re-run on fresh seeds"
        )
        found.append(
            f"Trial {best.number} was chosen for the very {name} that it shows, out of {len(complete)} complete ones. "
            f"The highest of several noisy numbers is too high: {rerun}."
        )
    if snapshot.rows:
        n = len(snapshot.study.seeds)
        if n == 1:
            found.append("One seed (n = 1) decides nothing: differences of a point or two may be chance.")
        elif n < 5:
            found.append(f"The deviations come from n = {n} seeds, so they are themselves uncertain.")
    if any(found_row.role == "control" for found_row in snapshot.rows):
        found.append("The controls run with the best trial’s settings; nothing was searched for them.")
    if snapshot.objective == "agreement" and students(snapshot):
        found.append(
            "Agreement is measured on images like the collected ones, so it favours students that saw real images."
        )
    if snapshot.trial.data.candidates_in_domain:
        found.append(
            "The candidate pool is in-domain: other images of the teacher’s own data set. "
            "Out of domain, expect lower numbers and another order of settings."
        )
    found += cautions_of_trade_offs(snapshot)
    found += _label_cautions(snapshot)
    share = row.means.get("generator.memorisation") if row else None
    error = row.means.get("generator.memorisation_standard_error", 0.0) if row else 0.0
    if share is not None and share > EXPECTED_MEMORISATION + 2 * error:
        found.append(
            f"{percent(share)} of the synthetic images lie close to a collected one: the generator copies in part."
        )
    ended = Counter(task.state for task in snapshot.tasks if task.attempts)
    for state, words in (
        (TaskState.COLLAPSED, "collapsed: its generator shows too few classes to be worth a student"),
        (TaskState.DIVERGED, "diverged: a loss was no longer finite"),
        (TaskState.FAILED, "failed; the reason stands in the table or on the terminal"),
    ):
        if ended[state]:
            found.append(f"{plural(ended[state], 'task')} {words}.")
    return found


def _label_cautions(snapshot: StudySnapshot) -> list[str]:
    if snapshot.trial.data.validation is None:
        found = "There was no labelled split to watch: nothing above says how often the teacher itself is right."
    elif snapshot.objective == "validation_accuracy":
        found = "The validation labels chose the best trial, so its validation accuracy is too high as well."
    else:
        found = "Labels were used to measure, never to choose."
    return [f"{found} {opened_labels(snapshot) or 'There is no test split.'}"]


def opened_labels(snapshot: StudySnapshot) -> str | None:
    """Whether and when the study opened its test labels, in a sentence; None where there are none."""
    if snapshot.trial.data.test is None:
        return None
    if not snapshot.test_evaluations:
        never = snapshot.study.test_labels == "never"
        return f"The test labels were not opened{' (study.test_labels: never)' if never else ''}."
    times = [
        f"{datetime.fromtimestamp(opening.when, UTC):%Y-%m-%d %H:%M} UTC for {plural(len(opening.students), 'student')}"
        for opening in snapshot.test_evaluations
    ]
    opened = [task.reused for task in snapshot.tasks if task.kind is TaskKind.TEST_EVALUATION]
    if opened and all(opened):
        return f"The test labels had been opened before; what the store had of them was taken {', then '.join(times)}."
    if len(times) == 1:
        return f"The test labels were opened once, {times[0]}, after everything had been chosen."
    return f"The test labels were opened {len(times)} times: {', then '.join(times)}, each time after everything ran."


def busy_seconds(snapshot: StudySnapshot) -> float:
    """Seconds by the clock during which at least one task ran."""
    total, until = 0.0, float("-inf")
    for start, end in sorted((a.started, a.ended or a.last_seen) for task in snapshot.tasks for a in task.attempts):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _build_seconds(build: TaskSnapshot | None) -> float:
    """What building took, now or when it was built; the manifest of its folder knows both."""
    if build is None:
        return 0.0
    path = Path(build.folder) / "manifest.json"
    if not path.is_file():
        return build.seconds
    stages = json.loads(path.read_text())["stages"]
    return sum(stage["seconds"] or 0.0 for stage in stages if stage["role"] in ("generation", "synthesis"))


def _endings(path: str) -> Iterator[str]:
    parts = path.split(".")
    yield from (".".join(parts[-taken:]) for taken in range(1, len(parts) + 1))


def _is_unambiguous(name: str, paths: list[str]) -> bool:
    return sum(path == name or path.endswith(f".{name}") for path in paths) == 1


def _ran(task: TaskSnapshot) -> bool:
    return bool(task.attempts) or task.reused


def _range(parameter: RealParameter) -> str:
    if isinstance(parameter, CategoricalParameter):
        return "one of " + ", ".join(map(setting, parameter.choices))
    is_every_integer = isinstance(parameter, IntParameter) and parameter.step == 1
    stepped = f", in steps of {setting(parameter.step)}" if parameter.step and not is_every_integer else ""
    log = ", even in the logarithm" if parameter.log else ""
    return f"{setting(parameter.low)} to {setting(parameter.high)}{stepped}{log}"


def _pruner(pruner: PrunerConfig, target_images: int) -> str:
    if pruner.kind == "none":
        return "none: every student runs to its end"
    share, keep = percent(pruner.first_rung_fraction, 0), setting(pruner.reduction_factor)
    first = number(round(pruner.first_rung_fraction * target_images))
    return (
        f"ASHA: students are compared at exactly equal images, first at {share} of their budget (about {first}); "
        f"the best 1 in {keep} of those seen so far go on"
    )


def result_in_words(task: TaskSnapshot) -> str:
    """How a task ended, and with what."""
    parts = [task.state.value if task.state is not TaskState.COMPLETE else "done"]
    if task.kind is TaskKind.STUDENT and task.state is TaskState.COMPLETE:
        agreement, error = (task.metrics.get(name) for name in ("agreement", "agreement_standard_error"))
        parts[0] = f"agreement {percent_with_error(agreement, error)}"
        if "validation_accuracy" in task.metrics:
            parts.append(f"validation accuracy {percent(task.metrics['validation_accuracy'])}")
    elif task.kind is TaskKind.TEST_EVALUATION and "test_accuracy" in task.metrics:
        parts.append(f"test accuracy {percent(task.metrics['test_accuracy'])}")
    elif "generator.effective_classes" in task.metrics:
        parts.append(f"{task.metrics['generator.effective_classes']:.1f} effective classes")
    if task.reason:
        parts[0] = task.reason if task.reason.startswith(task.state.value) else f"{parts[0]}: {task.reason}"
    parts.append("from the store" if task.reused else f"in {duration(task.seconds)}")
    return ", ".join(parts)

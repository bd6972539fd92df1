"""An explanation of a task: where its parameters came from, what it reused, how it ran and why it ended. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from hidfd.formatting import duration, listed, part_of, percent, progress, short_setting
from tune.report.labels import result_in_words
from tune.report.objectives import constraints_in_words, further_columns, missed_constraints
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskKind, TaskState


def explain(snapshot: StudySnapshot, task: TaskSnapshot) -> list[str]:
    """Return sentences about a student or a build, from its parameters to its end.

    Args:
        snapshot: of the study.
        task: one of its tasks.
    """
    return [*_origin(snapshot, task), *_builds(snapshot, task), *_attempts(task), *_outcome(snapshot, task)]


def _origin(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    trials = [trial for trial in snapshot.trials if trial.key == task.key]
    settings = ", ".join(f"{path} = {short_setting(value)}" for path, value in task.params.items())
    yield f"parameters: {settings or 'as in the study file'}"
    match task.role:
        case "finalist":
            yield f"why: one of the best of the search, run again on the fresh seed {task.seed}"
        case "control":
            yield f"why: a control of the best trial, on the fresh seed {task.seed}"
        case "variant":
            yield f"why: a variant that the study file names, on seed {task.seed}"
        case "worth":
            yield f"why: study.worth asks when a generator pays, on seed {task.seed}"
        case "search":
            for trial in trials:
                yield f"why: trial {trial.number}: {trial.why}"
            if task.kind.is_build:
                numbers = [trial.number for trial in _dependent_trials(snapshot, task)]
                users = listed("trial", numbers) if numbers else "the comparison"
                yield f"why: needed by {users}, and built once for all of them"
    if len(trials) > 1:
        yield "several trials have the same settings: they share this one student, which counts once"


def _builds(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    for key in task.needs:
        build = snapshot.task(key)
        if build is None:
            continue
        others = [trial.number for trial in _dependent_trials(snapshot, build) if trial.key != task.key]
        shared = f", shared with {listed('trial', others)}" if others else ""
        if build.reused:
            how = "found in the store"
        elif build.state is TaskState.COMPLETE:
            how = f"built once in {duration(build.seconds)}"
        else:
            how = str(build.state)
        yield f"uses {build.label}: {how}{shared}"
    if task.reused:
        yield "every stage was found in the store: nothing was computed"


def _attempts(task: TaskSnapshot) -> Iterator[str]:
    for attempt in task.attempts:
        begun = f"from {attempt.images_from:,} images" if attempt.images_from else "from the beginning"
        end = attempt.end or "running"
        yield (
            f"attempt {attempt.number}: on {attempt.node}, {begun} to {attempt.images_to:,}, "
            f"{duration((attempt.ended or attempt.last_seen) - attempt.started)}, {end}"
        )
    for rung in task.rungs:
        others = "no other student had come so far"
        if rung.num_others:
            best = ", ".join(percent(value) for value in rung.best)
            others = f"{part_of(rung.num_better, rung.num_others, 'other')} had done better there (the best: {best})"
        kept = "went on" if rung.kept else "stopped"
        yield f"at {rung.images:,} images: agreement {percent(rung.value)}; {others}; it {kept}"


def _outcome(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    if task.state.is_final:
        yield f"end: {result_in_words(task)}"
        yield from _judgement(snapshot, task)
    elif task.state is TaskState.RUNNING:
        yield f"now: {task.stage or 'running'}, {progress(task.images)}"
    elif snapshot.undone:
        yield f"unfinished: {snapshot.undone}"
    else:
        waits = [build.label for key in task.needs if (build := snapshot.task(key)) and not build.state.is_final]
        yield f"waits for {', '.join(waits) if waits else 'a free slot'}"


def _judgement(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    """Yield what decides about a complete student besides its objective."""
    asked = further_columns(snapshot)
    if task.kind is not TaskKind.STUDENT or task.state is not TaskState.COMPLETE or not asked:
        return
    numbers = ", ".join(f"{MEASURES[name].in_words} {written(name, task.metrics.get(name))}" for name in asked)
    kept = "it keeps the constraints" if constraints_in_words(snapshot) else ""
    yield f"judged by: {'; '.join(filter(None, (numbers, missed_constraints(task.metrics, snapshot) or kept)))}"
    if any(trial.key == task.key and trial.number in snapshot.front for trial in snapshot.trials):
        yield "it is on the Pareto front: no other student is at least as good in every objective"


def _dependent_trials(snapshot: StudySnapshot, build: TaskSnapshot) -> list[TrialSnapshot]:
    """Return the search trials whose student needs a build."""
    dependent = {task.key for task in snapshot.tasks if build.key in task.needs}
    return [trial for trial in snapshot.trials if trial.key in dependent or trial.key == build.key]

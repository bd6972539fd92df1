"""Why a trial is as it is: where its parameters came from, what it reused and built, and why it stopped. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from hidfd.formatting import duration, percent, progress, short_setting
from tune.report.objectives import constraints_in_words, further_columns, missed
from tune.report.summary import result_in_words
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import StudySnapshot, TaskSnapshot, TrialSnapshot
from tune.study.states import TaskKind, TaskState


def explain(snapshot: StudySnapshot, task: TaskSnapshot) -> list[str]:
    """Sentences about a student or a build, in the order in which one asks.

    Args:
        snapshot: of the study.
        work: of it.
    """
    return [*_parameters(snapshot, task), *_material(snapshot, task), *_course(task), *_end(snapshot, task)]


def _parameters(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    trials = [trial for trial in snapshot.trials if trial.key == task.key]
    settings = ", ".join(f"{path} = {short_setting(value)}" for path, value in task.params.items())
    yield f"parameters: {settings or 'as the study file has them'}"
    match task.role:
        case "finalist":
            yield f"why: one of the best of the search, run again on the fresh seed {task.seed}"
        case "control":
            yield f"why: a control of the best trial, on the fresh seed {task.seed}"
        case "variant":
            yield f"why: a variant that the study file names, on seed {task.seed}"
        case "search":
            for trial in trials:
                yield f"why: trial {trial.number}: {trial.why}"
            if task.kind.is_build:
                asking = ", ".join(str(trial.number) for trial in _asking(snapshot, task))
                yield f"why: trials {asking or 'of the comparison'} rest on it; it is built once for all of them"
    if len(trials) > 1:
        yield "several suggestions came to the same settings: they share this one student, which counts once"


def _material(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    for key in task.needs:
        build = snapshot.task(key)
        if build is None:
            continue
        others = [trial for trial in _asking(snapshot, build) if trial.key != task.key]
        shared = f", shared with trials {', '.join(str(trial.number) for trial in others)}" if others else ""
        if build.reused:
            how = "found in the store"
        elif build.state is TaskState.COMPLETE:
            how = f"built once in {duration(build.seconds)}"
        else:
            how = str(build.state)
        yield f"rests on {build.label}: {how}{shared}"
    if task.reused:
        yield "every stage was found in the store: nothing was computed"


def _course(task: TaskSnapshot) -> Iterator[str]:
    for attempt in task.attempts:
        begun = f"from {attempt.images_from:,} images" if attempt.images_from else "from the beginning"
        end = attempt.end or "running"
        yield (
            f"attempt {attempt.number}: on {attempt.node}, {begun} to {attempt.images_to:,}, "
            f"{duration((attempt.ended or attempt.last_seen) - attempt.started)}, {end}"
        )
    for rung in task.rungs:
        others = "nobody had come so far"
        if rung.num_others:
            best = ", ".join(percent(value) for value in rung.best)
            others = f"{rung.num_better} of {rung.num_others} others had done better there (the best: {best})"
        kept = "went on" if rung.kept else "stopped"
        yield f"at {rung.images:,} images: agreement {percent(rung.value)}; {others}; it {kept}"


def _end(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    if task.state.is_final:
        yield f"end: {result_in_words(task)}"
        yield from _judged(snapshot, task)
    elif task.state is TaskState.RUNNING:
        yield f"now: {task.stage or 'running'}, {progress(task.images)}"
    elif snapshot.undone:
        yield f"unfinished: {snapshot.undone}"
    else:
        waits = [build.label for key in task.needs if (build := snapshot.task(key)) and not build.state.is_final]
        yield f"waits for {', '.join(waits) if waits else 'a free slot'}"


def _judged(snapshot: StudySnapshot, task: TaskSnapshot) -> Iterator[str]:
    """What else than its objective decides about a student that came to its end."""
    asked = further_columns(snapshot)
    if task.kind is not TaskKind.STUDENT or task.state is not TaskState.COMPLETE or not asked:
        return
    numbers = ", ".join(f"{MEASURES[name].in_words} {written(name, task.metrics.get(name))}" for name in asked)
    kept = "it keeps the constraints" if constraints_in_words(snapshot) else ""
    yield f"judged by: {'; '.join(filter(None, (numbers, missed(task.metrics, snapshot) or kept)))}"
    if any(trial.key == task.key and trial.number in snapshot.front for trial in snapshot.trials):
        yield "it stands on the Pareto front: no other student is at least as good in every objective"


def _asking(snapshot: StudySnapshot, build: TaskSnapshot) -> list[TrialSnapshot]:
    """The search trials whose student rests on a build."""
    resting = {task.key for task in snapshot.tasks if build.key in task.needs}
    return [trial for trial in snapshot.trials if trial.key in resting or trial.key == build.key]

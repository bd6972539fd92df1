"""Cautions about a study's numbers: what they do not show, in sentences for its page and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from hidfd.formatting import ordinal, percent, percent_with_error, plural
from tune.report.labels import METRIC_NAMES
from tune.report.objectives import further_columns
from tune.report.selection import best_trial, leading_finalist, students
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind, TaskState

EXPECTED_MEMORISATION = 0.05
"""Share of samples that lie near a collected image without any copying, by the definition of the threshold."""

FEW_SEEDS = 5
"""Number of seeds below which the standard deviation over them is uncertain itself."""


def cautions(snapshot: StudySnapshot) -> list[str]:
    """Return the cautions that apply to a study, the most important ones first."""
    return [
        *([choice] if (choice := choice_in_words(snapshot)) is not None else []),
        *_of_seeds_and_controls(snapshot),
        *_of_the_images(snapshot),
        *_of_trade_offs(snapshot),
        _of_labels(snapshot),
        *_of_memorisation(snapshot),
        *_of_bad_ends(snapshot),
    ]


def opened_test_labels(snapshot: StudySnapshot) -> str | None:
    """Return whether and when students were evaluated on the test labels, in a sentence; None without a test split."""
    if snapshot.trial.data.test is None:
        return None
    if not snapshot.test_evaluations:
        never = snapshot.study.test_labels == "never"
        return f"The test labels were not opened{' (study.test_labels: never)' if never else ''}."
    times = [
        f"{datetime.fromtimestamp(evaluation.when, UTC):%Y-%m-%d %H:%M} UTC "
        f"for {plural(len(evaluation.students), 'student')}"
        for evaluation in snapshot.test_evaluations
    ]
    reused = [task.reused for task in snapshot.tasks if task.kind is TaskKind.TEST_EVALUATION]
    if reused and all(reused):
        return f"The test labels had been opened before; their numbers came from the store on {', then '.join(times)}."
    if len(times) == 1:
        return f"The test labels were opened once, {times[0]}, after everything had been chosen."
    return f"The test labels were opened {len(times)} times: {', then '.join(times)}, each time after all else had run."


def choice_in_words(snapshot: StudySnapshot) -> str | None:
    """Return the value that chose the champion beside that of its re-run on fresh seeds; None before there is a trial.

    Until finalists have run, it is about the best trial so far.
    """
    row, best, metric = leading_finalist(snapshot), best_trial(snapshot), snapshot.objective
    trials = [trial for trial in snapshot.trials if trial.state is TaskState.COMPLETE and trial.value is not None]
    number, value = (
        (row.trial, row.search_value) if row is not None else (best.number, best.value) if best else (None, None)
    )
    if number is None or value is None:
        return None
    if len(trials) == 1:
        words = f"Trial {number} is the only one that ran to its end: it was compared with no other one"
        if row is None or metric not in row.means:
            return f"{words}."
        fresh = percent_with_error(row.means[metric], row.deviations.get(metric))
        seeds = plural(row.num_complete, "fresh seed")
        return f"{words}. Its {METRIC_NAMES[metric]} was {percent(value)}; on {seeds} its settings reach {fresh}."
    compared = [trial for trial in trials if trial.feasible]
    rank = 1 + sum((trial.value or 0.0) > value for trial in compared)
    place = "highest" if rank == 1 else f"{ordinal(rank)} highest"
    kind = "complete ones" if len(compared) == len(trials) else "complete ones that keep the constraints"
    among = f"the {place} of {len(compared)} {kind}"
    if len(compared) == 1:
        among = "the only complete one that keeps the constraints"
    words = f"Trial {number} was chosen for the very {METRIC_NAMES[metric]} that it shows, {percent(value)}, {among}"
    high = "The highest of several noisy numbers tends to be too high (the winner’s curse)"
    if row is None or metric not in row.means:
        return f"{words}. {high}: quote it only after a re-run on fresh seeds."
    fresh = percent_with_error(row.means[metric], row.deviations.get(metric))
    return f"{words}; on {plural(row.num_complete, 'fresh seed')} its settings reach {fresh}. {high}: quote the latter."


def _of_seeds_and_controls(snapshot: StudySnapshot) -> Iterator[str]:
    n = len(snapshot.study.seeds)
    if snapshot.comparison_rows and n == 1:
        yield "One seed (n = 1) decides nothing: it does not show how much seeds differ."
    elif snapshot.comparison_rows and n < FEW_SEEDS:
        yield f"The deviations come from n = {n} seeds, so they are themselves uncertain."
    if any(row.role == "control" for row in snapshot.comparison_rows):
        own = snapshot.study.controls.real_only_values
        but = f"; real-only has its own {', '.join(own)} (study.controls.real_only_values)" if own else ""
        yield f"The controls run with the best trial’s settings{but}; nothing was searched for them."


def _of_the_images(snapshot: StudySnapshot) -> Iterator[str]:
    if snapshot.objective == "agreement" and students(snapshot):
        yield "Agreement is measured on images like the collected ones, so it favours students that saw real images."
    if snapshot.trial.data.candidates_in_domain:
        yield (
            "The candidate pool is in-domain: other images of the teacher’s own data set. "
            "Out of domain, expect lower numbers and another order of settings."
        )


def _of_trade_offs(snapshot: StudySnapshot) -> Iterator[str]:
    num_pruned = sum(trial.state is TaskState.PRUNED for trial in snapshot.trials)
    if num_pruned and further_columns(snapshot):
        yield (
            f"{plural(num_pruned, 'student was', 'students were')} stopped early by their agreement alone, whatever "
            f"else decides: a small or fast one may be missing. With `pruner: {{kind: none}}` all run to their end."
        )
    if snapshot.study.measures_latency:
        yield (
            "Latency is that of one image on one thread of the CPU that trained the student, beside whatever else ran "
            "there: it differs between machines, and somewhat between runs."
        )


def _of_labels(snapshot: StudySnapshot) -> str:
    if snapshot.trial.data.validation is None:
        found = "There was no labelled split to watch: nothing above says how often the teacher itself is right."
    elif snapshot.objective == "validation_accuracy":
        found = "The validation labels chose the best trial, so its validation accuracy is too high as well."
    else:
        found = "Labels were used to measure, never to choose."
    return f"{found} {opened_test_labels(snapshot) or 'There is no test split.'}"


def _of_memorisation(snapshot: StudySnapshot) -> Iterator[str]:
    row = leading_finalist(snapshot)
    share = row.means.get("generator.memorisation") if row else None
    error = row.means.get("generator.memorisation_standard_error", 0.0) if row else 0.0
    if share is not None and share > EXPECTED_MEMORISATION + 2 * error:
        yield f"{percent(share)} of the synthetic images lie close to a collected one: the generator copies in part."


def _of_bad_ends(snapshot: StudySnapshot) -> Iterator[str]:
    ended = Counter(task.state for task in snapshot.tasks if task.attempts)
    for state, words in (
        (TaskState.COLLAPSED, "collapsed: its generator shows too few classes to be worth a student"),
        (TaskState.DIVERGED, "diverged: a loss was no longer finite"),
        (TaskState.INFEASIBLE, "infeasible: the settings cannot be built; the table says why"),
        (TaskState.FAILED, "failed; the table or the terminal says why"),
    ):
        if ended[state]:
            yield f"{plural(ended[state], 'task')} {words}."

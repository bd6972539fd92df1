"""Cautions about a study's numbers: what they do not show, in sentences for its page and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from hidfd.formatting import percent, plural
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
        *_of_the_choice(snapshot),
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


def _of_the_choice(snapshot: StudySnapshot) -> Iterator[str]:
    best = best_trial(snapshot)
    if best is None:
        return
    num_complete = sum(trial.state is TaskState.COMPLETE for trial in snapshot.trials)
    rerun = "quote it only after a re-run on fresh seeds"
    if leading_finalist(snapshot):
        rerun = "its re-run on fresh seeds is the number to quote"
    yield (
        f"Trial {best.number} was chosen for the very {METRIC_NAMES[snapshot.objective]} that it shows, out of "
        f"{num_complete} complete ones. The highest of several noisy numbers is too high: {rerun}."
    )


def _of_seeds_and_controls(snapshot: StudySnapshot) -> Iterator[str]:
    n = len(snapshot.study.seeds)
    if snapshot.comparison_rows and n == 1:
        yield "One seed (n = 1) decides nothing: differences of a point or two may be chance."
    elif snapshot.comparison_rows and n < FEW_SEEDS:
        yield f"The deviations come from n = {n} seeds, so they are themselves uncertain."
    if any(row.role == "control" for row in snapshot.comparison_rows):
        yield "The controls run with the best trial’s settings; nothing was searched for them."


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
            f"Students were stopped early by their agreement alone ({num_pruned} of them), whatever else they are "
            f"judged by: a small or fast one may be missing. With `pruner: {{kind: none}}` all run to their end."
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

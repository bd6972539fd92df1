"""Notes on the pages of MLflow, in Markdown: what an experiment or a run is, its result, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hidfd.formatting import NONE, percent, relative_paths
from hidfd.pipeline.graph import digest_of
from tune.report.cautions import choice_in_words
from tune.report.champion import champion_of, numbers_in_words
from tune.report.commands import verb_command
from tune.report.labels import result_in_words, settings_in_markdown
from tune.report.selection import best_trial, generator_of, winning_controls
from tune.report.summary import conclusion_in_words, cost_facts, rank_agreement_in_words, request_facts
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState

EXPERIMENT_NOTE = """A HiDFD study: students distilled from a teacher on collected and synthetic images.

The run named after the study has its verdict, its report and the means of its comparison. Below it there is a run for
each generator and each student. Tags to filter by: `hidfd.state` (complete, pruned, collapsed, diverged, failed),
`kind` (build, student), `role` (search, finalist, control, variant, worth), `generator`, `group`, `seed`, and
`feasible` (true, false) where the study has constraints. The tag `hidfd.best` of the study's run names the best
student, whose run has the model; `hidfd.front` names the students on the Pareto front, and `hidfd.worth` says when a
generator pays, where the study asks. Among the artifacts of the study's run, read `report.html` first; `figures.html`
has interactive figures of the search. `python -m tune promote FILE` registers the
best student under a name and the alias `champion`."""
"""The note of a study's experiment, below its links."""


def experiment_note(links: Sequence[tuple[str, str]]) -> str:
    """Return the note of a study's experiment, with links at its head."""
    head = " · ".join(f"[{words}]({address})" for words, address in links)
    return f"{head}\n\n{EXPERIMENT_NOTE}"


def is_own_note(note: str, written: str | None) -> bool:
    """Return whether this project has written a note of an experiment: one that somebody has changed is theirs.

    Args:
        note: as it is now.
        written: digest of the note that was written last; None where only the first one was.
    """
    return digest_of(note) == written if written is not None else note == EXPERIMENT_NOTE


PRODUCTS = {
    TaskKind.COLLECTION: "The collected images and the held-out images that students are measured on.",
    TaskKind.GENERATOR: "A generator and its synthetic images.",
    TaskKind.STUDENT: "A student: distilled on the images that its method gives it, and measured on the hold-out.",
}
"""Kind of a task -> a sentence on what it makes."""

ROLES = {
    "search": "suggested by the search as trial {trial}",
    "variant": "a variant that the study file names",
    "control": "a control: it is compared with the best trial, on the same fresh seed",
    "worth": "a student budget of `study.worth`, which asks when a generator pays",
    "finalist": "one of the best trials, run again on a fresh seed, since only such runs are compared",
}
"""Role of a student -> why it was trained, after `It is`."""


def study_note(snapshot: StudySnapshot) -> str:
    """Return the note of the study's own run."""
    champion, best = champion_of(snapshot), best_trial(snapshot)
    facts = []
    if champion is not None:
        facts.append(("Champion", f"run `{champion.student.label}`: {numbers_in_words(champion)}"))
        facts.append(("Its settings", settings_in_markdown(champion.student.params) or "as the study file says"))
        facts.append(("In the search and on fresh seeds", choice_in_words(snapshot) or NONE))
    elif best is not None:
        chosen = "chosen by this very number, so it is too high"
        facts.append(("Best trial so far", f"`trial-{best.number}` with {percent(best.value)}, {chosen}"))
    if snapshot.worth is not None and snapshot.worth.answer:
        facts.append(("When a generator pays", ". ".join([snapshot.worth.answer, *snapshot.worth.notes])))
    facts.append(("Asked for", _request(snapshot)))
    facts += cost_facts(snapshot)
    ranking = rank_agreement_in_words(snapshot)
    if ranking:
        facts.append(("Does agreement choose well?", ranking))
    next_verb = "promote" if champion is not None and not winning_controls(snapshot) else "report"
    command = verb_command(next_verb, snapshot) if snapshot.finished else relative_paths(snapshot.command)
    # MLflow folds all but the first lines away.
    first = [("Next", f"`{command}`")]
    if snapshot.finished:
        first.append(
            ("Look at", "Artifacts: `report.html` for the whole study, `figures.html` for interactive figures")
        )
    return _note(conclusion_in_words(snapshot), [*first, *facts])


def task_note(task: TaskSnapshot, snapshot: StudySnapshot) -> str:
    """Return the note of the run of one task."""
    role = "" if task.kind.is_build else f" It is {ROLES[task.role].format(trial=task.trial)}."
    facts = [("What", f"{PRODUCTS[task.kind]}{role}")]
    if task.params:
        facts.append(("Settings", f"{settings_in_markdown(task.params)}, seed {task.seed}"))
    build = generator_of(task, snapshot)
    if build is not None and build is not task:
        shared = "students with equal generator settings share it"
        facts.append(("Generator", f"run `{build.label}`, {build.state}; {shared}"))
    facts += [
        (f"At {rung.images:,} images", f"agreement {percent(rung.value)}, {'went on' if rung.kept else 'stopped here'}")
        for rung in task.rungs
    ]
    if task.state is TaskState.COMPLETE and (Path(task.folder) / "report.html").is_file():
        facts.append(("Look at", "Artifacts: `report.html` for the whole trial, `pictures` for its images"))
    headline = f"{task.label}: {relative_paths(result_in_words(task)) if task.state.is_final else task.state}"
    return _note(headline, [*facts, ("More", f"`{verb_command('show', snapshot, task.label)}`")])


def _request(snapshot: StudySnapshot) -> str:
    asked = dict(request_facts(snapshot))
    parts = [
        asked[name]
        for name in ("Traded off", "Constraints", "Search", "Variants", "When a generator pays")
        if name in asked
    ]
    return f"the most {asked['Maximised']}; {'; '.join(parts)}"


def _note(headline: str, facts: list[tuple[str, str]]) -> str:
    return "\n".join([f"**{headline}**", "", *(f"* **{name}**: {words}" for name, words in facts)])

"""What a person reads first on the pages of MLflow: what this is, what came of it, and what to do next. In Markdown."""

from __future__ import annotations

from pathlib import Path

from hidfd.formatting import percent, relative_paths, setting
from tune.report import summary as findings
from tune.report.champion import champion_of, numbers
from tune.report.commands import verb_command
from tune.report.summary import best_trial, generator_of, result_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState

WHAT = {
    TaskKind.COLLECTION: "The collected images and the hold-out, as the teacher sees them.",
    TaskKind.GENERATOR: "A generator and its synthetic images.",
    TaskKind.STUDENT: "A student: distilled on the collected and the synthetic images, and measured on the hold-out.",
}
"""What a task makes, in words."""

ROLES = {
    "search": "suggested by the search as trial {trial}",
    "variant": "a variant that the study file names",
    "control": "a control: what the best trial is held against, on the same fresh seed",
    "finalist": "the best trial once more, on a fresh seed; only such runs enter a table",
}


def study_note(snapshot: StudySnapshot) -> str:
    """Of the study's run."""
    champion, best = champion_of(snapshot), best_trial(snapshot)
    facts = []
    if champion is not None:
        facts.append(("Champion", f"run `{champion.student.label}`: {numbers(champion)}"))
        facts.append(("Its settings", _settings(champion.student)))
    elif best is not None:
        facts.append(("Best trial so far", f"`trial-{best.number}` with {percent(best.value)}, chosen for that number"))
    facts.append(("Asked for", _asked(snapshot)))
    facts += findings.cost(snapshot)
    ranking = findings.rank_words(snapshot)
    if ranking:
        facts.append(("Does agreement choose well?", ranking))
    look = "Artifacts: `report.html` for all of it, `figures.html` for the search to click on"
    next_verb = "promote" if champion is not None else "report"
    following = verb_command(next_verb, snapshot) if snapshot.finished else relative_paths(snapshot.command)
    # MLflow folds all but the first lines away.
    first = [("Next", f"`{following}`"), *([("Look at", look)] if snapshot.finished else [])]
    return _note(findings.verdict(snapshot), [*first, *facts])


def task_note(task: TaskSnapshot, snapshot: StudySnapshot) -> str:
    """Of the run of one task."""
    facts = [("What", f"{WHAT[task.kind]} {_role(task)}.".strip())]
    if task.params:
        facts.append(("Settings", f"{_settings(task)}, seed {task.seed}"))
    build = generator_of(task, snapshot)
    if build is not None and build is not task:
        facts.append(
            ("Generator", f"run `{build.label}`, {build.state}; students of equal generator settings share it")
        )
    facts += [
        (f"At {rung.images:,} images", f"agreement {percent(rung.value)}, {'went on' if rung.kept else 'stopped here'}")
        for rung in task.rungs
    ]
    if task.state is TaskState.COMPLETE and (Path(task.folder) / "report.html").is_file():
        facts.append(("Look at", "Artifacts: `report.html` for all of it, `pictures` for its images"))
    headline = f"{task.label}: {relative_paths(result_in_words(task)) if task.state.is_final else task.state}"
    return _note(headline, [*facts, ("More", f"`{verb_command('show', snapshot, task.label)}`")])


def _asked(snapshot: StudySnapshot) -> str:
    wanted = dict(findings.asked(snapshot))
    parts = [wanted[name] for name in ("Traded off", "Constraints", "Search", "Variants") if name in wanted]
    return f"the most {wanted['Maximised']}; {'; '.join(parts)}"


def _role(task: TaskSnapshot) -> str:
    if task.kind.is_build:
        return ""
    return f"It is {ROLES[task.role].format(trial=task.trial)}"


def _settings(task: TaskSnapshot) -> str:
    return ", ".join(f"`{path}` {setting(value)}" for path, value in task.params.items()) or "as the study file says"


def _note(headline: str, facts: list[tuple[str, str]]) -> str:
    return "\n".join([f"**{headline}**", "", *(f"* **{name}**: {words}" for name, words in facts)])

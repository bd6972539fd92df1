"""What a person reads first on the pages of MLflow: what this is, what came of it, and what to do next. In Markdown."""

from __future__ import annotations

from pathlib import Path

from hidfd.formatting import percent, relative_paths
from tune.report import summary as findings
from tune.report.champion import champion_of, numbers
from tune.report.commands import verb_command
from tune.report.summary import best_trial, generator_of, result_in_words, shown
from tune.study.snapshot import StudySnapshot, WorkSnapshot
from tune.study.states import WorkState

WHAT = {
    "collection": "The collected images and the hold-out, as the teacher sees them.",
    "synthesis": "A generator and its synthetic images.",
    "evaluation": "A student: distilled on the collected and the synthetic images, and measured on the hold-out.",
}
"""A piece of work by its last stage."""

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


def work_note(work: WorkSnapshot, snapshot: StudySnapshot) -> str:
    """Of the run of one piece of work."""
    facts = [("What", f"{WHAT[work.until]} {_role(work)}.".strip())]
    if work.params:
        facts.append(("Settings", f"{_settings(work)}, seed {work.seed}"))
    build = generator_of(work, snapshot)
    if build is not None and build is not work:
        facts.append(
            ("Generator", f"run `{build.label}`, {build.state}; students of equal generator settings share it")
        )
    facts += [
        (f"At {rung.images:,} images", f"agreement {percent(rung.value)}, {'went on' if rung.kept else 'stopped here'}")
        for rung in work.rungs
    ]
    if work.state is WorkState.COMPLETE and (Path(work.folder) / "report.html").is_file():
        facts.append(("Look at", "Artifacts: `report.html` for all of it, `pictures` for its images"))
    headline = f"{work.label}: {relative_paths(result_in_words(work)) if work.state.is_final else work.state}"
    return _note(headline, [*facts, ("More", f"`{verb_command('show', snapshot, work.label)}`")])


def _asked(snapshot: StudySnapshot) -> str:
    wanted = dict(findings.asked(snapshot))
    parts = [wanted[name] for name in ("Traded off", "Constraints", "Search", "Variants") if name in wanted]
    return f"the most {wanted['Maximised']}; {'; '.join(parts)}"


def _role(work: WorkSnapshot) -> str:
    if work.kind == "build":
        return ""
    return f"It is {ROLES[work.role].format(trial=work.trial)}"


def _settings(work: WorkSnapshot) -> str:
    return ", ".join(f"`{path}` {shown(value)}" for path, value in work.params.items()) or "as the study file says"


def _note(headline: str, facts: list[tuple[str, str]]) -> str:
    return "\n".join([f"**{headline}**", "", *(f"* **{name}**: {words}" for name, words in facts)])

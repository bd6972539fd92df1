"""Further objectives and constraints of a study in words, for terminals and pages. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hidfd.formatting import listed
from tune.study.metrics import MEASURES, written
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState

BEST_MARK, FRONT_MARK = "★", "◆"
"""Marks of the best trial and of those on the Pareto front, in tables of the terminal."""


def further_columns(snapshot: StudySnapshot) -> list[str]:
    """Return the measures that decide about a student, except those that have a column in every table anyway."""
    return [name for name in snapshot.study.judged if name not in (snapshot.objective, "validation_accuracy")]


def trade_offs_in_words(snapshot: StudySnapshot) -> str:
    """Return the further objectives: `deployed parameters minimised`; empty where there are none."""
    further = snapshot.study.further_objectives
    return ", ".join(f"{MEASURES[name].in_words} {direction}d" for name, direction in further.items())


def constraints_in_words(snapshot: StudySnapshot) -> str:
    """Return the constraints: `deployed parameters at most 1,000,000`; empty where there are none."""
    return ", ".join(
        f"{MEASURES[name].in_words} {word} {written(name, limit)}" for name, word, limit in _limits(snapshot)
    )


def missed_constraints(metrics: Mapping[str, float], snapshot: StudySnapshot) -> str:
    """Return the constraints that a student misses: `infeasible: latency 6.1 ms, not at most 5 ms`; empty if none."""
    found = [
        f"{MEASURES[name].in_words} {written(name, metrics[name])}, not {word} {written(name, limit)}"
        for name, word, limit in _limits(snapshot)
        if name in metrics and (metrics[name] > limit if word == "at most" else metrics[name] < limit)
    ]
    return f"infeasible: {'; '.join(found)}" if found else ""


def front_in_words(snapshot: StudySnapshot) -> str | None:
    """Return the trials on the Pareto front, and what that means; None with one objective, or without a trial on it."""
    if not snapshot.front:
        return None
    objectives = (snapshot.objective, *snapshot.study.further_objectives)
    return (
        f"Pareto front: {listed('trial', snapshot.front)}, which no other student surpasses in "
        f"{' and '.join(MEASURES[name].in_words for name in objectives)} together"
    )


def why_no_champion(snapshot: StudySnapshot) -> str | None:
    """Return why a finished search whose students miss the constraints has no champion; None otherwise."""
    wanted = constraints_in_words(snapshot)
    if not snapshot.finished or not wanted:
        return None
    complete = [trial for trial in snapshot.trials if trial.state is TaskState.COMPLETE]
    if len(complete) == 1 and not complete[0].feasible:
        return f"the one complete student does not keep the constraints ({wanted})"
    if complete and not any(trial.feasible for trial in complete):
        return f"none of the {len(complete)} complete students keeps the constraints ({wanted})"
    finalists = [row for row in snapshot.comparison_rows if row.role == "finalist" and row.num_complete]
    if finalists and not any(row.feasible for row in finalists):
        return f"on fresh seeds no finalist keeps the constraints ({wanted})"
    return None


def _limits(snapshot: StudySnapshot) -> Iterator[tuple[str, str, float]]:
    """Yield measure, `at least` or `at most`, and the bound of every constraint."""
    for name, bound in snapshot.study.constraints.items():
        for word, limit in (("at least", bound.min), ("at most", bound.max)):
            if limit is not None:
                yield name, word, limit

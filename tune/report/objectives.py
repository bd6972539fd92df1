"""What a study trades off and bounds beside its objective, in words and cells for terminals and pages. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tune.study.metrics import MEASURES, written
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState

BEST_MARK, FRONT_MARK = "★", "◆"


def further_columns(snapshot: StudySnapshot) -> list[str]:
    """Measures that decide about a student and have no column of their own in every table."""
    return [name for name in snapshot.study.judged if name not in (snapshot.objective, "validation_accuracy")]


def traded_off(snapshot: StudySnapshot) -> str:
    """The further objectives: `deployed parameters minimised`; empty where there are none."""
    further = snapshot.study.further_objectives
    return ", ".join(f"{MEASURES[name].in_words} {direction}d" for name, direction in further.items())


def constraints_in_words(snapshot: StudySnapshot) -> str:
    """`deployed parameters at most 1,000,000`; empty where there are none."""
    return ", ".join(
        f"{MEASURES[name].in_words} {word} {written(name, limit)}" for name, word, limit in _limits(snapshot)
    )


def missed(metrics: Mapping[str, float], snapshot: StudySnapshot) -> str:
    """The constraints that a student misses: `infeasible: latency 6.1 ms, not at most 5 ms`; or nothing."""
    found = [
        f"{MEASURES[name].in_words} {written(name, metrics[name])}, not {word} {written(name, limit)}"
        for name, word, limit in _limits(snapshot)
        if name in metrics and (metrics[name] > limit if word == "at most" else metrics[name] < limit)
    ]
    return f"infeasible: {'; '.join(found)}" if found else ""


def front_in_words(snapshot: StudySnapshot) -> str | None:
    """Which trials stand on the Pareto front, and what that means; None with one objective, or before there is one."""
    if not snapshot.front:
        return None
    numbers = ", ".join(map(str, snapshot.front))
    objectives = (snapshot.objective, *snapshot.study.further_objectives)
    return (
        f"Pareto front: trial{'s' if len(snapshot.front) > 1 else ''} {numbers}, which no other student surpasses in "
        f"{' and '.join(MEASURES[name].in_words for name in objectives)} together"
    )


def why_no_champion(snapshot: StudySnapshot) -> str | None:
    """Said of a finished search whose students came to their end, but miss the constraints; None otherwise."""
    wanted = constraints_in_words(snapshot)
    if not snapshot.finished or not wanted:
        return None
    complete = [trial for trial in snapshot.trials if trial.state is TaskState.COMPLETE]
    if complete and not any(trial.feasible for trial in complete):
        return f"none of the {len(complete)} complete students keeps the constraints ({wanted})"
    finalists = [row for row in snapshot.rows if row.role == "finalist" and row.num_complete]
    if finalists and not any(row.feasible for row in finalists):
        return f"on fresh seeds no finalist keeps the constraints ({wanted})"
    return None


def cautions_of_trade_offs(snapshot: StudySnapshot) -> Iterator[str]:
    """What the numbers do not say."""
    pruned = sum(trial.state is TaskState.PRUNED for trial in snapshot.trials)
    if pruned and further_columns(snapshot):
        yield (
            f"Students were stopped early by their agreement alone ({pruned} of them), whatever else they are judged "
            f"by: a small or fast one may be missing. With `pruner: {{kind: none}}` all run to their end."
        )
    if snapshot.study.measures_latency:
        yield (
            "Latency is that of one image on one thread of the CPU that trained the student, under whatever else ran "
            "there: elsewhere it is another one, and runs differ."
        )


def _limits(snapshot: StudySnapshot) -> Iterator[tuple[str, str, float]]:
    for name, bound in snapshot.study.constraints.items():
        for word, limit in (("at least", bound.min), ("at most", bound.max)):
            if limit is not None:
                yield name, word, limit

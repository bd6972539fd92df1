"""Who is handed over, and what is said of it: the finalist's typical student, never the luckiest one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tune.snapshots import VARIANTS, study_snapshot
from tune.report.champion import champion_of, description_of, numbers_in_words, tags_of
from tune.report.summary import conclusion_in_words
from tune.study.snapshot import RowSnapshot, StudySnapshot
from tune.study.states import TaskState


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    folder = tmp_path_factory.mktemp("whole")
    return study_snapshot(folder, folders=False, study={"seeds": [1001, 1002, 1003]})


def valued(snapshot: StudySnapshot, *values: float | None) -> StudySnapshot:
    """The study with these values of the finalist's students; None for one that diverged."""
    row = snapshot.comparison_rows[0]
    given = dict(zip(row.keys, values, strict=True))
    tasks = tuple(
        replace(
            task,
            value=given[task.key],
            state=TaskState.COMPLETE if given[task.key] is not None else TaskState.DIVERGED,
        )
        if task.key in given
        else task
        for task in snapshot.tasks
    )
    known = [value for value in values if value is not None]
    row = replace(row, num_complete=len(known), means=row.means | {"agreement": sum(known) / len(known)})
    return replace(snapshot, tasks=tasks, comparison_rows=(row, *snapshot.comparison_rows[1:]))


@pytest.mark.parametrize(
    ("values", "seed"),
    [
        ((0.8, 0.9, 0.84), 1003),  # neither the best nor the first
        ((0.8, 0.8, 0.8), 1001),
        ((0.1, 0.3, 0.2), 1003),
        ((0.1, 0.1 + 0.2, 0.5), 1002),  # whatever the last digits say
    ],
)
def test_the_student_nearest_to_the_mean_is_handed_over(
    whole: StudySnapshot, values: tuple[float, ...], seed: int
) -> None:
    champion = champion_of(valued(whole, *values))
    assert champion is not None
    assert champion.student.seed == seed


def test_a_finalist_that_has_lost_a_seed_is_none(whole: StudySnapshot) -> None:
    assert champion_of(valued(whole, 0.8, None, 0.84)) is None


def test_there_is_no_champion_before_all_that_it_is_held_against_has_ended(tmp_path: Path) -> None:
    study: dict[str, Any] = {"folders": False}
    rounds = 1
    while (part := study_snapshot(tmp_path, rounds=rounds, **study)) and not part.finished:
        assert champion_of(part) is None
        rounds += 1
    assert champion_of(part) is not None


def test_a_study_of_variants_has_no_champion(tmp_path: Path) -> None:
    study = {"variants": VARIANTS, "seeds": [1, 2]}
    assert champion_of(study_snapshot(tmp_path, folders=False, study=study, search={})) is None


def test_of_several_finalists_the_higher_mean_wins(whole: StudySnapshot) -> None:
    control = next(row for row in whole.comparison_rows if row.role == "control")
    other: RowSnapshot = replace(control, role="finalist", means=control.means | {"agreement": 0.99})
    champion = champion_of(replace(whole, comparison_rows=(*whole.comparison_rows, other)))
    assert champion is not None
    assert champion.row is other


def test_words_and_tags_are_those_of_the_snapshot(whole: StudySnapshot) -> None:
    champion = champion_of(whole)
    assert champion is not None
    row, student = champion.row, champion.student
    text = description_of(champion, whole, "small", "champion")
    first = text.splitlines()[0]
    assert first.startswith("The network is in eval mode already; do not call `.eval()` or `.train()`")
    assert f"\n**{whole.verdict}**\n" in text
    assert numbers_in_words(champion) in text
    mean, deviation = 100 * row.means["agreement"], 100 * row.deviations["agreement"]
    assert f"agreement {mean:.1f} ± {deviation:.1f} %" in numbers_in_words(champion)
    assert "n = 3" in numbers_in_words(champion)
    assert 'mlflow.pytorch.load_model("models:/small@champion")' in text
    assert "batch x 1 x 28 x 28" in text
    tags = tags_of(champion, whole)
    assert tags["digest"] == student.key
    assert tags["seed"] == str(student.seed)
    assert tags["agreement_mean"] == f"{row.means['agreement']:.4f}"
    assert tags["validation_accuracy"] == f"{student.metrics['validation_accuracy']:.4f}"
    assert tags["n"] == "3"
    assert tags["teacher"] == f"resnet14 sha256:{'c' * 64}"
    assert tags["command"] == whole.command
    assert "distillation.inflation" in tags["settings"]


def test_description_has_the_accuracy_of_the_teacher(whole: StudySnapshot) -> None:
    tasks = tuple(replace(task, metrics=task.metrics | {"teacher_validation_accuracy": 0.912}) for task in whole.tasks)
    taught = replace(whole, tasks=tasks)
    champion = champion_of(taught)
    assert champion is not None
    assert "distilled from a resnet14 (91.2 % validation accuracy)" in description_of(champion, taught, "a", "b")
    assert tags_of(champion, taught)["teacher_validation_accuracy"] == "0.9120"


def test_without_a_verdict_that_is_said(whole: StudySnapshot) -> None:
    champion = champion_of(whole)
    assert champion is not None
    alone = replace(whole, verdict=None, gains=(), comparison_rows=whole.comparison_rows[:1])
    assert "neither a control nor a second finalist" in description_of(champion, alone, "a", "b")
    assert "nothing was compared with its best trial" in conclusion_in_words(alone)
    assert "worth of the generator is open" in description_of(champion, replace(whole, verdict=None), "a", "b")

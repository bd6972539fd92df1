"""A study in words and tables, as a terminal shows them."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hidfd.pipeline.console import Rate
from hidfd.store.store import Store
from hidfd.text_table import TextTable
from tests.tune.snapshots import study_snapshot
from tests.tune.world import TESTED, World, definition, run
from tune.planner.forecast import forecast_of
from tune.report.labels import result_in_words
from tune.report.selection import best_of_comparison
from tune.report.summary import request_facts
from tune.study.config import BudgetConfig
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.study.verdict import verdict_in_words
from tune.terminal.progress import progress_in_words
from tune.terminal.tables import (
    budget_in_words,
    comparison_table,
    forecast_lines,
    forecast_table,
    left_in_words,
    shared_reasons,
    task_table,
    trials_table,
)
from tune.terminal.verdict import verdict_text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("study"), folders=False)


def text_of(table: TextTable | None, width: int = 200) -> list[str]:
    assert table is not None
    stream = io.StringIO()
    Console(file=stream, width=width).print(table, crop=False)
    return [line.strip() for line in stream.getvalue().splitlines() if line.strip()]


def one(snapshot: StudySnapshot, state: TaskState, kind: TaskKind = TaskKind.STUDENT) -> TaskSnapshot:
    return next(task for task in snapshot.tasks if (task.state, task.kind) == (state, kind))


def test_result_has_the_main_numbers_and_the_duration(whole: StudySnapshot) -> None:
    student = replace(
        one(whole, TaskState.COMPLETE),
        metrics={"agreement": 0.8125, "agreement_standard_error": 0.011, "validation_accuracy": 0.79},
        seconds=52.0,
    )
    assert result_in_words(student) == "agreement 81.2 ± 1.1 %, validation accuracy 79.0 %, in 52 s"
    assert result_in_words(replace(student, reused=True)).endswith("from the store")
    build = replace(
        one(whole, TaskState.COMPLETE, TaskKind.GENERATOR), metrics={"generator.effective_classes": 9.0}, seconds=9.0
    )
    assert result_in_words(build) == "done, 9.0 effective classes, in 9.0 s"


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (TaskState.PRUNED, "pruned at 3,200 images: 2 others did better there", "pruned at 3,200 images: 2 others"),
        (TaskState.COLLAPSED, "generator-0 collapsed: 2 classes", "collapsed: generator-0 collapsed: 2 classes"),
        (TaskState.DIVERGED, "a loss was not finite", "diverged: a loss was not finite"),
        (TaskState.FAILED, "out of memory", "failed: out of memory"),
    ],
)
def test_result_of_a_bad_end_says_its_state_once(
    state: TaskState, reason: str, words: str, whole: StudySnapshot
) -> None:
    task = replace(one(whole, TaskState.COMPLETE), state=state, reason=reason, metrics={})
    assert result_in_words(task).startswith(words)


def test_progress_has_pace_and_time_left(whole: StudySnapshot) -> None:
    task = replace(whole.tasks[0], stage="generation", images=3_200, target_images=24_000)
    rate = Rate(0, 0.0)
    assert progress_in_words(task, rate) == "generation 3,200 of 24,000 images"
    rate.update(3_200, 10.0)
    assert progress_in_words(task, rate).startswith("generation 3,200 of 24,000 images  320 images/s  1 min 0")
    assert progress_in_words(replace(task, stage=None), rate) == "starting"


def test_table_of_trials_begins_with_the_best_and_has_no_number_for_failed_ones(whole: StudySnapshot) -> None:
    failed = replace(whole.trials[0], number=8, state=TaskState.FAILED, value=None, reason="out of memory")
    again = whole.trials[0]  # its student was trained again, and is in the line of that trial
    assert again.state is TaskState.COMPLETE
    title, heading, _, *lines = text_of(trials_table(replace(whole, trials=(*whole.trials, failed))))
    assert (title, "validation accuracy" in heading) == ("Search", True)
    assert lines[0].startswith(f"★  {whole.best} ") or lines[0].split()[:2] == ["★", str(whole.best)]
    assert len(lines) == len(whole.trials) + 1
    last = next(line for line in lines if "out of memory" in line)
    assert "%" not in last
    pruned = next(trial for trial in whole.trials if trial.state is TaskState.PRUNED)
    task = whole.task(pruned.key or "")
    assert task is not None
    assert any(f"pruned at 3,200 images with {100 * task.rungs[-1].value:.1f} %" in line for line in lines)


def test_table_of_comparisons_has_each_row_with_its_n(whole: StudySnapshot) -> None:
    lines = text_of(comparison_table(whole))
    assert lines[0] == f"Trial {whole.best} beside its controls, on fresh seeds"
    for row, line in zip(whole.comparison_rows, lines[3:], strict=True):
        assert line.replace("★", "").split()[:2] == [row.name, "1"]
        assert f"{100 * row.means['agreement']:.1f} %" in line
        assert ("★" in line) == (row is best_of_comparison(whole))
    assert comparison_table(replace(whole, comparison_rows=())) is None
    assert trials_table(replace(whole, trials=())) is None


def test_verdict_on_a_terminal_shows_a_loss_in_its_own_colour(whole: StudySnapshot) -> None:
    gains = tuple(replace(gain, standing="lost", gain=-0.23, low=-0.3, high=-0.2) for gain in whole.gains[:1])
    shown = replace(whole, gains=gains, verdict=verdict_in_words(gains, ()))
    text = verdict_text(shown)
    assert text is not None
    assert text.plain == f"verdict: {shown.verdict}"
    (span,) = text.spans
    assert text.plain[span.start : span.end] == "lost to real-only by 23.0 [20.0, 30.0]"
    assert span.style == "bold red"
    assert verdict_text(replace(whole, verdict=None)) is None


LONG_SEARCH = {
    "generation.integration.trans_weight": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
    "generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4.0},
    "generation.discriminator_learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "generation.generator_learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "distillation.feature_weight": {"type": "float", "low": 0.1, "high": 10.0},
    "distillation.architecture": {"type": "categorical", "choices": ["resnet18-32px", "wrn-40-2"]},
    "distillation.inflation": {"type": "float", "low": 1.0, "high": 20.0, "log": True},
}


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_table_breaks_a_word_or_is_wider_than_the_screen(width: int, tmp_path: Path) -> None:
    study = {"constraints": {"agreement": {"min": 0.7}}, "pruner": {"kind": "none"}}
    snapshot = study_snapshot(tmp_path, folders=False, study=study, search=LONG_SEARCH, collapsed=1)
    row = replace(snapshot.comparison_rows[0], name="variant-without-feature-integration-and-smoothing-of-frequencies")
    snapshot = replace(snapshot, comparison_rows=(row, *snapshot.comparison_rows[1:]))
    tasks = [
        replace(task, attempts=[replace(a, node="gpu-node-17.cluster.example.org") for a in task.attempts])
        for task in snapshot.tasks
    ]
    forecast = forecast_of(World().planner(definition(search=LONG_SEARCH)).state, Store.open(tmp_path / "store"))
    tables = (trials_table(snapshot), comparison_table(snapshot), task_table(tasks), forecast_table(forecast))
    for table in tables:
        lines = text_of(table, width)
        assert max(map(len, lines)) <= width
    words = {word.strip(",") for line in text_of(trials_table(snapshot), width) for word in line.split()}
    assert {"wrn-40-2", "resnet18-32px", "collapsed"} <= words
    assert words & {"discriminator_learning_rate", "generation.discriminator_learning_rate"}
    trials = [line for line in text_of(trials_table(snapshot), width) if f" {row.num_complete} " not in line]
    assert len(trials) >= len(snapshot.trials)
    assert row.name in {line.split()[0] for line in text_of(comparison_table(snapshot), width)}
    assert {task.label for task in tasks} <= {line.split()[0] for line in text_of(task_table(tasks), width)}


def test_reason_that_is_the_generators_is_said_once_for_all_its_trials(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, folders=False, collapsed=1)
    collapsed = next(trial for trial in snapshot.trials if trial.state is TaskState.COLLAPSED)
    another = replace(snapshot.trials[0], number=8, state=TaskState.FAILED, value=None, reason="out of memory")
    more = (replace(collapsed, number=9), another, replace(another, number=10))
    lines = shared_reasons(with_more := replace(snapshot, trials=(*snapshot.trials, *more)))
    assert len(lines) == 2
    assert lines[0].startswith(f"generator-1 (trials {collapsed.number}, 9): collapsed: exp(entropy)")
    assert lines[1].endswith("(trials 8, 10): out of memory")
    table = "\n".join(text_of(trials_table(with_more), 160))
    assert "exp(entropy)" not in table
    assert table.count("collapsed") == 2


def test_table_of_tasks_has_their_progress(whole: StudySnapshot) -> None:
    task = replace(whole.tasks[1], state=TaskState.RUNNING, stage="generation", images=1_600, seconds=61.0)
    assert text_of(task_table([task]))[-1].split("  ")[0] == task.label
    assert "1,600 of 3,200" in text_of(task_table([task]))[-1]


def test_plan_has_its_range_its_price_and_what_the_budget_lacks(tmp_path: Path) -> None:
    prices = {"price_per_cpu_hour": 3600.0, "money": 1.0, "currency": "CHF"}
    study = definition({"budget": prices, "num_finalists": 2}, data=TESTED)
    forecast = forecast_of(World().planner(study).state, Store.open(tmp_path / "store"))
    table = text_of(forecast_table(forecast))
    assert table[0].split() == ["what", "in", "all", "in", "the", "store", "each", "left", "to", "do", "storage"]
    assert re.search(r"^generation +4 +0 +~ \S+ s +~ .+ s \(.+ s to .+ s\) +\S+ MB$", table[3])
    lines = forecast_lines(forecast, study)
    assert "about one CPU core; the low end has pruning stop what it can" in lines[0]
    assert lines[1].startswith("6 students are not suggested yet")
    assert "sharing: 10 students use 4 generators; one for each would take" in lines[2]
    assert "left to do: 1 teacher, 1 collection, 4 generators, 11 students: ~ " in lines[3]
    assert re.search(r"[\d.]+ CHF \([\d.e-]+ to [\d.e+]+\)$", lines[3])
    assert re.search(r"study.budget.money: 1 (may|will) not suffice: 0 spent", lines[4])
    assert lines[5].startswith("at once: 1 CPU; the store grows by ~ ")
    assert "test labels are opened" in lines[6]
    assert left_in_words(forecast, study) == lines[3:5]
    over = forecast_of(run(definition(data=TESTED), World()).state, Store.open(tmp_path / "store"))
    assert left_in_words(over, study) == ["left to do: nothing that takes long"]
    assert forecast_lines(over, study)[-1] == "left to do: nothing that takes long", "not what is over already"


@pytest.mark.parametrize(("bank", "is_told"), [(0, False), (160, True), (16_000, False)])
def test_plan_says_where_the_longest_students_wear_their_views_out(tmp_path: Path, bank: int, is_told: bool) -> None:
    study = definition({"worth": [20, 400], "seeds": [1001]}, {}, distillation={"view_bank": bank, "batch_images": 16})
    longest = max(budget.steps for budget in study.worth_budgets)
    forecast = forecast_of(World().planner(study).state, Store.open(tmp_path / "store"))
    said = [line for line in forecast_lines(forecast, study) if line.startswith("view_bank")]
    images = 16 * longest
    assert len(said) == is_told
    if said:
        assert f"each of 160 views {round(images / 160):,} times" in said[0]
        assert said[0].endswith(f"trial.distillation.view_bank={math.ceil(images / 10)}")


def test_sharing_of_a_grid_follows_its_order(tmp_path: Path, whole: StudySnapshot) -> None:
    search = {
        "distillation.inflation": {"type": "categorical", "choices": [1.0, 2.0]},
        "generation.width": {"type": "int", "low": 8, "high": 16, "step": 8},
    }
    grid = study_snapshot(tmp_path, rounds=0, folders=False, study={"sampler": "grid"}, search=search)
    assert "students with equal ones share it" in dict(request_facts(grid))["Generators"]
    assert dict(request_facts(whole))["Generators"] == "a new one for every 3rd student; those between share it"


def test_budget_says_what_of_it_is_used(whole: StudySnapshot) -> None:
    assert budget_in_words(whole) is None
    budget = BudgetConfig(cpu_hours=8.0, money=20.0, price_per_cpu_hour=2.5, currency="EUR")
    asked = replace(whole, study=whole.study.model_copy(update={"budget": budget}))
    spent = {"cpu_hours": 1.25, "gpu_hours": 0.0, "wall_hours": 0.7, "money": 3.0}
    assert budget_in_words(replace(asked, spent=spent)) == "1.25 of 8 CPU-hours, 3 of 20 EUR used"


def test_several_finalists_are_not_taken_for_the_best_trial_of_the_search(whole: StudySnapshot) -> None:
    first, *controls = whole.comparison_rows
    rows = (replace(first, name="trial-4"), replace(first, name="trial-2", means={"agreement": 0.99}), *controls)
    title = comparison_table(replace(whole, comparison_rows=rows)).title
    assert title == "Finalists on fresh seeds, and the controls of trial-2"

"""When a generator pays, wherever a study says what came of it: page, figures, terminal, MLflow, plan."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from hidfd.store.store import Store
from tests.hidfd.outline import text_of
from tests.tune.world import definition, run
from tests.tune.worth_world import WORTH, WorthWorld, shown
from tune.planner.forecast import forecast_of
from tune.report.labels import difference_cell
from tune.report.page import write_study_report
from tune.report.pictures.worth import draw_worth, interactive_worth
from tune.report.search_figures import write_study_figures
from tune.report.summary import conclusion_in_words
from tune.study.snapshot import StudySnapshot, WorthSnapshot
from tune.terminal.tables import forecast_lines
from tune.terminal.worth import worth_table, worth_text
from tune.tracking.descriptions import study_note
from tune.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    study = replace(definition(WORTH, search={}), folder=tmp_path_factory.mktemp("study"))
    return shown(run(study, WorthWorld()))[0]


@pytest.fixture(scope="module")
def worth(whole: StudySnapshot) -> WorthSnapshot:
    assert whole.worth is not None
    return whole.worth


def test_page_has_the_answer_the_figure_and_the_table_of_budgets(
    whole: StudySnapshot, worth: WorthSnapshot, tmp_path: Path
) -> None:
    html = write_study_report(whole, tmp_path).read_text()
    text = text_of(html)
    assert worth.answer is not None
    assert text.count(worth.answer) == 2, "at the top, where it is all that was asked, and in its section"
    assert "CPU-seconds of one student in all" in text
    for budget in worth.budgets:
        assert f"{budget.name} {budget.steps:,} 3 " in text
        for difference in filter(None, (budget.difference, budget.at_equal_steps)):
            assert difference_cell(difference) in text
    assert "The comparison" not in text


def test_figures_are_a_picture_and_a_part_of_the_page(whole: StudySnapshot, tmp_path: Path) -> None:
    page = write_study_figures(whole, tmp_path)
    assert page is not None
    assert 'id="worth"' in page.read_text()
    with Image.open(tmp_path / "figures" / "worth.png") as picture:
        assert picture.width > 800


def test_labels_of_the_figure_do_not_overlap_where_hybrid_budgets_cost_nearly_the_same(worth: WorthSnapshot) -> None:
    budgets = tuple(
        replace(budget, cost=1000.0 + budget.steps / 100, mean=0.8) if budget.arm == "hybrid" else budget
        for budget in worth.budgets
    )
    figure = draw_worth(replace(worth, budgets=budgets, crossings=()))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts][:1] == ["20"]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4, "the label of 80 steps would lie on that of 20"
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_both_figures_show_each_arm_over_its_cost_and_the_crossing(worth: WorthSnapshot) -> None:
    drawn = {trace["name"]: trace for trace in interactive_worth(worth)["data"]}
    (crossing,) = worth.crossings
    words = next(name for name in drawn if name.startswith("crossing at "))
    assert list(drawn) == ["hybrid", "real-only", words]
    assert drawn["hybrid"]["x"] == pytest.approx([budget.cost for budget in worth.budgets[:2]])
    assert drawn["hybrid"]["y"] == pytest.approx([100 * (budget.mean or 0) for budget in worth.budgets[:2]])
    (axes,) = draw_worth(worth).axes
    assert words in [text.get_text() for text in axes.get_legend().get_texts()]
    assert drawn[words]["x"][0] == pytest.approx(30 + 0.64 * crossing.steps), "hybrid's cost at these steps"


def test_terminal_has_the_table_and_the_answer(whole: StudySnapshot, worth: WorthSnapshot) -> None:
    stream = io.StringIO()
    table = worth_table(whole)
    assert table is not None
    Console(file=stream, width=120).print(table)
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert [line[0] for line in lines[-5:]] == [budget.name for budget in worth.budgets]
    assert lines[-5][1:3] == ["3", "43"]
    assert stream.getvalue().splitlines()[1].split("ahead at equal cost")[1].strip() == "at equal steps"
    free = worth.budgets[0].at_equal_steps
    assert free is not None
    assert stream.getvalue().splitlines()[-5].rstrip().endswith(difference_cell(free))
    text = worth_text(whole)
    assert text is not None
    assert text.plain == f"worth: {worth.answer}"
    assert worth_text(replace(whole, worth=None)) is None
    assert conclusion_in_words(whole) == worth.answer


def test_mlflow_has_the_answer_as_note_and_tag_and_the_figure(
    whole: StudySnapshot, worth: WorthSnapshot, tmp_path: Path
) -> None:
    write_study_figures(whole, Path(whole.folder))
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "worth")
    tracker.sync(whole)
    (parent,) = tracker.client.search_runs(
        [tracker.client.get_experiment_by_name("worth").experiment_id], "tags.kind = 'study'"
    )
    assert parent.data.tags["hidfd.worth"] == worth.answer
    assert study_note(whole).startswith(f"**{worth.answer}**")
    assert parent.data.metrics["hybrid-80-steps/validation_accuracy"] == pytest.approx(worth.budgets[1].mean)
    assert "figures/worth.png" in [file.path for file in tracker.client.list_artifacts(parent.info.run_id, "figures")]


def test_plan_says_what_each_arm_takes_and_that_generators_are_shared(tmp_path: Path) -> None:
    study, store = definition(WORTH, search={}), Store.open(tmp_path)
    forecast = forecast_of(WorthWorld().planner(study).state, store)
    longest = study.worth_budgets[-1].steps
    (line,) = [line for line in forecast_lines(forecast, study) if line.startswith("when a generator pays")]
    assert "3 generators ~ " in line
    assert "one for each seed, which all hybrid students of it share" in line
    assert "6 hybrid students of 20, 80 steps ~ " in line
    assert f"9 real-only students of 20, 80, {longest} steps ~ " in line
    seconds = [found.expected for _, found in forecast.worth.values() if found is not None]
    rows = {row.what: row.seconds.expected for row in forecast.rows}
    assert seconds[1] + seconds[2] == pytest.approx(rows["distillation"]), "students of several lengths are not alike"
    assert forecast_of(WorthWorld().planner(definition()).state, store).worth == {}

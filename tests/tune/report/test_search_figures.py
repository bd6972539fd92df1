"""Figures of a study: numbers of the snapshot, one page that needs no network, a picture of each beside it."""

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from optuna.trial import TrialState
from PIL import Image

from tests.hidfd.outline import Outline, text_of
from tests.tune.snapshots import VARIANTS, study_snapshot
from tune.report.search_figures import pair_of, study_of, write_study_figures
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState

FLAT = {
    "generation.generator_learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "distillation.inflation": {"type": "categorical", "choices": [1, 5, 20]},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("study"), folders=False)


@pytest.fixture(scope="module")
def folder(whole: StudySnapshot) -> Path:
    page = write_study_figures(whole, Path(whole.folder))
    assert page is not None
    assert page.name == "figures.html"
    return page.parent


def test_optuna_is_told_what_the_study_knows(whole: StudySnapshot) -> None:
    study = study_of(whole)
    assert study.best_trial.number == whole.best
    for told, trial in zip(study.trials, whole.trials, strict=True):
        assert list(told.params.values()) == list(trial.params.values())
        if trial.state is TaskState.COMPLETE:
            assert told.value == pytest.approx(100 * (trial.value or 0))
        else:
            task = whole.task(trial.key or "")
            assert task is not None
            assert told.state is TrialState.PRUNED
            assert told.intermediate_values == {rung.images: 100 * rung.value for rung in task.rungs}
    assert {told.user_attrs["generator"] for told in study.trials} == {f"generator-{n}" for n in range(3)}


def test_numbers_of_trials_stay_while_some_still_run(tmp_path: Path) -> None:
    part = study_snapshot(tmp_path, rounds=22, folders=False)
    study = study_of(part)
    states = [trial.state for trial in part.trials]
    assert TaskState.RUNNING in states
    assert [told.state is TrialState.RUNNING for told in study.trials] == [not state.is_final for state in states]


def test_page_shows_every_figure_and_needs_no_network(folder: Path) -> None:
    html = (folder / "figures.html").read_text()
    own, library = [], []
    for script in re.findall(r"<script[^>]*>.*?</script>", html, flags=re.DOTALL):
        (library if len(script) > 1_000_000 else own).append(script)
    assert (len(library), len(own)) == (1, 1)
    assert html.index(library[0]) > html.index("Who ran when"), (
        "a slow browser shows nothing while it reads the library"
    )
    for script in library:
        html = html.replace(script, "")
    for name in ("history", "importance", "parallel", "slice", "contour"):
        assert f'id="{name}"></div>' in html
        assert f'"{name}": {{"data": [{{' in own[0]
    assert Outline(html).sources == []
    assert "<script src" not in html
    assert {"Workers", "Who ran when", "Two parameters together"} <= set(Outline(html).headings)
    assert "smoothing.temperature" in html or "temperature" in html


def test_every_figure_is_a_picture_too(folder: Path) -> None:
    pictures = sorted(path.name for path in (folder / "figures").iterdir())
    assert pictures == [f"{name}.png" for name in ("contour", "history", "importance", "parallel", "slice", "timeline")]
    for name in pictures:
        with Image.open(folder / "figures" / name) as opened:
            assert opened.width > 600
            assert len(opened.convert("L").getcolors() or range(257)) > 20, "it is empty"


def test_drawing_leaves_the_style_of_other_pages_alone(whole: StudySnapshot, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write_study_figures(whole, tmp_path)
    assert dict(mpl.rcParams) == before


def test_inflation_and_smoothing_are_seen_together_where_both_are_searched(
    whole: StudySnapshot, tmp_path: Path
) -> None:
    assert pair_of(study_of(whole), whole) == ["inflation", "temperature"]
    other = study_snapshot(tmp_path, folders=False, search=FLAT)
    assert set(pair_of(study_of(other), other)) == {"generator_learning_rate", "inflation"}
    assert write_study_figures(other, tmp_path) is not None


@pytest.mark.parametrize("rounds", [0, 3, 12])
def test_a_study_under_way_shows_what_there_is(rounds: int, tmp_path: Path) -> None:
    page = write_study_figures(study_snapshot(tmp_path, rounds=rounds, folders=False), tmp_path)
    assert (page is None) == (rounds == 0)
    if page is not None:
        assert "Who ran when" in text_of(page.read_text())


def test_variants_have_a_time_line_and_no_search(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, study={"variants": VARIANTS, "seeds": [1, 2]}, search={}, folders=False)
    page = write_study_figures(snapshot, tmp_path)
    assert page is not None
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["timeline.png"]
    assert "plotly" not in page.read_text().replace("Plotly", "").lower()


def test_names_are_escaped(whole: StudySnapshot, tmp_path: Path) -> None:
    page = write_study_figures(replace(whole, name="<b>name", trials=()), tmp_path)
    assert page is not None
    assert "<b>name" not in page.read_text()

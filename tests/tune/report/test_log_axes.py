"""Logarithmic axes are labelled at powers of ten, or at round numbers within one, in every figure of a search."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.tune.snapshots import study_snapshot
from tune.report.pictures.interactive_figures import PANELS_IN_A_ROW, interactive_figure
from tune.report.pictures.log_axes import MAX_MARKS, log_marks, marks_in_words
from tune.report.pictures.panels import over_parameter
from tune.report.pictures.still_figures import DrawnSearch, slices
from tune.report.search_figures import pair_of, study_of
from tune.study.config import FloatParameter

SEARCH: dict[str, dict[str, Any]] = {
    "generation.generator_learning_rate": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "generation.smoothing.temperature": {"type": "float", "low": 0.7, "high": 1.4, "log": True},
    "generation.smoothing.weight": {"type": "float", "low": 0.01, "high": 10, "log": True},
    "distillation.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "distillation.inflation": {"type": "float", "low": 1.0, "high": 20.0, "log": True},
    "collection.num_images": {"type": "int", "low": 20, "high": 900, "log": True},
}


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> DrawnSearch:
    folder = tmp_path_factory.mktemp("study")
    snapshot = study_snapshot(
        folder, folders=False, study={"num_students": 10, "pruner": {"kind": "none"}}, search=SEARCH
    )
    study = study_of(snapshot)
    return DrawnSearch(study, ["agreement, %"], pair_of(study, snapshot))


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e-4, 1e-2, ["0.0001", "0.001", "0.01"]),
        (0.001, 10, ["0.001", "0.01", "0.1", "1", "10"]),
        (1e-6, 1, ["10⁻⁶", "10⁻⁴", "10⁻²", "1"]),
        (1e-9, 1e-7, ["10⁻⁹", "10⁻⁸", "10⁻⁷"]),
        (1, 20, ["1", "2", "5", "10", "20"]),
        (5, 200, ["10", "30", "100"]),
        (0.0008, 0.002, ["0.001", "0.0015", "0.002"]),
        (0.0012, 0.0019, ["0.0012", "0.0014", "0.0016", "0.0018"]),
        (0.7, 1.4, ["0.8", "1", "1.2", "1.4"]),
        (1e-5, 9e-5, ["10⁻⁵", "2·10⁻⁵", "5·10⁻⁵"]),
        (1000, 500_000, ["1k", "10k", "100k"]),
        (2, 2, ["2"]),
    ],
)
def test_marks_are_powers_of_ten_or_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert marks_in_words(log_marks(low, high)) == labels


@pytest.mark.parametrize("low", [1e-12, 3e-7, 0.011, 0.9999, 1.0, 37.0, 2e5])
@pytest.mark.parametrize("ratio", [1.0001, 1.05, 1.3, 2.0, 7.0, 9.99, 10.0, 50.0, 1e3, 1e8])
def test_every_range_has_a_few_marks_that_differ(low: float, ratio: float) -> None:
    marks = log_marks(low, low * ratio)
    assert 2 <= len(marks) <= MAX_MARKS
    assert marks == sorted(set(marks))
    assert all(low * 0.999999 <= mark <= low * ratio * 1.000001 for mark in marks)
    labels = marks_in_words(marks)
    assert len(set(labels)) == len(labels)


def test_the_panels_of_a_page_are_labelled_at_decades() -> None:
    searched = FloatParameter(type="float", low=1e-4, high=1e-2, log=True)
    drawn = over_parameter([(0.001, 80.0), (0.002, 81.0)], [], None, searched, "agreement, %")
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert {"0.0001", "0.001", "0.01"} <= set(labels)


def test_still_panels_are_labelled_at_decades(search: DrawnSearch) -> None:
    labels = {axes.get_xlabel(): [label.get_text() for label in axes.get_xticklabels()] for axes in slices(search).axes}
    assert labels["learning_rate"] == ["0.0001", "0.001", "0.01"]
    assert labels["generator_learning_rate"][0] == "10⁻⁶"
    assert labels["temperature"] == ["0.8", "1", "1.2", "1.4"]


def test_interactive_panels_are_labelled_at_decades_and_keep_apart(search: DrawnSearch) -> None:
    layout = interactive_figure("slice", "plot_slice", search)["layout"]
    axes = {found["title"]["text"]: found for name, found in layout.items() if name.startswith("xaxis")}
    assert len(axes) == len(SEARCH) > PANELS_IN_A_ROW
    assert axes["learning_rate"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    assert axes["temperature"]["ticktext"] == ["0.8", "1", "1.2", "1.4"]
    for axis in axes.values():
        assert axis["range"][0] < math.log10(axis["tickvals"][0])
        assert axis["domain"][1] - axis["domain"][0] > 0.2


def test_interactive_contour_is_labelled_within_what_it_shows(search: DrawnSearch) -> None:
    layout = interactive_figure("contour", "plot_contour", search)["layout"]
    for axis in (layout["xaxis"], layout["yaxis"]):
        if axis.get("type") == "log":
            assert len(axis["tickvals"]) >= 2
            assert all(axis["range"][0] <= math.log10(mark) <= axis["range"][1] for mark in axis["tickvals"])


def test_parallel_coordinates_are_labelled_where_the_lines_are(search: DrawnSearch) -> None:
    figure = interactive_figure("parallel", "plot_parallel_coordinate", search)
    place = figure["layout"]["xaxis"]["ticktext"].index("learning_rate")
    notes = {note["text"]: note["y"] for note in figure["layout"]["annotations"] if note["x"] == place}
    rates = [trial.params["learning_rate"] for trial in search.study.trials]
    assert set(notes) == set(marks_in_words(log_marks(min(rates), max(rates))))
    for text, y in notes.items():
        expected = math.log(float(text) / min(rates)) / math.log(max(rates) / min(rates))
        assert y == pytest.approx(expected)


def test_a_conditional_parameter_keeps_its_mark_for_none(tmp_path: Path) -> None:
    searched = {
        "distillation.flip": {"type": "categorical", "choices": [True, False]},
        "distillation.learning_rate": {
            "type": "float",
            "low": 1e-3,
            "high": 1e-1,
            "log": True,
            "when": {"distillation.flip": True},
        },
    }
    snapshot = study_snapshot(tmp_path, folders=False, study={"pruner": {"kind": "none"}}, search=searched)
    study = study_of(snapshot)
    found = DrawnSearch(study, ["agreement, %"])
    figure = interactive_figure("parallel", "plot_parallel_coordinate", found)
    place = figure["layout"]["xaxis"]["ticktext"].index("learning_rate")
    texts = [note["text"] for note in figure["layout"]["annotations"] if note["x"] == place]
    assert "None" in texts
    assert len(texts) == len(set(texts)) > 2

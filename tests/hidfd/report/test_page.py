"""A trial's page: one file that loads nothing, complete for a whole trial, and sensible for a part of one."""

import json
from pathlib import Path

import pytest

from hidfd.report.curves import training_pictures
from hidfd.report.figures import bars, confusion, lines
from hidfd.report.page import write_trial_report
from tests.hidfd.outline import Outline, text_of
from tests.hidfd.trial_folders import make_trial_folder


def page_of(folder: Path) -> str:
    return write_trial_report(folder).read_text()


def test_page_of_a_whole_trial_has_every_section(tmp_path: Path) -> None:
    outline = Outline(page_of(make_trial_folder(tmp_path / "hybrid")))
    assert {
        *("What was asked", "What the numbers do not say", "Images", "Classes", "Every number", "Training curves"),
        *("Stages", "Again", "Collected images", "Synthetic images", "The closest pairs", "The generator learns"),
        *("Class shares", "Class by class", "Confusion on the validation images"),
        *("Hinge losses", "Feature integration", "Memorisation", "Agreement on the hold-out"),
    } <= set(outline.headings)


def test_page_loads_nothing(tmp_path: Path) -> None:
    html = page_of(make_trial_folder(tmp_path / "hybrid"))
    sources = Outline(html).sources
    assert len(sources) > 5
    assert [source for source in sources if not source.startswith(("data:image/png;base64,", "#"))] == []
    assert "http" not in html
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")
    assert len(html) < 1_500_000


def test_page_states_numbers_with_their_errors_and_what_they_do_not_say(tmp_path: Path) -> None:
    text = text_of(page_of(make_trial_folder(tmp_path / "hybrid", agreement=0.861)))
    assert "86.1 % ± 1.1" in text
    assert "the teacher&#39;s 92.0 % is 7.9 above" in text
    assert "n = 1" in text
    assert "in-domain" in text
    assert "were not compared with a test split" in text


def test_page_gives_the_command_that_makes_the_trial_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = text_of(page_of(make_trial_folder(tmp_path / "results" / "hybrid")))
    assert "python -m hidfd run results/hybrid/config.yaml" in text
    assert str(tmp_path) not in text


def test_page_without_labels_shows_no_accuracy_and_says_why(tmp_path: Path) -> None:
    html = page_of(make_trial_folder(tmp_path / "unlabelled", labels=False))
    assert "Confusion" not in html
    assert "validation accuracy" not in html
    assert "There was no labelled split" in html
    assert "Agreement on the hold-out" in html


def test_page_of_real_images_only_shows_no_generator(tmp_path: Path) -> None:
    html = page_of(make_trial_folder(tmp_path / "real-only", generator=False))
    headings = Outline(html).headings
    assert "Collected images" in headings
    assert not {"Synthetic images", "The generator learns", "Hinge losses", "Memorisation"} & set(headings)
    assert "Agreement" in html


@pytest.mark.parametrize("until", ["teacher", "collection", "generation", "synthesis", "distillation"])
def test_page_of_a_partial_trial_says_how_far_it_went(until: str, tmp_path: Path) -> None:
    html = page_of(make_trial_folder(tmp_path / "part", until=until))
    Outline(html)
    assert f"Built up to its {until}" in html
    assert "held-out images, mean over the classes" not in html


def test_a_generator_that_copies_or_collapsed_is_called_so(tmp_path: Path) -> None:
    folder = make_trial_folder(tmp_path / "bad")
    result = json.loads((folder / "result.json").read_text())
    result["generator"] |= {"memorisation": 0.3, "effective_classes": 2.0}
    (folder / "result.json").write_text(json.dumps(result))
    html = page_of(folder)
    assert "the generator copies in part" in html
    assert "The generator has collapsed" in html


def test_page_shows_metrics_that_it_does_not_know(tmp_path: Path) -> None:
    folder = make_trial_folder(tmp_path / "new")
    with (folder / "metrics.jsonl").open("a") as rows:
        rows.write(json.dumps({"stage": "generation", "images": 5, "generation/novel": 1.0}) + "\n")
    assert "novel" in Outline(page_of(folder)).headings


def test_page_escapes_names(tmp_path: Path) -> None:
    folder = make_trial_folder(tmp_path / "plain")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": "<script>alert(1)</script>"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "<script" not in page_of(folder)


def test_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_trial_folder(tmp_path / "hybrid")
    assert page_of(folder) == page_of(folder)
    assert not list(folder.glob(".*"))


def test_figures_hold_many_classes_and_missing_values() -> None:
    names = [f"class {k}" for k in range(200)]
    assert "class 7" not in bars(names, {"agreement": [None, *[50.0] * 199]})
    assert "class 7" not in confusion([[1] * 200] * 200, names)
    assert "boot" in bars(["bag", "boot"], {"agreement": [None, 50.0]})
    assert "<svg" in lines({"one point": [(1.0, 2.0)]})


def test_what_was_measured_once_has_no_curve() -> None:
    once = [{"stage": "generation", "images": 200, "generation/coverage": 0.3}]
    losses = [{"stage": "generation", "images": images, "generation/reg": -1.0} for images in (100, 200)]
    assert [picture.title for picture in training_pictures(losses + once)["generation"]] == ["Frequency smoothing"]

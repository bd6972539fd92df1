"""The page over all results: what lies there, as its pages say, whoever else writes there at the same time."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hidfd.errors import StoreError
from hidfd.report import index
from hidfd.report.html import render, write_page
from hidfd.report.index import entries_of, write_index
from hidfd.report.links import navigation_element
from hidfd.report.page import write_trial_report
from tests.hidfd.outline import Outline, followed, links_of, text_of
from tests.hidfd.trial_folders import make_trial_folder


def study_page(folder: Path, **said: Any) -> Path:
    """Write a page that says of itself that it is a study's."""
    about = {
        "page": "study",
        "name": folder.name,
        "state": "finished",
        "best": "agreement 84.0 %",
        "when": 1.7e9,
    } | said
    html = render("hidfd/report/index.html", about=about, navigation=navigation_element([]), entries=[])
    return write_page(folder / "report.html", html)


def test_it_lists_studies_and_single_trials_with_state_value_and_date(tmp_path: Path) -> None:
    study_page(tmp_path / "small")
    study_page(tmp_path / "other", state="under way", best="", when=None)
    for name in ("small/trial-0", "small/trial-0a1b2c3d", "alone/trial-deadbeef"):
        folder = make_trial_folder(tmp_path / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["stages"][-1]["created"] = "2026-03-04T05:06:07+00:00"
        (folder / "manifest.json").write_text(json.dumps(manifest))
        write_trial_report(folder)
    page = write_index(tmp_path)
    assert page is not None
    html = page.read_text()
    assert Outline(html).sources == []
    links = links_of(html)
    assert sorted(links) == [
        *("alone/trial-deadbeef/report.html", "other/report.html", "small/report.html"),
        "small/trial-0a1b2c3d/report.html",  # `trial-0` is one of the study's, and on its page
    ]
    assert all(followed(tmp_path, link).is_file() for link in links)
    text = text_of(html)
    assert "small finished agreement 84.0 % 2023-11-14 22:13 UTC" in text
    assert "other under way –" in text
    assert (
        "alone/trial-deadbeef finished agreement 86.0 % ± 1.1, validation accuracy 84.0 % 2026-03-04 05:06 UTC" in text
    )
    assert str(tmp_path) not in html


def test_trials_of_a_study_without_a_page_are_listed_themselves(tmp_path: Path) -> None:
    write_trial_report(make_trial_folder(tmp_path / "killed" / "trial-0", until="collection"))
    (entry,) = entries_of(tmp_path)
    assert (entry.kind, entry.state) == ("trial", "built up to its collection")


@pytest.mark.parametrize("name", ["a?b#c", "100 %", "%20", "two words", "ü 測試", "a:b", '<i>&"'])
def test_folders_of_any_name_are_linked(tmp_path: Path, name: str) -> None:
    study_page(tmp_path / name)
    page = write_index(tmp_path)
    assert page is not None
    (link,) = links_of(page.read_text())
    assert followed(tmp_path, link) == tmp_path / name / "report.html"
    assert "<i>" not in page.read_text()


def test_a_folder_that_was_copied_is_listed_beside_the_first(tmp_path: Path) -> None:
    study_page(tmp_path / "small")
    study_page(tmp_path / "copy", name="small")
    assert {entry.link.text for entry in entries_of(tmp_path)} == {"small", "small (copy)"}


def test_what_is_foreign_or_damaged_is_passed_over(tmp_path: Path) -> None:
    study_page(tmp_path / "small")
    study_page(tmp_path / "odd", state=[1], best={"a": 1}, when="yesterday")
    study_page(tmp_path / "later", when=1e300)
    study_page(tmp_path / "never", when=float("nan"))
    for name in ("empty", "page", "folder/report.html", "bytes", "cut"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "page" / "report.html").write_text("<html><body>somebody else's")
    (tmp_path / "bytes" / "report.html").write_bytes(os.urandom(1000))
    (tmp_path / "cut" / "report.html").write_bytes((tmp_path / "small" / "report.html").read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    found = {
        entry.link.text: (entry.state, entry.best) for entry in entries_of(tmp_path) if "loop" not in entry.link.text
    }
    assert set(found) == {"small", "odd", "later", "never"}
    assert found["odd"] == ("–", "–")
    assert write_index(tmp_path) is not None


def test_a_page_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>my own")
    study_page(tmp_path / "small")
    assert write_index(tmp_path) is None
    assert (tmp_path / "index.html").read_text() == "<html>my own"


def test_a_link_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").symlink_to(tmp_path / "elsewhere.html")
    assert write_index(tmp_path) is None
    assert not (tmp_path / "elsewhere.html").exists()


def test_a_study_that_ends_while_the_page_is_written_is_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_page(tmp_path / "first")

    def slow(path: Path, html: str) -> Path:
        if not (tmp_path / "second").exists():  # it has ended, and its own page over all results is overwritten now
            study_page(tmp_path / "second")
            monkeypatch.undo()
            write_index(tmp_path)
            monkeypatch.setattr(index, "write_page", slow)
        return write_page(path, html)

    monkeypatch.setattr(index, "write_page", slow)
    page = write_index(tmp_path)
    assert page is not None
    assert links_of(page.read_text()) == ["first/report.html", "second/report.html"]


def test_studies_that_end_together_are_all_on_it(tmp_path: Path) -> None:
    names = [f"study-{number}" for number in range(12)]

    def end(name: str) -> None:
        study_page(tmp_path / name)
        write_index(tmp_path)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(end, names))
    html = (tmp_path / "index.html").read_text()
    Outline(html)
    assert sorted(links_of(html)) == sorted(f"{name}/report.html" for name in names)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_results_that_may_not_be_written_have_no_such_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, html: str) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(index, "write_page", refuse)
    assert write_index(tmp_path) is None


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, html: str) -> Path:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(index, "write_page", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        write_index(tmp_path)

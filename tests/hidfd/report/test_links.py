"""Links between pages: relative, escaped, only to pages of this project that exist."""

import os
from pathlib import Path

import pytest

from hidfd.errors import StoreError
from hidfd.report import links
from hidfd.report.html import render, write_page
from hidfd.report.links import about, link_to, navigation_element, renew_navigation
from hidfd.report.page import write_trial_report
from tests.hidfd.outline import followed, links_of
from tests.hidfd.trial_folders import make_trial_folder


def page_of_kind(path: Path, kind: str, name: str = "small") -> Path:
    html = render(
        "hidfd/report/index.html",
        about={"page": kind, "name": name},
        navigation=navigation_element([]),
        entries=[],
    )
    return write_page(path, html)


@pytest.mark.parametrize(
    "name", ["plain", "a?b=1#c", "100 %", "%41", "two words", "Größe ü 測試", "a:b", "java script:x", "'\"<>&", "a;b"]
)
def test_a_link_leads_to_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    page = tmp_path / name / "report.html"
    page.parent.mkdir()
    page.touch()
    link = link_to("there", page, tmp_path)
    assert link.target is not None
    assert followed(tmp_path, link.target) == page
    assert ":" not in link.target
    assert links_of(navigation_element([link])) == [link.target]


def test_a_link_leads_to_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    page = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")) / "report.html"
    page.parent.mkdir()
    page.touch()
    target = link_to("there", page, tmp_path).target
    assert target == "%FF%FE/report.html"


def test_nothing_links_to_a_page_that_does_not_exist(tmp_path: Path) -> None:
    link = link_to("<nowhere>", tmp_path / "report.html", tmp_path)
    assert str(navigation_element([link])) == '<nav class="pages">&lt;nowhere&gt;</nav>'


def test_a_trials_page_leads_back_to_study_figures_and_all_results(tmp_path: Path) -> None:
    page_of_kind(tmp_path / "index.html", "index")
    page_of_kind(tmp_path / "small" / "report.html", "study")
    page_of_kind(tmp_path / "small" / "figures.html", "figures")
    folder = make_trial_folder(tmp_path / "small" / "trial-0")
    html = write_trial_report(folder).read_text()
    assert links_of(html) == ["../../index.html", "../report.html", "../figures.html"]
    assert "Study small" in html


def test_a_trials_page_gets_links_to_pages_that_appear_later(tmp_path: Path) -> None:
    folder = make_trial_folder(tmp_path / "small" / "trial-0")
    page = write_trial_report(folder)
    before = page.read_text()
    assert links_of(before) == []
    os.utime(page, (1.0, 1.0))
    page_of_kind(tmp_path / "small" / "report.html", "study")
    renew_navigation([page])
    assert links_of(page.read_text()) == ["../report.html"]
    assert page.stat().st_mtime == 1.0
    (tmp_path / "small" / "report.html").unlink()
    renew_navigation([page])
    assert page.read_text() == before


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>a page of somebody else's",
        b"",
        b"\xff\xfe\x00",
        b'<meta name="hidfd" content="[">',
        b'<meta name="hidfd" content="[]">',
        b'<meta name="hidfd" content="{&#34;page&#34;: 3, &#34;name&#34;: []}">',
        b'<meta name="hidfd" content="' + b"[" * 60_000 + b'">',
    ],
)
def test_a_file_of_somebody_else_is_neither_linked_nor_changed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "index.html").write_bytes(content)
    (tmp_path / "small" / "report.html").write_bytes(content)
    page = write_trial_report(make_trial_folder(tmp_path / "small" / "trial-0"))
    renew_navigation([page, tmp_path / "index.html", tmp_path / "small" / "report.html"])
    assert about(tmp_path / "index.html") is None
    assert links_of(page.read_text()) == []
    assert (tmp_path / "small" / "report.html").read_bytes() == content


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.html")
    assert about(tmp_path / "report.html") is None
    renew_navigation([tmp_path / "report.html"])


def test_links_that_cannot_be_written_are_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> Path:
        raise OSError(28, "No space left on device", str(path))

    page = write_trial_report(make_trial_folder(tmp_path / "small" / "trial-0"))
    before = page.read_bytes()
    page_of_kind(tmp_path / "small" / "report.html", "study")
    monkeypatch.setattr(links, "write_page", fail)
    with pytest.raises(StoreError, match="writing links into .*report.html: the disk is full"):
        renew_navigation([page])
    assert page.read_bytes() == before


def test_pages_of_before_are_known_and_get_links(tmp_path: Path) -> None:
    page_of_kind(tmp_path / "index.html", "index")
    (tmp_path / "old").mkdir()
    page = tmp_path / "old" / "report.html"
    page.write_text("<title>a &amp; b · HiDFD study</title>\n</head>\n<body>\n<h1>a")
    assert about(page) == {"page": "study", "name": "a & b"}
    renew_navigation([page])
    assert links_of(page.read_text()) == ["../index.html"]
    assert page.read_text().endswith("<h1>a")

"""Rows of images have the names of their classes beside them, and never those of others."""

import re
from pathlib import Path

import pytest
from PIL import Image

from hidfd.report.class_rows import generated_classes, picture_of_classes
from hidfd.report.page import write_trial_report
from tests.hidfd.trial_folders import NAMES, make_trial_folder


def picture(folder: Path, rows: int, columns: int, side: int = 8) -> Path:
    path = folder / "rows.png"
    Image.new("L", (columns * side, rows * side)).save(path)
    return path


def names_in(html: str) -> list[str]:
    return re.findall(r"<li title=\"([^\"]*)\">\1</li>", html)


def test_collected_and_synthetic_images_have_the_names_of_their_classes(tmp_path: Path) -> None:
    html = write_trial_report(make_trial_folder(tmp_path / "trial")).read_text()
    assert names_in(html)[:20] == [*NAMES, *NAMES]


def test_classes_without_names_have_their_numbers(tmp_path: Path) -> None:
    assert names_in(picture_of_classes(picture(tmp_path, 3, 10), ["0", "1", "2"])) == ["0", "1", "2"]


def test_a_generators_rows_are_the_classes_that_it_makes(tmp_path: Path) -> None:
    metas = {"generation": {"present_classes": [1, 4, 9]}}
    html = picture_of_classes(picture(tmp_path, 3, 8), NAMES, generated_classes(metas))
    assert names_in(html) == ["trouser", "coat", "boot"]


def test_of_many_classes_the_first_have_rows(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(200)]
    assert names_in(picture_of_classes(picture(tmp_path, 20, 10), names)) == names[:20]


@pytest.mark.parametrize(("rows", "classes"), [(7, None), (10, []), (10, [3, 4]), (10, [-1, 700])])
def test_rows_of_unknown_classes_have_no_names(tmp_path: Path, rows: int, classes: list[int] | None) -> None:
    assert names_in(picture_of_classes(picture(tmp_path, rows, 8), NAMES, classes)) == []


def test_a_file_that_is_no_picture_has_no_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.png"
    path.write_bytes(b"\x89PNG")
    assert names_in(picture_of_classes(path, NAMES)) == []


def test_names_are_escaped(tmp_path: Path) -> None:
    html = picture_of_classes(picture(tmp_path, 2, 10), ["<b>", '"x"'])
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert 'title="&#34;x&#34;"' in html

"""The README says what is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_folder_has_its_own_sentence() -> None:
    section = README.partition("## Where things are")[2].partition("## Licence")[0]
    for folder in sorted(
        path.parent for package in ("hidfd", "tune", "k8s") for path in (ROOT / package).glob("*/__init__.py")
    ):
        sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert sentence, folder
        assert re.search(rf"^      {folder.name}/ +{re.escape(sentence)}$", section, re.MULTILINE), folder


def test_files_that_it_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

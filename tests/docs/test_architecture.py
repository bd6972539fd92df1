"""docs/architecture.md describes the folders that are there, in the order in which they import each other."""

import ast
import re
import tomllib

from tests.docs.pages import ARCHITECTURE, ROOT, section

PACKAGES = ("hidfd", "tune", "k8s")
NUM_TO_READ_FIRST = 6


def rows() -> list[tuple[str, str]]:
    """Return (folder, sentence) of each row of its table of folders."""
    return re.findall(r"^\| `([\w/]+)` \| (.+?) \|$", section(ARCHITECTURE, "Folders"), re.MULTILINE)


def test_each_folder_is_listed_with_its_sentence_and_no_other() -> None:
    initials = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    sentences = {
        str(path.parent.relative_to(ROOT)): ast.get_docstring(ast.parse(path.read_text())) for path in initials
    }
    assert dict(rows()) == sentences
    assert len(rows()) == len(sentences)


def test_folders_are_listed_in_the_order_of_their_imports() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {c["containers"][0]: c["layers"] for c in contracts if c["type"] == "layers" and "containers" in c}
    for package in PACKAGES:
        level = {name.strip(): n for n, layer in enumerate(layers[package]) for name in re.split("[|:]", layer)}
        listed = [level[folder.split("/")[1]] for folder, _ in rows() if folder.startswith(f"{package}/")]
        assert listed == sorted(listed), package


def test_six_files_to_read_first_exist() -> None:
    listed = re.findall(r"^\d\. \[([\w/.]+)\]", section(ARCHITECTURE, "Six files to read first"), re.MULTILINE)
    assert len(listed) == NUM_TO_READ_FIRST
    assert [name for name in listed if not (ROOT / name).is_file()] == []

"""Whatever README and docs/ name is there: links, pictures, files, commands, verbs, make targets, definitions."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, text_of

OF_PAGES = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

PICTURE_BYTES = 400_000
"""Most that one picture of a page may have."""


@OF_PAGES
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pictures_are_shown_and_small() -> None:
    pictures = set((ROOT / "docs" / "pictures").iterdir())
    links = [(page, link) for page in PAGES for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text_of(page))]
    assert {(page.parent / link).resolve() for page, link in links} == pictures
    assert [path.name for path in pictures if path.stat().st_size > PICTURE_BYTES] == []


@OF_PAGES
def test_files_that_it_names_exist(page: Path) -> None:
    """Paths from the repository's root; test files may be named from tests/, as in a table of them."""
    named = re.findall(r"(?<![\w./:-])((?:[\w-]+/)+[\w-]+\.(?:py|md|yaml|json|parquet|tpl))\b", text_of(page))
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()} | {path.name for path in (ROOT / "tests").iterdir()}
    missing = [
        name
        for name in named
        if name.split("/")[0] in ours
        and not any((base / name).exists() for base in (ROOT, ROOT / "tests", page.parent))
    ]
    assert missing == []


@OF_PAGES
def test_definitions_that_it_names_exist(page: Path) -> None:
    """`NAME` in `FILE`, as in docs/architecture.md, and `folder.module.NAME` below hidfd, as in docs/method.md."""
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text_of(page))
    for dotted in re.findall(r"`((?:[a-z_]+\.){2,}\w+(?:\.\w+)?)`", text_of(page)):
        folder, module, *names = dotted.split(".")
        if (ROOT / "hidfd" / folder / f"{module}.py").exists():
            named += [(name, f"hidfd/{folder}/{module}.py") for name in names]
    assert [f"{name} in {file}" for name, file in named if name not in definitions(file)] == []


@OF_PAGES
def test_verbs_that_it_names_are_known(page: Path) -> None:
    named = set(re.findall(r"python -m (hidfd|tune|k8s) ([a-z0-9]+)", text_of(page)))
    assert [f"{program} {verb}" for program, verb in sorted(named) if verb not in verbs(program)] == []


@OF_PAGES
def test_make_targets_that_it_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`make ([a-z][\w-]*)|^    make ([a-z][\w-]*)", text_of(page), re.MULTILINE)  # as code
    assert {a or b for a, b in named} <= targets


@cache
def definitions(file: str) -> set[str]:
    """Return the names of a module: of classes, functions, methods and constants."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def verbs(program: str) -> set[str]:
    """Return the verbs that a program's --help lists."""
    words = [sys.executable, "-m", program, "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(re.findall(r"^    ([a-z0-9]+)\b", shown.partition("VERB\n")[2].partition("\noptions:")[0], re.MULTILINE))

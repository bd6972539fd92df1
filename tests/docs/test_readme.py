"""The README says what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_tree_has_a_line_for_every_module_and_no_other() -> None:
    listed = set()
    for line in README.partition("## The tree")[2].splitlines():
        if folder := re.match(r"    (\w+)/ ", line):
            package = folder[1]
        elif module := re.match(r"      (\w+\.py) +\S", line):
            listed.add(f"{package}/{module[1]}")
    there = {
        f"{package}/{path.name}"
        for package in ("hidfd", "tune", "k8s", "benchmarks", "studies")
        for path in (ROOT / package).glob("*.py")
        if path.name != "__init__.py"
    }
    assert listed == there


def test_files_that_it_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

"""The tests with marker `gpu`, by pytest alone: no plugin is needed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options
from hidfd.errors import HidfdError

TESTS = Path(__file__).parents[2] / "tests"
SHOWN_LINES = 12
"""Number of lines of a failed test's output that are kept."""


def run(options: Options, record: Record) -> None:
    """Run them and write a row per test.

    Raises:
        HidfdError: a test failed, or none was run.
    """
    section = record.section(
        "GPU tests", "`pytest -m gpu`: losses beside the CPU's, resuming, autocast, the finite flag, waiting, memory."
    )
    files = sorted(str(path) for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-o", "addopts=--import-mode=importlib"]
        command += [
            "-p",
            "no:cacheprovider",
            "-o",
            "filterwarnings=default",
            f"--junitxml={results}",
            "--tb=short",
            *files,
        ]
        code = subprocess.run(command, check=False, cwd=TESTS.parent).returncode
        cases = list(ET.parse(results).getroot().iter("testcase"))
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    for case in cases:
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        test, _, parameters = f"{case.get('name')}".removeprefix("test_").partition("[")
        test = test.replace("_", " ")
        outcomes[test][_outcome(outcome)] += 1
        seconds[test] += float(case.get("time", 0))
        if outcome is not None and outcome.tag != "skipped":
            lines = (outcome.text or outcome.get("message") or "").strip().splitlines()[-SHOWN_LINES:]
            section.note(f"{test} [{parameters}:\n\n      " + "\n      ".join(lines) + "\n")
    for test, counts in outcomes.items():
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        section.row({"test": test, "outcome": said, "seconds": seconds[test]})
    if code != 0 or not cases:
        raise HidfdError(f"pytest ended with exit code {code} after {len(cases)} tests")


def _outcome(element: ET.Element | None) -> str:
    if element is None:
        return "passed"
    return f"skipped: {element.get('message')}" if element.tag == "skipped" else "FAILED"

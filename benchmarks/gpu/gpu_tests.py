"""The tests with marker `gpu`, by pytest alone: no plugin is needed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.gpu.record import Record
from hidfd.errors import HidfdError

TESTS = Path(__file__).parents[2] / "tests"

SHOWN_LINES = 40
"""Number of lines of pytest's report that are kept if a test failed: the last ones."""

_LINE = re.compile(r"\S+::(?:test_)?(?P<test>\w+)\S*(?: .*?)?(?P<outcome>PASSED|FAILED|ERROR|SKIPPED)")


def run(record: Record, seconds_left: float) -> None:
    """Run them, and write how many cases of each test have passed whenever one has ended.

    Args:
        seconds_left: after which they are ended.

    Raises:
        HidfdError: a test failed, or they were ended, or there are none.
    """
    section = record.section(
        "GPU tests",
        "`pytest -m gpu`: losses beside the CPU's, resuming, autocast, the finite flag, waiting, memory. Seconds are "
        "those of all cases of a test.",
    )
    files = sorted(str(path.relative_to(TESTS.parent)) for path in TESTS.rglob("test_*.py") if is_marked(path))
    command = [sys.executable, "-u", "-m", "pytest", "-v", "-m", "gpu", "-o", "addopts=--import-mode=importlib"]
    command += ["-p", "no:cacheprovider", "-o", "filterwarnings=default", "--tb=short", *files]
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    lines: list[str] = []
    before = time.monotonic()
    with subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        limit = threading.Timer(seconds_left, process.kill)
        limit.start()
        for line in process.stdout:
            lines.append(line.rstrip())
            match = _LINE.match(line)
            if match is not None:
                test = match["test"].replace("_", " ")
                outcomes[test][match["outcome"].lower()] += 1
                seconds[test] += time.monotonic() - before
                before = time.monotonic()
                section.replace(
                    [
                        {
                            "test": name,
                            "outcome": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
                            "seconds": seconds[name],
                        }
                        for name, counts in outcomes.items()
                    ]
                )
        limit.cancel()
    if process.returncode != 0:
        print("\n".join(lines))
        section.note("the end of pytest's report:\n\n      " + "\n      ".join(lines[-SHOWN_LINES:]) + "\n")
        raise HidfdError(f"pytest ended with exit code {process.returncode}")
    print(lines[-1])


def is_marked(path: Path) -> bool:
    """Return whether a file has tests with marker `gpu`."""
    return "mark.gpu" in path.read_text()

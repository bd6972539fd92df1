"""The tests with marker `gpu`, by pytest alone: no plugin is needed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Record
from hidfd.errors import HidfdError

TESTS = Path(__file__).parents[2] / "tests"

SHOWN_LINES = 40
"""Number of lines of pytest's report that are kept if a test failed: the last ones."""

END_SECONDS = 5.0
"""Time that pytest has for ending when it is told to."""

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
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(command, cwd=TESTS.parent, env=env, stdout=subprocess.PIPE, text=True)

    def rows() -> list[dict[str, Any]]:
        return [
            {
                "test": name,
                "outcome": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
                "seconds": seconds[name],
            }
            for name, counts in outcomes.items()
        ]

    def read() -> None:
        nonlocal before
        assert process.stdout is not None
        with process.stdout as report:
            for line in report:
                lines.append(line.rstrip())
                match = _LINE.match(line)
                if match is not None:
                    test = match["test"].replace("_", " ")
                    outcomes[test][match["outcome"].lower()] += 1
                    seconds[test] += time.monotonic() - before
                    section.replace(rows())
                before = time.monotonic()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    was_ended = _wait(process, seconds_left)
    reader.join(END_SECONDS)  # a process that a test has left may hold the pipe open
    if process.returncode != 0:
        print("\n".join(lines))
        section.note("the end of pytest's report:\n\n      " + "\n      ".join(lines[-SHOWN_LINES:]) + "\n")
        how = f"was ended after {seconds_left:.0f} s" if was_ended else f"ended with exit code {process.returncode}"
        raise HidfdError(f"pytest {how}")
    print(lines[-1])


def _wait(process: subprocess.Popen[str], seconds: float) -> bool:
    """Wait for pytest to end; return whether it had to be ended after some seconds, with its tests' processes."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return True
    return False


def is_marked(path: Path) -> bool:
    """Return whether a file has tests with marker `gpu`."""
    return "mark.gpu" in path.read_text()

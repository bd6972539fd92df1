"""The packages that a program loads, asked in a Python of its own."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(program: str, *packages: str) -> set[str]:
    """Names of those packages that a Python of its own has loaded at the end of a program."""
    program += f"\nimport sys; print(*[name for name in {packages} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.split())

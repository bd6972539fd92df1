"""The commit of a folder that lies in a git repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

LONGEST_SECONDS = 10.0
"""Time that git may take, on a slow network disk for example."""


def commit_of(folder: Path) -> str | None:
    """Return the commit that is checked out where a folder lies; None outside of a repository, or where git fails."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=LONGEST_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None

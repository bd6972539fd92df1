"""The commands that pages and terminals give the user to type."""

from __future__ import annotations

import shlex

from hidfd.addresses import SQLITE, path_at, sqlite_address
from hidfd.formatting import relative_paths
from tune.study.snapshot import StudySnapshot


def mlflow_command(snapshot: StudySnapshot) -> str | None:
    """Return the command that shows a study in MLflow; None where a server shows it."""
    return None if is_server(snapshot.tracking) else verb_command("open", snapshot)


def is_server(tracking: str) -> bool:
    """Return whether a tracking URI is that of a server, which has pages of its own."""
    return tracking.startswith(("http://", "https://", "databricks"))


def tracking_address(tracking: str) -> str:
    """Return a tracking URI as MLflow reads it, relative to the working directory where it lies below it."""
    relative = relative_paths(tracking)
    return sqlite_address(path_at(relative)) if relative.startswith(SQLITE) else relative


def verb_command(verb: str, snapshot: StudySnapshot, *more: str) -> str:
    """Return the command of another verb on the study, with the arguments of its own command that other verbs take.

    Args:
        verb: such as `show`.
        snapshot: of the study.
        more: further arguments, which follow the study file.
    """
    words = iter(shlex.split(snapshot.command)[4:])
    kept = []
    for word in words:
        if word in ("--engine", "--device"):
            next(words)
        else:
            kept.append(word)
    file, *rest = kept or [snapshot.file]
    return relative_paths(shlex.join(["python", "-m", "tune", verb, file, *more, *rest]))

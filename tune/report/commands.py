"""Commands that pages and terminals tell the user to type."""

from __future__ import annotations

import shlex

from hidfd.formatting import relative_paths
from tune.study.snapshot import StudySnapshot


def mlflow_command(tracking: str) -> str | None:
    """What opens MLflow's pages on a study; None where a server shows them."""
    if not tracking or tracking.startswith(("http://", "https://", "databricks")):
        return None
    return shlex.join(["python", "-m", "mlflow", "ui", "--backend-store-uri", relative_paths(tracking)])


def verb_command(verb: str, snapshot: StudySnapshot, *more: str) -> str:
    """Another verb on the study, with what its command was given; what only `run` takes is left out."""
    words = iter(shlex.split(snapshot.command)[4:])
    taken = []
    for word in words:
        if word in ("--engine", "--device"):
            next(words)
        else:
            taken.append(word)
    file, *rest = taken or [snapshot.file]
    return relative_paths(shlex.join(["python", "-m", "tune", verb, file, *more, *rest]))

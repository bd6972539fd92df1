"""The sections of a study file that describe a study, read and checked together. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from hidfd.config import study_file as studyfile
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.sources import materials
from hidfd.errors import ConfigError
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import define

T = TypeVar("T")

UNSEEN = "0" * 64
"""The sha256 that a check takes for material that is on another machine."""


def check_study(path: str, overrides: Sequence[str] = ()) -> None:
    """Check all of a study file that is meant for another machine, without its storage and its material.

    Args:
        path: of the study file.
        overrides: `key=value`, as of the command line.

    Raises:
        ConfigError: with every problem at once.
    """
    file = studyfile.load(path, overrides, environment=None)
    study, search, trial = read_sections(file)
    unseen = {f"{where}.sha256": UNSEEN for where, found in materials(trial).items() if found.sha256 is None}
    define(file.name, study, search, with_values(trial, unseen), Path(), resources=task_resources(file))


def read_sections(file: studyfile.StudyFile) -> tuple[StudyConfig, SearchConfig, TrialConfig]:
    """Read `study:`, `search:` and `trial:`.

    Raises:
        ConfigError: with the problems of all three at once.
    """
    problems: list[str] = []

    def read(section: Callable[[], T]) -> T | None:
        try:
            return section()
        except ConfigError as error:
            problems.append(str(error))
            return None

    study = read(lambda: file.section("study", StudyConfig))
    search = read(lambda: file.section("search", SearchConfig))
    trial = read(file.trial)
    if study is None or search is None or trial is None:
        raise ConfigError("\n".join(problems))
    return study, search, trial


def task_resources(file: studyfile.StudyFile) -> dict[str, float]:
    """Return the processors, GPUs and workers that every attempt of a task is charged for."""
    asked = file.resources
    return {
        "cpus": float(asked.cpus_per_worker),
        "gpus": asked.gpus_per_worker,
        "workers": float(asked.num_workers),
    }

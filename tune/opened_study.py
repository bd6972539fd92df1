"""A study file with its store and ledger, as every verb opens it."""

from __future__ import annotations

import getpass
import logging
import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidfd.config import study_file as studyfile
from hidfd.config.storage import redacted
from hidfd.data.identify import identify
from hidfd.errors import ConfigError, InputError
from hidfd.store.store import Store
from tune.engines.ray_job import check_storage_lasts
from tune.errors import LedgerError
from tune.ledger.opening import copy_ledger, holder_of, ledger_id_of, run_arguments_of, send_request
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.check import read_sections, task_resources
from tune.study.definition import Definition, define
from tune.study.snapshot import StudySnapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """A study file with its store and its checked sections.

    Attributes:
        file: the study file.
        store: of artifacts.
        definition: the file's sections, checked against each other, with the sha256 of every material.
        overrides, num_seeds, store_given: arguments with which the file was opened.
    """

    file: studyfile.StudyFile
    store: Store
    definition: Definition
    overrides: tuple[str, ...] = ()
    num_seeds: int | None = None
    store_given: str | None = None

    def holder(self) -> str | None:
        """Return which process drives the study now, in words; None if none does."""
        return holder_of(self.file.storage.ledger, self.definition.name)

    def state(self) -> StudyState:
        """Return the study's state over a copy of its ledger, which may be read while a driver writes the ledger."""
        is_driven = self.holder() is not None
        config = self.definition.study
        ledger = copy_ledger(
            self.file.storage.ledger, self.definition.name, config.objective, config.further_objectives
        )
        return StudyState(self.definition, ledger, is_driven=is_driven)

    def snapshot(self) -> StudySnapshot:
        """Return the study's snapshot from a copy of its ledger."""
        return snapshot_of(self.state())

    def last_arguments(self) -> dict[str, Any] | None:
        """Return the arguments of the study's last run, as the ledger has them; None where none are known."""
        return run_arguments_of(self.file.storage.ledger, self.definition.name)

    def ledger_id(self) -> str | None:
        """Return the id of the study's ledger; None if there is none, or an older version made it."""
        return ledger_id_of(self.file.storage.ledger, self.definition.name)

    def ask_to_stop(self, holder: str, *, now: bool) -> None:
        """Ask a driver, on whatever machine, to stop.

        Args:
            holder: the driver, as `holder` names it.
            now: whether it stops at once, instead of saving checkpoints first.
        """
        by = f"{getpass.getuser()}@{socket.gethostname()}"
        send_request(self.file.storage.ledger, self.definition.name, {"to": holder, "by": by, "now": now})


def open_study(
    path: str,
    overrides: Sequence[str] = (),
    *,
    store: str | None = None,
    num_seeds: int | None = None,
    writes: bool = False,
) -> Study:
    """Read a study file and check all of it, without Ray and without torch.

    Args:
        path, overrides, store: see `hidfd.config.study_file.load`.
        num_seeds: number of fresh seeds of the comparison at the end, instead of those in the file.
        writes: whether the study is to be run, so that its store is made if there is none.

    Raises:
        ConfigError, InputError, StoreError: see `hidfd.errors`.
    """
    file = studyfile.load(path, overrides, store=store)
    check_storage_lasts(file.storage)
    config, search, trial = read_sections(file)
    if num_seeds is not None:
        config = config.with_num_seeds(num_seeds)
    artifacts = Store.open(file.storage.store, writes=writes)
    words = ["python", "-m", "tune", "run", path, *overrides]
    words += [] if num_seeds is None else ["--seeds", str(num_seeds)]
    words += [] if store is None else ["--store", redacted(store)]
    definition = define(
        file.name,
        config,
        search,
        identify(trial, artifacts),
        Path(file.storage.results) / file.name,
        file=path,
        command=shlex.join(words),
        tracking=redacted(file.storage.tracking),
        resources=task_resources(file),
    )
    return Study(file, artifacts, definition, tuple(overrides), num_seeds, store)


def open_last_run(
    path: str,
    overrides: Sequence[str] = (),
    *,
    store: str | None = None,
    num_seeds: int | None = None,
) -> Study:
    """Read a study file as `open_study` does, but with the arguments of the study's last run where none are given.

    Overrides of `name` and `storage` say where that run is recorded, so they may be given beside its arguments.

    Args:
        path, overrides, store, num_seeds: see `open_study`.

    Raises:
        ConfigError, InputError, StoreError, LedgerError: see `hidfd.errors` and `tune.errors`.
    """
    if num_seeds is None and all(map(_locates_study, overrides)):
        file = studyfile.load(path, overrides, store=store)
        try:
            arguments = run_arguments_of(file.storage.ledger, file.name)
        except LedgerError:
            open_study(path, overrides, store=store)  # what is wrong with the file is said first
            raise
        if arguments is not None:
            recorded = [*arguments["overrides"], *overrides]
            # The file may have changed since, or the overrides name files of another machine.
            with suppress(ConfigError, InputError):
                store_then = arguments.get("store")
                return open_study(path, recorded, store=store or store_then, num_seeds=arguments["seeds"])
            _log.warning("%s: the overrides of the last run do not fit any more, and are left out: %s", path, recorded)
    return open_study(path, overrides, store=store, num_seeds=num_seeds)


def _locates_study(override: str) -> bool:
    """Whether an override says where the study is recorded, and changes no setting of the study."""
    return override.partition("=")[0].partition(".")[0] in ("name", "storage")

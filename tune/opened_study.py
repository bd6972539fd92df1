"""A study file with its store and ledger, as every verb opens it."""

from __future__ import annotations

import getpass
import logging
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidfd.config import study_file as studyfile
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.config.storage import redacted
from hidfd.data.identify import identify
from hidfd.errors import ConfigError, InputError
from hidfd.pipeline.console import ConsoleObserver
from hidfd.pipeline.graph import use_versions
from hidfd.pipeline.known_networks import recall_networks
from hidfd.store.locks import wait_for
from hidfd.store.store import Store
from tune.engines.environment import before_torch
from tune.engines.ray_job import check_storage_lasts
from tune.errors import LedgerError
from tune.ledger.opening import (
    copy_ledger,
    database_at,
    holder_of,
    ledger_id_of,
    recorded_settings,
    run_arguments_of,
    send_request,
)
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.check import read_sections, task_resources
from tune.study.config import StudyConfig
from tune.study.definition import Definition, define, differences, restore_definition
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
        holder = self.holder()
        is_driven = holder is not None
        if holder is not None:
            self._wait_for_ledger(holder)
        config = self.definition.study
        ledger = copy_ledger(
            self.file.storage.ledger, self.definition.name, config.objective, config.further_objectives
        )
        return StudyState(self.definition, ledger, is_driven=is_driven)

    def _wait_for_ledger(self, holder: str) -> None:
        """Wait until a driver that has just begun has made its ledger.

        Raises:
            LedgerError: there is none, although a driver runs the study.
        """
        address = self.file.storage.ledger

        def is_there() -> bool:
            return database_at(address).has_ledger() or self.holder() is None

        if not wait_for(is_there, f"the ledger {redacted(address)}", lambda: holder):
            raise LedgerError(
                f"{redacted(address)}: the ledger is not there, although {holder} runs the study: it was "
                f"deleted or moved. Put it back; else that process ends at its next write, and finished artifacts are "
                f"in the store"
            )

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
    """Read a study file and check all of it, without Ray; plan with the stages of this code.

    Torch is loaded only where a study that is to be run has networks from elsewhere of which the store knows nothing.

    Args:
        path, overrides, store: see `hidfd.config.study_file.load`.
        num_seeds: number of fresh seeds of the comparison at the end, instead of those in the file.
        writes: whether the study is to be run, so that its store is made if there is none.

    Raises:
        ConfigError, InputError, StoreError: see `hidfd.errors`.
    """
    use_versions(None)
    file = studyfile.load(path, overrides, store=store)
    check_storage_lasts(file.storage)
    config, search, trial = read_sections(file)
    if num_seeds is not None:
        config = config.with_num_seeds(num_seeds)
    artifacts = Store.open(file.storage.store, writes=writes)
    trial = identify(trial, artifacts, ConsoleObserver())
    _know_networks([trial], artifacts, builds=writes)
    with suppress(LedgerError):  # whoever needs the ledger says so
        known, _ = recorded_settings(file.storage.ledger, file.name)
        config, trial = _as_begun(config, trial, known)
    definition = define(
        file.name,
        config,
        search,
        trial,
        Path(file.storage.results) / file.name,
        file=path,
        command=_command(path, overrides, num_seeds, store),
        tracking=redacted(file.storage.tracking),
        resources=task_resources(file),
    )
    _know_networks(definition.trials_of_networks, artifacts, builds=writes)
    return Study(file, artifacts, definition, tuple(overrides), num_seeds, store)


def _know_networks(trials: Iterable[TrialConfig], store: Store, *, builds: bool) -> None:
    """Learn what the store knows of networks from elsewhere.

    Args:
        builds: whether those that it knows nothing of are built, to find their sizes.
    """
    for trial in trials:
        if recall_networks(trial, store) and builds:
            before_torch(1)
            from hidfd.trial import know_networks

            know_networks(trial, store, ConsoleObserver())


def open_last_run(
    path: str,
    overrides: Sequence[str] = (),
    *,
    store: str | None = None,
    num_seeds: int | None = None,
) -> Study:
    """Read a study file as `open_study` does, but with the arguments of the study's last run where none are given.

    Overrides of `name` and `storage` say where that run is recorded, so they may be given beside its arguments. Where
    the study in the ledger is another one than that of the file now, or the file's images are not here, the study is
    opened as the ledger has it, and a line says so.

    Args:
        path, overrides, store, num_seeds: see `open_study`.

    Raises:
        ConfigError, InputError, StoreError, LedgerError: see `hidfd.errors` and `tune.errors`.
    """
    file = studyfile.load(path, overrides, store=store)
    is_given = num_seeds is not None or not all(map(_locates_study, overrides))
    try:
        arguments = None if is_given else run_arguments_of(file.storage.ledger, file.name)
        identity, settings = recorded_settings(file.storage.ledger, file.name)
    except LedgerError:
        open_study(path, overrides, store=store, num_seeds=num_seeds)  # what is wrong with the file is said first
        raise
    last = _Arguments(tuple(overrides), store, num_seeds)
    if arguments is not None:
        last = _Arguments((*arguments["overrides"], *overrides), store or arguments.get("store"), arguments["seeds"])
    try:
        study = _open_with(path, last, otherwise=_Arguments(tuple(overrides), store, num_seeds))
    except (ConfigError, InputError) as error:
        if identity is None or (is_given and isinstance(error, ConfigError)):
            raise
        problem, _, _ = str(error).partition("\n")
        why = f"cannot be used as it is now ({problem})"
    else:
        changes = [] if identity is None else list(differences(identity, study.definition.identity()))
        if not changes:
            if study.overrides != last.overrides:
                left_out = list(last.overrides)
                _log.warning(
                    "%s: the overrides of the last run do not fit any more, and are left out: %s", path, left_out
                )
            return study
        why = f"differs now ({changes[0]}{f', and {len(changes) - 1} more' if len(changes) > 1 else ''})"
        if all(change.startswith("stage_versions.") for change in changes):
            why = f"is run otherwise by this version of the program {why.removeprefix('differs now ')}"
    assert identity is not None
    _log.warning("%s: the study file %s; shown is the study as its ledger has it, which `run` would refuse", path, why)
    return _open_recorded(path, last, identity, settings)


@dataclass(frozen=True)
class _Arguments:
    """The arguments of a command line with which a study file is opened; see `open_study`."""

    overrides: tuple[str, ...]
    store: str | None
    num_seeds: int | None

    def open(self, path: str) -> Study:
        return open_study(path, self.overrides, store=self.store, num_seeds=self.num_seeds)


def _open_with(path: str, last: _Arguments, *, otherwise: _Arguments) -> Study:
    """Open a study with the arguments of its last run; where they do not fit, with those of this command alone.

    The file may have changed since that run, or its overrides may name files of another machine.
    """
    if last != otherwise:
        with suppress(ConfigError, InputError):
            return last.open(path)
    return otherwise.open(path)


def _open_recorded(path: str, last: _Arguments, identity: dict[str, Any], settings: Mapping[str, Any] | None) -> Study:
    """Open a study with the settings in its ledger, of which the file only says where it is.

    From here on, plans are made with the stages' versions of that study.
    """
    file = studyfile.load(path, [override for override in last.overrides if _locates_study(override)], store=last.store)
    study_of_file: StudyConfig | None = None
    with suppress(ConfigError):
        study_of_file = file.section("study", StudyConfig)
    use_versions(identity["stage_versions"])
    definition = restore_definition(
        file.name,
        identity,
        settings,
        Path(file.storage.results) / file.name,
        study_of_file=study_of_file,
        resources=task_resources(file),
        file=path,
        command=_command(path, last.overrides, last.num_seeds, last.store),
        tracking=redacted(file.storage.tracking),
    )
    store = Store.open(file.storage.store)
    _know_networks(definition.trials_of_networks, store, builds=False)
    return Study(file, store, definition, last.overrides, last.num_seeds, last.store)


def _command(path: str, overrides: Sequence[str], num_seeds: int | None, store: str | None) -> str:
    words = ["python", "-m", "tune", "run", path, *overrides]
    words += [] if num_seeds is None else ["--seeds", str(num_seeds)]
    words += [] if store is None else ["--store", redacted(store)]
    return shlex.join(words)


def _as_begun(
    config: StudyConfig, trial: TrialConfig, known: Mapping[str, Any] | None
) -> tuple[StudyConfig, TrialConfig]:
    """Return the sections of a study with the defaults of the version that began it.

    A sampler that the file does not name is the one before. Validation images are among the candidates if they were:
    students would else be measured on two hold-outs, and what is half built would be built anew.

    Args:
        config, trial: the sections `study:` and `trial:`.
        known: the study's identity in its ledger; None where it is new.
    """
    if known is None:
        return config, trial
    if "sampler" not in config.model_fields_set:
        config = config.model_copy(update={"sampler": known["study"]["sampler"]})
    if trial.data.validation is not None and not known["trial"]["collection"].get("leaves_out_validation"):
        trial = with_values(trial, {"collection.leaves_out_validation": False})
    return config, trial


def _locates_study(override: str) -> bool:
    """Whether an override says where the study is recorded, and changes no setting of the study."""
    return override.partition("=")[0].partition(".")[0] in ("name", "storage")

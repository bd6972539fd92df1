"""The ledger: all that a study remembers, in Optuna's storage, with one writer. Torch-free.

A ledger is two Optuna studies in one SQLite file or PostgreSQL database (see `tune.ledger.opening`):
    <name>        one trial per search trial; attributes `group`, `work` (keys of its tasks), `rungs`, `outcome`
    <name>/work   one trial without parameters per task; attributes `work`, `attempt/<n>`; the study has `epoch`, `id`

The driver is the only writer: it holds a lock, and raises `epoch` when it claims the ledger, which every write checks.
A fact is written as an attribute first and told to Optuna last, so a kill between two writes loses nothing.

Others may put trials into these studies (`enqueue_trial`, Optuna Dashboard): they are left alone. So numbers here count
the ledger's own trials, and may be lower than Optuna's.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hidfd.formatting import plural
from tune.errors import LedgerError, StudyLocked
from tune.ledger.mirrored_storage import MirroredStorage
from tune.ledger.rows import id_of, mapping_of, reading_row, search_trial_of, task_of
from tune.study.metrics import optuna_direction
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import Task

SCHEMA = 1
"""Version of the attributes' meaning, to be raised when that changes; a ledger with a higher one is refused."""

REQUEST = "request/"
"""Prefix of study attributes that another process than the driver writes, each under a name of its own."""

RUN_ARGUMENTS = "run_arguments"
"""Name of the study attribute with the arguments of the last run."""

IDENTITY = "identity"
"""Name of the study attribute with the settings to which the search trials belong."""

IDENTITY_KEYS = ("study", "search", "trial", "stage_versions")
"""Keys of these settings."""

SETTINGS = "settings"
"""Name of the study attribute with all settings of the last run."""

_log = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna announces every study that it opens


class Ledger:
    """The ledger of one study."""

    def __init__(self, storage: BaseStorage, name: str, objective: str, further: Iterable[str] = ()) -> None:
        """Open the ledger, and make it if it is not there; before it is written, it must be claimed.

        Args:
            storage: Optuna's storage.
            name: of the study.
            objective: metric of a student that Optuna is told.
            further: more objectives that Optuna is told.

        Raises:
            LedgerError: a later version wrote this ledger.
        """
        self._storage = storage
        self._objective = objective
        self._directions = [optuna_direction(metric) for metric in (objective, *further)]
        self._search_study = optuna.create_study(
            storage=storage, study_name=name, directions=self._directions, load_if_exists=True
        )
        self._tasks_study = optuna.create_study(
            storage=storage, study_name=f"{name}/work", direction="maximize", load_if_exists=True
        )
        with reading_row("attribute 'schema'"):
            schema = int(self._tasks_study.user_attrs.get("schema", SCHEMA))
        if schema > SCHEMA:
            raise LedgerError(
                f"the ledger of study {name!r} has schema {schema}, this version knows {SCHEMA}; "
                f"use the version that made it, or give the study another name"
            )
        self._epoch: int | None = None
        # Random, so that no two ledgers take each other's artifacts and runs for their own.
        self.known_id = id_of(self._tasks_study.user_attrs)
        self.id: str = self.known_id or secrets.token_hex(8)
        self._own = {study._study_id: own_trials(study) for study in (self._search_study, self._tasks_study)}
        self.mention_others()

    @property
    def num_claims(self) -> int:
        """The number of times that the ledger was claimed, by whatever driver."""
        with reading_row("attribute 'epoch'"):
            return int(self._tasks_study.user_attrs.get("epoch", 0))

    def mention_others(self) -> None:
        """Log a line for each of the two Optuna studies to which others have added trials, once for their number."""
        for study in (self._search_study, self._tasks_study):
            study_id, own = study._study_id, len(self._own[study._study_id])
            if isinstance(self._storage, MirroredStorage):
                num_others = self._storage.count_in_database(study_id) - own
            else:
                num_others = self._storage.get_n_trials(study_id) - own
            if num_others > _mentioned.get(study.study_name, 0):
                _mentioned[study.study_name] = num_others
                trials = plural(num_others, "trial that was", "trials that were")
                _log.warning(
                    "the ledger's Optuna study %r holds %s added from outside (enqueue_trial, Optuna Dashboard); left "
                    "alone: values to be tried belong into study.points",
                    study.study_name,
                    trials,
                )

    def claim(self, above: int = 0) -> None:
        """Become the writer of the ledger: a driver that claimed it before can write no more.

        Args:
            above: number of claims of a newer copy of the ledger that this one takes over from, so that it is the newer
                one from here on.
        """
        epoch = max(self.num_claims, above) + 1
        self._tasks_study.set_user_attr("schema", SCHEMA)
        self._tasks_study.set_user_attr("id", self.id)
        self._tasks_study.set_user_attr("epoch", epoch)
        self._epoch = epoch
        if isinstance(self._storage, MirroredStorage):
            self._storage.fence(self._tasks_study._study_id, "epoch", epoch)

    @property
    def epoch(self) -> int | None:
        """The number of the driver that has claimed the ledger by this object: 1, 2, ...; None before."""
        return self._epoch

    @property
    def has_other_objectives(self) -> bool:
        """Whether the ledger was made for other objectives than it was opened for; Optuna cannot change them."""
        return [direction.name.lower() for direction in self._search_study.directions] != self._directions

    @property
    def identity(self) -> dict[str, Any] | None:
        """The settings to which the search trials belong, as `set_identity` wrote them; None in a new ledger."""
        return mapping_of(self._search_study.user_attrs, IDENTITY, IDENTITY_KEYS)

    def set_identity(self, identity: dict[str, Any]) -> None:
        """Write the settings to which the search trials belong."""
        self._write(lambda: self._search_study.set_user_attr(IDENTITY, identity))

    @property
    def run_arguments(self) -> dict[str, Any] | None:
        """The arguments of the last run, as `set_run_arguments` wrote them; None if an older version ran the study."""
        return mapping_of(self._search_study.user_attrs, RUN_ARGUMENTS, ())

    def set_run_arguments(self, arguments: dict[str, Any]) -> None:
        """Write the arguments of a run: `overrides` of the study file, and the number of `seeds` or None."""
        self._write(lambda: self._search_study.set_user_attr(RUN_ARGUMENTS, arguments))

    @property
    def settings(self) -> dict[str, Any] | None:
        """All settings of the last run, as `set_settings` wrote them; None if an older version ran the study."""
        return mapping_of(self._search_study.user_attrs, SETTINGS, ())

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Write all settings of a run, with which the study is read where its file has changed since."""
        self._write(lambda: self._search_study.set_user_attr(SETTINGS, settings))

    @property
    def search_closed(self) -> dict[str, Any] | None:
        """The record of why the search ended early, as `set_search_closed` wrote it; None if it did not."""
        return mapping_of(self._search_study.user_attrs, "closed", ("reason", "budget"))

    def set_search_closed(self, closed: dict[str, Any]) -> None:
        """Write why the search ended early, and under which budget."""
        self._write(lambda: self._search_study.set_user_attr("closed", closed))

    @property
    def test_evaluations(self) -> list[dict[str, Any]]:
        """The times at which the test labels were opened, as `set_test_evaluations` wrote them."""
        test_evaluations: list[dict[str, Any]] = self._search_study.user_attrs.get("openings", [])
        return test_evaluations

    def set_test_evaluations(self, test_evaluations: list[dict[str, Any]]) -> None:
        """Write when the test labels were opened, and for which students."""
        self._write(lambda: self._search_study.set_user_attr("openings", test_evaluations))

    def check_kept(self) -> None:
        """Check that the ledger is still there, before its study is called finished.

        Raises:
            LedgerError: it was deleted, moved or replaced.
            StudyLocked: another driver has claimed it since.
        """
        if (found := self.num_claims) != self._epoch:
            self._raise_taken_over(found)

    def requests(self) -> dict[str, dict[str, Any]]:
        """Return id -> request of other processes to the driver; see `tune.ledger.opening.send_request`."""
        self.mention_others()
        attributes = self._search_study.user_attrs
        return {
            name.removeprefix(REQUEST): asked
            for name, asked in attributes.items()
            if name.startswith(REQUEST) and isinstance(asked, dict) and asked.keys() >= {"to", "by", "now"}
        }

    def history(self) -> list[FrozenTrial]:
        """Return all search trials in the form that Optuna's samplers read."""
        return self._trials(self._search_study)

    def search_trials(self) -> list[SearchTrial]:
        """Return all search trials in order of their numbers.

        Raises:
            LedgerError: one of them is not what this version writes.
        """
        return [search_trial_of(number, trial) for number, trial in enumerate(self.history())]

    def tasks(self) -> list[Task]:
        """Return all tasks, in order of creation.

        Raises:
            LedgerError: one of them is not what this version writes.
        """
        found: list[Task] = []
        known: set[str] = set()
        for number, trial in enumerate(self._trials(self._tasks_study)):
            task = task_of(number, trial, known)
            known.add(task.key)
            found.append(task)
        return found

    def add_search_trial(self, search_trial: SearchTrial, distributions: Mapping[str, BaseDistribution]) -> None:
        """Write a new search trial, whole or not at all.

        Args:
            search_trial: its number is that of the search trials in the ledger.
            distributions: of its parameters.
        """
        attributes: dict[str, Any] = {"group": search_trial.group, "why": search_trial.why, "point": search_trial.point}
        if search_trial.retries is not None:
            attributes["retries"] = search_trial.retries
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(search_trial.params),
            distributions=dict(distributions),
            user_attrs=attributes,
        )
        self._add(self._search_study, trial)

    def set_task_keys(self, search_trial: SearchTrial) -> None:
        """Write the keys of a search trial's tasks, which must be in the ledger already."""
        self._set(self._search_study, search_trial.number, "work", list(search_trial.task_keys))

    def set_rungs(self, search_trial: SearchTrial) -> None:
        """Write the decisions at a search trial's rungs, before they are acted on."""
        rungs = {str(images): decision.to_json() for images, decision in search_trial.rungs.items()}
        self._set(self._search_study, search_trial.number, "rungs", rungs)

    def finish_search_trial(self, search_trial: SearchTrial) -> None:
        """Write the outcome of a search trial, and tell Optuna; a second call changes nothing.

        Optuna learns COMPLETE with the values, infeasible by how much the constraints are missed; PRUNED with the value
        at the last rung; PRUNED without a value and infeasible for collapse, divergence and values that cannot be
        built, so that the sampler keeps away from them; FAIL for what the parameters are not to blame for.
        """
        outcome: dict[str, Any] = {
            "state": search_trial.state,
            "reason": search_trial.reason,
            "value": search_trial.value,
            "further": search_trial.further,
            "violation": search_trial.violation,
        }
        self._set(self._search_study, search_trial.number, "outcome", outcome)
        trial = optuna.Trial(self._search_study, self._trial_id(self._search_study, search_trial.number))
        to_blame = (TaskState.COLLAPSED, TaskState.DIVERGED, TaskState.INFEASIBLE)
        violation = 1.0 if search_trial.state in to_blame else search_trial.violation
        if not self._frozen(self._search_study, search_trial.number).constraints:
            self._write(lambda: trial.set_constraint("feasible", violation))
        state = _optuna_state(search_trial.state)
        # Rungs measure agreement. If the objective is another metric, or there are several, Optuna is told no values of
        # rungs: TPE would take them for the objective, or could not rank them.
        if search_trial.state is TaskState.PRUNED and len(self._directions) == 1 and self._objective == "agreement":
            reported = self._frozen(self._search_study, search_trial.number).intermediate_values
            for images, decision in search_trial.rungs.items():
                if images not in reported:
                    self._write(partial(trial.report, decision.value, images))
        values = None
        if state is TrialState.COMPLETE:
            assert search_trial.value is not None
            values = [search_trial.value, *search_trial.further.values()]
        self._tell(self._search_study, search_trial.number, state, values)

    def add_task(self, task: Task) -> None:
        """Write a new task, whole or not at all."""
        record = task.record()
        self._add(self._tasks_study, create_trial(state=TrialState.RUNNING, user_attrs={"work": record}))

    def set_attempt(self, task: Task, number: int) -> None:
        """Write an attempt at a task.

        Args:
            task: whose attempt it is.
            number: index in `task.attempts`.
        """
        self._set(self._tasks_study, task.number, f"attempt/{number}", task.attempts[number].to_json())

    def finish_task(self, task: Task) -> None:
        """Write the outcome of a task, and tell Optuna; a second call changes nothing."""
        outcome = task.outcome
        assert outcome is not None, task.label
        self._set(self._tasks_study, task.number, "work", task.record())
        state = _optuna_state(outcome.state)
        value = outcome.metrics.get(self._objective, 0.0) if state is TrialState.COMPLETE else None
        self._tell(self._tasks_study, task.number, state, value)

    def repair(self) -> None:
        """Tell Optuna the outcomes that it has not been told, because a driver was killed after it had written them."""
        for search_trial, trial in zip(self.search_trials(), self.history(), strict=True):
            if search_trial.state.is_final and not trial.state.is_finished():
                self.finish_search_trial(search_trial)
        for task, trial in zip(self.tasks(), self._trials(self._tasks_study), strict=True):
            if task.outcome is not None and not trial.state.is_finished():
                self.finish_task(task)

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """Return the ledger's own trials of one of its studies, in order."""
        own = set(self._own[study._study_id])
        return [trial for trial in study.get_trials(deepcopy=False) if trial._trial_id in own]

    def _add(self, study: optuna.Study, trial: FrozenTrial) -> None:
        added: list[int] = []
        self._write(lambda: added.append(self._storage.create_new_trial(study._study_id, trial)))
        self._own[study._study_id] += added

    def _tell(self, study: optuna.Study, number: int, state: TrialState, values: Any) -> None:
        number_there = self._frozen(study, number).number
        self._write(lambda: study.tell(number_there, values, state, skip_if_finished=True))

    def _set(self, study: optuna.Study, number: int, name: str, value: Any) -> None:
        trial = self._frozen(study, number)
        if trial.user_attrs.get(name) == value or trial.state.is_finished():
            return  # Optuna does not change a finished trial
        trial_id = self._trial_id(study, number)
        self._write(lambda: self._storage.set_trial_user_attr(trial_id, name, value))

    def _frozen(self, study: optuna.Study, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._trial_id(study, number))

    def _trial_id(self, study: optuna.Study, number: int) -> int:
        return self._own[study._study_id][number]

    def _write(self, action: Callable[[], object]) -> None:
        """Make a write; every write goes through here.

        Raises:
            StudyLocked: another driver has claimed the ledger since.
        """
        assert self._epoch is not None, "not opened for writing"
        if not isinstance(
            self._storage, MirroredStorage
        ):  # which checks the epoch itself, in the transaction of the write
            found = self._tasks_study.user_attrs.get("epoch")
            if found != self._epoch:
                self._raise_taken_over(found)
        action()

    def _raise_taken_over(self, epoch: object) -> NoReturn:
        raise StudyLocked(
            f"another driver has taken this study over (epoch {epoch}, ours was {self._epoch}); this one stops here"
        )


_mentioned: dict[str, int] = {}
"""Name of an Optuna study -> trials added from outside of which this process has told the user."""


def own_trials(study: optuna.Study) -> list[int]:
    """Return the ids of the trials of one of a ledger's two studies that a ledger has made, in order."""
    return [trial._trial_id for trial in study.get_trials(deepcopy=False) if is_own(trial)]


def is_own(trial: FrozenTrial) -> bool:
    """Whether a ledger has made a trial of its studies, rather than somebody else by Optuna."""
    attributes = trial.user_attrs
    return "fixed_params" not in trial.system_attrs and (
        isinstance(attributes.get("group"), int) or isinstance(attributes.get("work"), dict)
    )


def _optuna_state(state: TaskState) -> TrialState:
    """Return the state that Optuna is told for a final state."""
    states = {TaskState.COMPLETE: TrialState.COMPLETE, TaskState.FAILED: TrialState.FAIL}
    return states.get(state, TrialState.PRUNED)

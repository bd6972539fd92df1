"""The ledger: all that a study remembers, in Optuna's storage, with one writer. Torch-free.

Two Optuna studies in one SQLite file or PostgreSQL database (see `tune.ledger.opening`):
    <name>        one trial per suggestion; attributes `group`, `work` (keys of its pieces), `rungs`, `outcome`
    <name>/work   one parameterless trial per task; attributes `work`, `attempt/<n>`; study attribute `epoch`

The driver is the only writer: it holds a lock and raises `epoch` when it takes it, which every write checks. What is
known is written as attributes first, and told to Optuna last: a kill between two writes loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from tune.errors import LedgerError, StudyLocked
from tune.ledger.mirrored_storage import MirroredStorage
from tune.study.asha import Decision
from tune.study.metrics import optuna_direction
from tune.study.search_trial import SearchTrial
from tune.study.states import TaskState
from tune.study.task import Attempt, Task

SCHEMA = 1
"""Raise when attributes change their meaning; a ledger with a higher number is refused."""

REQUEST = "request/"
"""Prefix of a study attribute that somebody else than the driver writes; each has a name of its own."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study that it opens


class Ledger:
    """Reads and writes one study. Attributes go first, `tell` goes last, and every step may be the last one."""

    def __init__(self, storage: BaseStorage, name: str, objective: str, further: Iterable[str] = ()) -> None:
        """Opens the study, made if it is not there.

        Args:
            storage: Optuna's.
            name: of the study.
            objective: metric of a student that Optuna is told.
            further: objectives that it is told beside it.
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
        schema = self._tasks_study.user_attrs.get("schema", SCHEMA)
        if schema > SCHEMA:
            raise LedgerError(
                f"the ledger of study {name!r} has schema {schema}, this version knows {SCHEMA}; "
                f"use the version that made it, or give the study another name"
            )
        self._epoch: int | None = None

    def claim(self) -> None:
        """Becomes its writer: whoever held it before cannot write any more."""
        epoch = int(self._tasks_study.user_attrs.get("epoch", 0)) + 1
        self._tasks_study.set_user_attr("schema", SCHEMA)
        self._tasks_study.set_user_attr("epoch", epoch)
        self._epoch = epoch
        if isinstance(self._storage, MirroredStorage):
            self._storage.fence(self._tasks_study._study_id, "epoch", epoch)

    @property
    def has_other_objectives(self) -> bool:
        """Whether it was made for others than it was opened for; Optuna never changes those of a study."""
        return [direction.name.lower() for direction in self._search_study.directions] != self._directions

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the study's suggestions belong to, as `set_identity` wrote it."""
        identity: dict[str, Any] | None = self._search_study.user_attrs.get("identity")
        return identity

    def set_identity(self, identity: dict[str, Any]) -> None:
        """Remembers what the suggestions belong to."""
        self._write(lambda: self._search_study.set_user_attr("identity", identity))

    @property
    def search_closed(self) -> dict[str, Any] | None:
        """Why the search ended early, as `set_search_closed` wrote it; None if it did not."""
        closed: dict[str, Any] | None = self._search_study.user_attrs.get("closed")
        return closed

    def set_search_closed(self, closed: dict[str, Any]) -> None:
        """Remembers why the search ended early, and under which budget."""
        self._write(lambda: self._search_study.set_user_attr("closed", closed))

    @property
    def test_evaluations(self) -> list[dict[str, Any]]:
        """Each time that the test labels were opened, as `set_test_evaluations` wrote it."""
        test_evaluations: list[dict[str, Any]] = self._search_study.user_attrs.get("openings", [])
        return test_evaluations

    def set_test_evaluations(self, test_evaluations: list[dict[str, Any]]) -> None:
        """Remembers when the test labels were opened, and for whom."""
        self._write(lambda: self._search_study.set_user_attr("openings", test_evaluations))

    def requests(self) -> dict[str, dict[str, Any]]:
        """What others have asked of the driver: id -> what; see `tune.ledger.opening.send_request`."""
        attributes = self._search_study.user_attrs
        return {name.removeprefix(REQUEST): asked for name, asked in attributes.items() if name.startswith(REQUEST)}

    def history(self) -> list[FrozenTrial]:
        """Every suggestion as Optuna's samplers read it."""
        return self._search_study.get_trials(deepcopy=False)

    def search_trials(self) -> list[SearchTrial]:
        """Every suggestion, in order."""
        found = []
        for trial in self.history():
            attributes = trial.user_attrs
            outcome = attributes.get("outcome", {})
            found.append(
                SearchTrial(
                    number=trial.number,
                    params=dict(trial.params),
                    group=attributes["group"],
                    why=attributes.get("why", ""),
                    point=attributes.get("point"),
                    retries=attributes.get("retries"),
                    task_keys=tuple(attributes.get("work", ())),
                    rungs={int(k): Decision.from_json(v) for k, v in attributes.get("rungs", {}).items()},
                    state=TaskState(outcome.get("state", TaskState.WAITING)),
                    reason=outcome.get("reason"),
                    value=outcome.get("value"),
                    further=outcome.get("further", {}),
                    violation=outcome.get("violation", 0.0),
                )
            )
        return found

    def tasks(self) -> list[Task]:
        """Every task, in order of creation."""
        found = []
        for trial in self._tasks_study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            attempts: list[Attempt] = []
            while (record := attributes.get(f"attempt/{len(attempts)}")) is not None:
                attempts.append(Attempt(**record))
            try:
                found.append(Task.restore(trial.number, attributes["work"], attempts))
            except ValidationError as error:
                raise LedgerError(
                    f"the ledger's {attributes['work']['label']!r} has settings that this version does not know "
                    f"({error.errors()[0]['msg']}: {'.'.join(map(str, error.errors()[0]['loc']))}); "
                    f"use the version that made it, or give the study another `name:`: artifacts are found again"
                ) from error
        return found

    def add_search_trial(self, search_trial: SearchTrial, distributions: Mapping[str, BaseDistribution]) -> None:
        """Writes a new suggestion, whole or not at all.

        Args:
            suggestion: whose number is how many there are.
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
        self._write(lambda: self._search_study.add_trial(trial))

    def set_task_keys(self, search_trial: SearchTrial) -> None:
        """Writes the keys of its pieces, which must be in the ledger already."""
        self._set(self._search_study, search_trial.number, "work", list(search_trial.task_keys))

    def set_rungs(self, search_trial: SearchTrial) -> None:
        """Writes its decisions, before they are acted on."""
        rungs = {str(images): decision.to_json() for images, decision in search_trial.rungs.items()}
        self._set(self._search_study, search_trial.number, "rungs", rungs)

    def finish_search_trial(self, search_trial: SearchTrial) -> None:
        """Tells Optuna the truth about a suggestion that has ended. Asked twice it does nothing new.

        COMPLETE with its values, infeasible by how much it misses the constraints; PRUNED with its last rung's value;
        collapse and divergence are PRUNED without a value and infeasible, so that the sampler keeps away from them;
        FAIL for what the parameters are not to blame for.
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
        violation = 1.0 if search_trial.state in (TaskState.COLLAPSED, TaskState.DIVERGED) else search_trial.violation
        if not self._frozen(self._search_study, search_trial.number).constraints:
            self._write(lambda: trial.set_constraint("feasible", violation))
        state = {
            TaskState.COMPLETE: TrialState.COMPLETE,
            TaskState.FAILED: TrialState.FAIL,
        }.get(search_trial.state, TrialState.PRUNED)
        # Rungs show agreement. Where Optuna is told something else, or several things, it knows no values on the way:
        # TPE would take them for the objective, or could not place them.
        if search_trial.state is TaskState.PRUNED and len(self._directions) == 1 and self._objective == "agreement":
            reported = self._frozen(self._search_study, search_trial.number).intermediate_values
            for images, decision in search_trial.rungs.items():
                if images not in reported:
                    self._write(partial(trial.report, decision.value, images))
        values = None
        if state is TrialState.COMPLETE:
            assert search_trial.value is not None
            values = [search_trial.value, *search_trial.further.values()]
        self._write(lambda: self._search_study.tell(search_trial.number, values, state, skip_if_finished=True))

    def add_task(self, task: Task) -> None:
        """Writes a new task, whole or not at all."""
        record = task.record()
        self._write(
            lambda: self._tasks_study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"work": record}))
        )

    def set_attempt(self, task: Task, number: int) -> None:
        """Writes one of its attempts."""
        self._set(self._tasks_study, task.number, f"attempt/{number}", task.attempts[number].to_json())

    def finish_task(self, task: Task) -> None:
        """Writes its outcome, then tells Optuna. Asked twice it does nothing new."""
        outcome = task.outcome
        assert outcome is not None, task.label
        self._set(self._tasks_study, task.number, "work", task.record())
        state = {
            TaskState.COMPLETE: TrialState.COMPLETE,
            TaskState.FAILED: TrialState.FAIL,
        }.get(outcome.state, TrialState.PRUNED)
        value = outcome.metrics.get(self._objective, 0.0) if state is TrialState.COMPLETE else None
        self._write(lambda: self._tasks_study.tell(task.number, value, state, skip_if_finished=True))

    def repair(self) -> None:
        """Tells Optuna what stands in the attributes already: the last step of a driver that was killed before it."""
        for search_trial, trial in zip(self.search_trials(), self.history(), strict=True):
            if search_trial.state.is_final and not trial.state.is_finished():
                self.finish_search_trial(search_trial)
        trials = self._tasks_study.get_trials(deepcopy=False)
        unfinished = {trial.number for trial in trials if not trial.state.is_finished()}
        for task in self.tasks():
            if task.outcome is not None and task.number in unfinished:
                self.finish_task(task)

    def _set(self, study: optuna.Study, number: int, name: str, value: Any) -> None:
        trial = self._frozen(study, number)
        if trial.user_attrs.get(name) == value or trial.state.is_finished():
            return  # Optuna keeps a finished trial as it is; what it was told is the truth
        trial_id = self._trial_id(study, number)
        self._write(lambda: self._storage.set_trial_user_attr(trial_id, name, value))

    def _frozen(self, study: optuna.Study, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._trial_id(study, number))

    def _trial_id(self, study: optuna.Study, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)

    def _write(self, action: Callable[[], object]) -> None:
        """The one door of every write."""
        assert self._epoch is not None, "not opened for writing"
        if not isinstance(self._storage, MirroredStorage):  # which looks itself, in the write's own transaction
            found = self._tasks_study.user_attrs.get("epoch")
            if found != self._epoch:
                raise StudyLocked(
                    f"another driver has taken this study over (epoch {found}, ours was {self._epoch}); this one "
                    f"stops here"
                )
        action()

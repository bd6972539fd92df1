"""A study's experiment in MLflow: its client, the study's runs in it, and the ledger that it belongs to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.errors import OtherLedger
from tune.tracking.connection import (
    DELETED,
    KEY_TAG,
    LEDGER_TAG,
    WHERE_TAG,
    WRITTEN_TAG,
    all_runs,
    connect,
    experiment_of,
    is_new,
    one_run_for_each_key,
)
from tune.tracking.run_writer import RunWriter

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

STUDY_KEY = "study"
"""The key of the study's own run, among those of its tasks."""

RUNNING, INTERRUPTED = "RUNNING", "KILLED"
"""MLflow's own status of a task that runs, and of one that is to go on later."""


@dataclass
class KnownRun:
    """A run of the study, as far as it is known here.

    Attributes:
        run_id: MLflow's id of it.
        written: mark of the content that it has; empty where it has none yet.
        is_running: whether MLflow shows it as running.
    """

    run_id: str
    written: str = ""
    is_running: bool = True


class StudyExperiment:
    """The experiment of one study, and its runs by the key of their task.

    Args:
        uri: MLflow tracking URI.
        study_name: names the experiment.
        ledger: id of the study's ledger, which marks experiment and runs; None where an older version made the ledger.
        place: where the ledger lies, for people.
    """

    def __init__(self, uri: str, study_name: str, ledger: str | None = None, place: str = "") -> None:
        self.uri, self.study_name, self.ledger, self.place = uri, study_name, ledger, place
        self._client: MlflowClient | None = None
        self._writer: RunWriter | None = None
        self._experiment, self._is_marked = "", False
        self._unclaimed: dict[str, Run] = {}
        self._runs: dict[str, KnownRun] = {}

    @property
    def client(self) -> MlflowClient:
        """The MLflow client. It is made at first use, since making a new database takes seconds."""
        self._connect()
        assert self._client is not None
        return self._client

    @property
    def writer(self) -> RunWriter:
        """The writer of the study's runs."""
        self._connect()
        assert self._writer is not None
        return self._writer

    def run_id(self, key: str) -> str | None:
        """Return the id of a task's MLflow run, if it has one."""
        return self._runs[key].run_id if key in self._runs else None

    def _is_deleted(self) -> bool:
        """Return whether the experiment was deleted on MLflow's pages, and its runs with it."""
        experiment = connect(self.uri).get_experiment_by_name(self.study_name)
        return experiment is not None and experiment.lifecycle_stage == DELETED

    def owner(self) -> dict[str, str] | None:
        """Return the ledger that the study's experiment belongs to, and its place; None if it has none."""
        if is_new(self.uri):
            return None
        experiment = connect(self.uri).get_experiment_by_name(self.study_name)
        if experiment is None or LEDGER_TAG not in experiment.tags:
            return None
        return {"ledger": experiment.tags[LEDGER_TAG], "where": experiment.tags.get(WHERE_TAG, "not known")}

    def adopt(self) -> int:
        """Make the study's experiment and all of its runs this ledger's; return how many runs these are."""
        if is_new(self.uri):
            return 0
        client = connect(self.uri)
        experiment = client.get_experiment_by_name(self.study_name)
        if experiment is None:
            return 0
        runs = all_runs(client, experiment.experiment_id)
        assert self.ledger is not None
        for run in runs:
            client.set_tag(run.info.run_id, LEDGER_TAG, self.ledger)
        self._mark_experiment(client, experiment.experiment_id)
        return len(runs)

    def release(self) -> None:
        """Take the ledger's mark off the study's experiment, which keeps its deleted runs and registered models."""
        if self._client is None and self._is_deleted():
            return
        self._connect()
        if self._is_marked:
            for tag in (LEDGER_TAG, WHERE_TAG):
                self.client.delete_experiment_tag(self._experiment, tag)
            self._is_marked = False

    def delete_runs(self, keys: Collection[str], *, really: bool) -> int:
        """Mark the study's runs as deleted, which `mlflow gc` then removes; return how many there are.

        Args:
            keys: of the tasks in the ledger, by which runs of older versions are known.
            really: whether to delete them, or only to count them.

        Raises:
            OtherLedger: the experiment belongs to another ledger.
        """
        if self._client is None and self._is_deleted():
            return 0
        self._connect(keys)
        if really:
            for run in self._runs.values():
                self.client.delete_run(run.run_id)
        return len(self._runs)

    def _connect(self, keys: Collection[str] = ()) -> None:
        """Make the client and list the study's runs, unless that is done already.

        Raises:
            OtherLedger: the experiment belongs to another ledger.
        """
        if self._client is not None:
            return
        client = connect(self.uri)
        experiment = experiment_of(client, self.uri, self.study_name)
        of = experiment.tags.get(LEDGER_TAG)
        if of is not None and of != self.ledger:
            raise OtherLedger(
                f"MLflow's experiment {self.study_name!r} belongs to another ledger: "
                f"{experiment.tags.get(WHERE_TAG, 'not known')} ({of}); its runs are left alone"
            )
        self._experiment, self._is_marked = experiment.experiment_id, of is not None

        def is_own(run: Run) -> bool:
            marked, key = run.data.tags.get(LEDGER_TAG), run.data.tags.get(KEY_TAG)
            if marked is not None or self.ledger is None:
                return marked == self.ledger
            return key in keys or (key == STUDY_KEY and of is None)

        found = all_runs(client, self._experiment)
        self._unclaimed = {
            run.data.tags[KEY_TAG]: run
            for run in found
            if self.ledger is not None and LEDGER_TAG not in run.data.tags and KEY_TAG in run.data.tags
        }
        own = one_run_for_each_key(client, filter(is_own, found))
        self._runs = {key: _known(run) for key, run in own.items()}
        self._writer = RunWriter(client, [*own.values(), *self._unclaimed.values()])
        self._client = client  # last: without the known runs every one would be made a second time

    def _claim(self, keys: Collection[str]) -> None:
        """Take over runs of an older version whose tasks the ledger has shown only now, and mark the experiment."""
        self._connect(keys)
        for key in set(keys) - self._runs.keys():
            if key in self._unclaimed:
                self._runs[key] = _known(self._unclaimed[key])
        if self.ledger is not None and not self._is_marked:
            self._mark_experiment(self.client, self._experiment)
            self._is_marked = True

    def _disconnect(self) -> None:
        """Drop the client and all that is known of the runs; the next use lists them anew."""
        self._client = self._writer = None
        self._runs.clear()

    def _mark_experiment(self, client: MlflowClient, experiment: str) -> None:
        assert self.ledger is not None
        client.set_experiment_tag(experiment, LEDGER_TAG, self.ledger)
        client.set_experiment_tag(experiment, WHERE_TAG, self.place)


def _known(run: Run) -> KnownRun:
    return KnownRun(run.info.run_id, run.data.tags.get(WRITTEN_TAG, ""), run.info.status == RUNNING)

"""Snapshots of a study written to MLflow; writing one twice changes nothing.

A study has a parent run, and each of its tasks a run below it. Runs are found again by the key of their task, so a
resumed study goes on in the same ones. Metrics come from the trial folders, in batches. Tags make runs easy to filter:
`tags."hidfd.state" = 'complete' and tags.kind = 'student'`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidfd.pipeline.graph import digest_of
from tune.errors import OtherLedger
from tune.planner.comparison import TABLE_METRICS
from tune.report.champion import Champion, best_student, config_of
from tune.report.objectives import constraints_in_words, further_columns, trade_offs_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.connection import (
    DELETED,
    KEY_TAG,
    LEDGER_TAG,
    NOTE_TAG,
    WHERE_TAG,
    WRITTEN_TAG,
    all_runs,
    connect,
    experiment_of,
    is_new,
    runs_of,
)
from tune.tracking.descriptions import study_note, task_note
from tune.tracking.model_registry import MODEL_TAG, Registration, log_student, register
from tune.tracking.run_content import Series, curves_of, feasible_tag, final_metrics, tags_of_run

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.tracking import MlflowClient

    from hidfd.store.store import Store

STATE_TAG, STUDY_TAG = "hidfd.state", "hidfd.study"
BEST_TAG, FRONT_TAG, WORTH_TAG = "hidfd.best", "hidfd.front", "hidfd.worth"
NAME_TAG, PARENT_TAG = "mlflow.runName", "mlflow.parentRunId"

STUDY_KEY = "study"
"""The key of the study's own run, among those of its tasks."""

BATCH_METRICS = 900
"""Metrics to write in one call, of which MLflow takes at most 1,000."""

STATUSES = {
    TaskState.COMPLETE: "FINISHED",
    TaskState.COLLAPSED: "FINISHED",
    TaskState.PRUNED: "KILLED",
    TaskState.DIVERGED: "FAILED",
    TaskState.INFEASIBLE: "FAILED",
    TaskState.FAILED: "FAILED",
}
"""MLflow's own status of a task that has ended; the tag `hidfd.state` has more states."""


class Tracker:
    """One study in MLflow, brought up to date snapshot by snapshot.

    Args:
        uri: MLflow tracking URI.
        study_name: names the experiment.
        ledger: id of the study's ledger, which marks experiment and runs; None where an older version made the ledger.
        place: where the ledger lies, for people.
    """

    def __init__(self, uri: str, study_name: str, ledger: str | None = None, place: str = "") -> None:
        self.uri, self.study_name, self.ledger, self.place = uri, study_name, ledger, place
        self._client: MlflowClient | None = None
        self._experiment, self._is_marked = "", False
        self._unclaimed: dict[str, Run] = {}
        self._runs: dict[str, str] = {}
        self._written: dict[str, str] = {}

    @property
    def client(self) -> MlflowClient:
        """The MLflow client. It is made at first use, since making a new database takes seconds."""
        self._connect()
        assert self._client is not None
        return self._client

    def sync(self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool] = lambda: False) -> None:
        """Bring MLflow up to date with a snapshot. Tasks whose final state is already written are not touched again.

        Args:
            snapshot: of the study.
            is_cut_short: asked before each task; if it returns True, the rest is left to the next call.
        """
        try:
            self._sync(snapshot, is_cut_short)
        except Exception:
            # The server may have done it although its answer was lost: the next call lists the runs anew.
            self._client = None
            self._runs.clear()
            self._written.clear()
            raise

    def log_model(self, snapshot: StudySnapshot, store: Store) -> None:
        """Log the best student of a finished study to its own run, once, as a network that loads without this project.

        Args:
            snapshot: of the finished study, as written by `sync`; one that is not finished logs nothing.
            store: holds the student and its teacher.

        Raises:
            StoreError: the store does not hold them.
        """
        self._connect()
        best = best_student(snapshot)
        if best is not None and best.key in self._runs and snapshot.finished:
            self._model_of(best, snapshot, store)

    def register(
        self, champion: Champion, snapshot: StudySnapshot, store: Store, name: str, alias: str
    ) -> Registration:
        """Register the champion under a name and an alias; its model is logged first if there is none that loads.

        Args:
            champion, snapshot: of the study, as written by `sync`.
            store: holds the student and its teacher; not opened if a model that loads was logged before.
            name, alias: `models:/<name>@<alias>` loads the champion from now on.

        Raises:
            StoreError: the store does not hold them.
            UnloadableStudent: what was logged just now does not load either.
        """

        def log(*, anew: bool) -> LoggedModel:
            return self._model_of(champion.student, snapshot, store, anew=anew)

        return register(self.client, log, champion, snapshot, name, alias)

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
                self.client.delete_run(run)
        return len(self._runs)

    def run_id(self, key: str) -> str | None:
        """Return the id of a task's MLflow run, if it has one."""
        return self._runs.get(key)

    def _model_of(
        self, student: TaskSnapshot, snapshot: StudySnapshot, store: Store, *, anew: bool = False
    ) -> LoggedModel:
        """Return a student's model, logged if it was not yet, or anew; the study's run names it as well."""
        self._connect()
        run, config = self._runs[student.key], config_of(student, snapshot)
        model = log_student(self.client, run, student, config, store, anew=anew)
        self.client.set_tag(self._runs[STUDY_KEY], MODEL_TAG, f"models:/{model.model_id}")
        return model

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

        self._unclaimed = {
            run.data.tags[KEY_TAG]: run
            for run in all_runs(client, self._experiment)
            if self.ledger is not None and LEDGER_TAG not in run.data.tags and KEY_TAG in run.data.tags
        }
        for key, run in runs_of(client, self._experiment, is_own).items():
            self._runs[key] = run.info.run_id
            self._written[key] = run.data.tags.get(WRITTEN_TAG, "")
        self._client = client  # last: without the known runs every one would be made a second time

    def _mark_experiment(self, client: MlflowClient, experiment: str) -> None:
        assert self.ledger is not None
        client.set_experiment_tag(experiment, LEDGER_TAG, self.ledger)
        client.set_experiment_tag(experiment, WHERE_TAG, self.place)

    def _sync(self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool]) -> None:
        self._connect({task.key for task in snapshot.tasks})
        for key in {task.key for task in snapshot.tasks} - self._runs.keys():
            run = self._unclaimed.get(key)
            if run is not None:  # of an older version, and of a task that the ledger has shown only now
                self._runs[key], self._written[key] = run.info.run_id, run.data.tags.get(WRITTEN_TAG, "")
        if self.ledger is not None and not self._is_marked:
            self._mark_experiment(self.client, self._experiment)
            self._is_marked = True
        tags = {NAME_TAG: snapshot.name, STUDY_TAG: snapshot.name, "kind": "study"}
        parent = self._run(STUDY_KEY, tags, _first_start(snapshot.tasks))
        for task in snapshot.tasks:
            if is_cut_short():
                return
            has_run = task.state is not TaskState.WAITING and task.kind is not TaskKind.TEST_EVALUATION
            if has_run and self._written.get(task.key) != _mark_of(task):
                self._write_task(task, parent, snapshot)
        best = best_student(snapshot)
        state = "finished" if snapshot.finished else "running"
        worth = snapshot.worth
        answers = [worth.answer] if worth is not None else []  # what marks a study without it stays as it was
        mark = digest_of([state, best.key if best else None, snapshot.verdict, *snapshot.front, *answers])[:12]
        if self._written.get(STUDY_KEY) != mark:
            self._write_study(snapshot, parent)
            tags_now = {
                STATE_TAG: state,
                "command": snapshot.command,
                "objective": snapshot.objective,
                "further_objectives": trade_offs_in_words(snapshot),
                "constraints": constraints_in_words(snapshot),
                BEST_TAG: best.label if best else None,
                WORTH_TAG: worth.answer if worth is not None else None,
                FRONT_TAG: ", ".join(f"trial-{number}" for number in snapshot.front),
                NOTE_TAG: study_note(snapshot),
            }
            self._mark(STUDY_KEY, mark, tags_now)

    def _write_task(self, task: TaskSnapshot, parent: str, snapshot: StudySnapshot) -> None:
        tags = {PARENT_TAG: parent, STUDY_TAG: snapshot.name, NAME_TAG: task.label}
        run = self._run(task.key, tags | tags_of_run(task, snapshot), _first_start([task]))
        self._log_params(run, task.params)
        if task.state.is_final:
            folder = Path(task.folder)
            curves = curves_of(folder / "metrics.jsonl", task.kind)
            rungs = {"distillation/agreement": [(rung.images, rung.value) for rung in task.rungs]}
            self._log_metrics(run, final_metrics(task) | (curves or rungs))
            self._log_folder(run, folder)
            self.client.set_terminated(run, STATUSES[task.state], _last_end([task]))
        tags_now = {
            STATE_TAG: task.state,
            "reason": task.reason,
            "feasible": feasible_tag(task, snapshot),
            NOTE_TAG: task_note(task, snapshot),
        }
        self._mark(task.key, _mark_of(task), tags_now)

    def _write_study(self, snapshot: StudySnapshot, run: str) -> None:
        # The step is the number of seeds or students behind a value, so that the last point is the one over the most.
        numbers = {
            f"{row.name}/{metric}": [(row.num_complete, row.means[metric])]
            for row in snapshot.comparison_rows
            for metric in (*TABLE_METRICS, *further_columns(snapshot))
            if metric in row.means
        }
        if snapshot.worth is not None:
            numbers |= {
                f"{budget.name}/{snapshot.worth.metric}": [(budget.num_complete, budget.mean)]
                for budget in snapshot.worth.budgets
                if budget.mean is not None
            }
        if snapshot.rank_agreement is not None:
            numbers["kendall_tau"] = [(snapshot.rank_agreement_count, snapshot.rank_agreement)]
        self._log_metrics(run, numbers)
        if not snapshot.finished:
            self.client.update_run(run, status="RUNNING")
            return
        folder = Path(snapshot.folder)
        for page in (folder / "report.html", folder / "figures.html"):
            if page.is_file():
                self.client.log_artifact(run, str(page))
        for picture in sorted((folder / "figures").glob("*.png")):
            self.client.log_artifact(run, str(picture), "figures")
        self.client.set_terminated(run, end_time=_last_end(snapshot.tasks))

    def _log_params(self, run: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        if params:
            self.client.log_batch(run, params=[Param(path, str(value)) for path, value in params.items()])

    def _log_folder(self, run: str, folder: Path) -> None:
        for name in ("report.html", "config.yaml", "result.json"):
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        for picture in sorted((folder / "samples").glob("*.png"))[-1:] + sorted((folder / "pictures").glob("*.png")):
            self.client.log_artifact(run, str(picture), "pictures")

    def _log_metrics(self, run: str, metrics: Series) -> None:
        from mlflow.entities import Metric

        moment = 0  # the same always, so that a point that is written twice stays one point
        points: list[Metric] = [
            Metric(name, value, moment, step) for name, series in metrics.items() for step, value in series
        ]
        for start in range(0, len(points), BATCH_METRICS):
            self.client.log_batch(run, metrics=points[start : start + BATCH_METRICS])

    def _run(self, key: str, tags: dict[str, str], started: float | None) -> str:
        client = self.client
        if key not in self._runs:
            start = None if started is None else round(1000 * started)
            marks = {KEY_TAG: key} | ({LEDGER_TAG: self.ledger} if self.ledger is not None else {})
            created = client.create_run(self._experiment, start, tags={**tags, **marks})
            self._runs[key] = created.info.run_id
        return self._runs[key]

    def _mark(self, key: str, mark: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of a run, and with them the mark that its content is written."""
        from mlflow.entities import RunTag

        marks = {WRITTEN_TAG: mark, LEDGER_TAG: self.ledger}
        content = [RunTag(name, value) for name, value in {**tags, **marks}.items() if value]
        self.client.log_batch(self._runs[key], tags=content)
        self._written[key] = mark


def _mark_of(task: TaskSnapshot) -> str:
    """Return a mark of the content to write; a student's changes once more when it was evaluated on the test labels."""
    return f"{task.state}, test" if "test_accuracy" in task.metrics else task.state


def _first_start(tasks: Iterable[TaskSnapshot]) -> float | None:
    return min((attempt.started for task in tasks for attempt in task.attempts), default=None)


def _last_end(tasks: Iterable[TaskSnapshot]) -> int | None:
    """Return the end of the last attempt in milliseconds; None, which MLflow takes for now, where none has ended."""
    return round(1000 * max((attempt.ended or 0.0 for task in tasks for attempt in task.attempts), default=0.0)) or None

"""MLflow as a projection of the study: what a snapshot says, MLflow shows; writing it again changes nothing.

One parent run per study and one child run per task, found again by the work's key, so that a resumed study
goes on in the same runs. Metrics come from the trial folders, in batches. Every child can be filtered by its tags:
`tags."hidfd.state" = 'complete' and tags.kind = 'student'`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from hidfd.config.study_file import redacted
from hidfd.pipeline.graph import digest_of
from tune.errors import TrackingError
from tune.planner.comparison import TABLE_METRICS
from tune.report.champion import Champion, best_student, config_of
from tune.report.objectives import constraints_in_words, further_columns, traded_off
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.descriptions import study_note, task_note
from tune.tracking.model_registry import MODEL_TAG, Registration, log_student, register
from tune.tracking.run_content import Series, curves_of, feasible_tag, final_metrics, tags_of_run

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.tracking import MlflowClient

    from hidfd.store.store import Store

KEY_TAG, STATE_TAG, STUDY_TAG = "hidfd.key", "hidfd.state", "hidfd.study"
BEST_TAG, FRONT_TAG = "hidfd.best", "hidfd.front"
WRITTEN_TAG = "hidfd.written"
"""What of the study stands in MLflow already."""

CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",  # which `--json` has to itself
    # MLflow would send everything again whose answer was lost, and a run that is asked for twice is made twice. What
    # fails here is tried again as a whole, with the next snapshot, after a look at what stands there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment of the MLflow client, where the user has not set it."""

PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""Has MLflow's pages open with runs and curves, not with those for language models."""

BATCH_METRICS = 900
"""MLflow takes at most 1,000 metrics in one call."""

DESCRIPTION = """A HiDFD study: students distilled from a teacher on collected and synthetic images.

The run named after the study holds its verdict, its report and the means of its comparisons; below it stands a run for
each generator and each student. Tags to filter by: `hidfd.state` (complete, pruned, collapsed, diverged, failed),
`kind` (build, student), `role` (search, finalist, control, variant), `generator`, `group`, `seed`, and `feasible`
(true, false) where the study has constraints. The tag `hidfd.best` of the study's run names the best student, whose
run carries the model; `hidfd.front` names those of the Pareto front. Of the study's run see `report.html` first, then
`figures.html`: the search in figures that answer to the mouse. `python -m tune promote FILE` gives the best student a
name and the alias `champion`."""

STATUSES = {
    TaskState.COMPLETE: "FINISHED",
    TaskState.COLLAPSED: "FINISHED",
    TaskState.PRUNED: "KILLED",
    TaskState.DIVERGED: "FAILED",
    TaskState.FAILED: "FAILED",
}
"""MLflow's own status of what has ended; the tag `hidfd.state` says it in full."""


class Tracker:
    """Writes snapshots of one study.

    Args:
        uri: MLflow tracking URI; of SQLite the artifacts lie beside the database.
        study_name: names the experiment.
    """

    def __init__(self, uri: str, study_name: str) -> None:
        self.uri, self.study_name = uri, study_name
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._written: dict[str, str] = {}

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; made at first use, since the first one migrates a new database for seconds."""
        if self._client is None:
            for name, value in CLIENT_SETTINGS.items():
                os.environ.setdefault(name, value)
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            from mlflow.tracking import MlflowClient

            if self._database is not None:
                _make_whole(self._database)
            client = MlflowClient(self.uri)
            experiment = client.get_experiment_by_name(self.study_name)
            if experiment is None:
                tags = {NOTE_TAG: DESCRIPTION, KIND_TAG: KIND}
                self._experiment = client.create_experiment(self.study_name, self._artifact_location(), tags)
            else:
                self._experiment = experiment.experiment_id
            for run in self._each_once(client):
                key = run.data.tags[KEY_TAG]
                self._runs[key] = run.info.run_id
                self._written[key] = run.data.tags.get(WRITTEN_TAG, "")
            self._client = client  # last: before its runs are known, every one would be made a second time
        return self._client

    def sync(self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool] = lambda: False) -> None:
        """Bring MLflow up to a snapshot. Tasks that ended and were written are not touched again.

        `is_cut_short` is asked between two tasks; what is left then is written by the next call.
        """
        try:
            self._sync(snapshot, is_cut_short)
        except Exception:
            # The server may have done what its answer did not live to say: only a new look knows what stands there.
            self._client = None
            self._runs.clear()
            self._written.clear()
            raise

    def log_model(self, snapshot: StudySnapshot, store: Store) -> None:
        """Log the best student of a finished study to its own run, once, as a network that loads without this project.

        Args:
            snapshot: finished, and written by `sync`; before that there is nothing to log.
            store: that holds the student and its teacher.

        Raises:
            StoreError: the store does not hold them.
        """
        best, _ = best_student(snapshot), self.client  # which knows the runs
        if best is not None and best.key in self._runs and snapshot.finished:
            self._model_of(best, snapshot, store)

    def register(
        self, champion: Champion, snapshot: StudySnapshot, store: Store, name: str, alias: str
    ) -> Registration:
        """Register the champion under a name, with an alias; the model is logged first where it is not there yet.

        Args:
            champion, snapshot: of the study, written by `sync`.
            store: that holds the student and its teacher; not opened where the model was logged before.
            name, alias: under which `models:/<name>@<alias>` loads it from now on.

        Raises:
            StoreError: the store does not hold them.
        """
        model = self._model_of(champion.student, snapshot, store)
        return register(self.client, model, champion, snapshot, name, alias)

    def delete_runs(self, *, really: bool) -> int:
        """Put the study's runs into MLflow's bin, which `mlflow gc` empties; returns how many there were."""
        client = self.client
        for run in self._runs.values() if really else ():
            client.delete_run(run)
        return len(self._runs)

    def run_id(self, key: str) -> str | None:
        """The MLflow run of a task, if it has one."""
        return self._runs.get(key)

    def _model_of(self, student: TaskSnapshot, snapshot: StudySnapshot, store: Store) -> LoggedModel:
        """A student's model, which the study's run names as well."""
        client = self.client  # first: it knows the runs
        model = log_student(client, self._runs[student.key], student, config_of(student, snapshot), store)
        client.set_tag(self._runs["study"], MODEL_TAG, f"models:/{model.model_id}")
        return model

    def _sync(self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool]) -> None:
        tags = {"mlflow.runName": snapshot.name, STUDY_TAG: snapshot.name, "kind": "study"}
        parent = self._run("study", tags, _first_start(snapshot.tasks))
        for task in snapshot.tasks:
            if is_cut_short():
                return
            is_due = task.state is not TaskState.WAITING and task.kind is not TaskKind.TEST_EVALUATION
            if is_due and self._written.get(task.key) != _mark_of(task):
                self._write_task(task, parent, snapshot)
        best = best_student(snapshot)
        state = "finished" if snapshot.finished else "running"
        mark = digest_of([state, best.key if best else None, snapshot.verdict, *snapshot.front])[:12]
        if self._written.get("study") != mark:
            self._write_study(snapshot, parent)
            tags = {"command": snapshot.command, "objective": snapshot.objective, STATE_TAG: state}
            tags |= {"further_objectives": traded_off(snapshot), "constraints": constraints_in_words(snapshot)}
            tags[FRONT_TAG] = ", ".join(f"trial-{number}" for number in snapshot.front)
            note = {NOTE_TAG: study_note(snapshot)}
            self._mark("study", mark, {**tags, BEST_TAG: best.label if best else None, **note})

    def _write_task(self, task: TaskSnapshot, parent: str, snapshot: StudySnapshot) -> None:
        tags = {PARENT_TAG: parent, STUDY_TAG: snapshot.name, "mlflow.runName": task.label} | tags_of_run(
            task, snapshot
        )
        run = self._run(task.key, tags, _first_start([task]))
        self._log_params(run, task.params)
        if task.state.is_final:
            folder = Path(task.folder)
            curves = curves_of(folder / "metrics.jsonl", task.kind)
            rungs = {"distillation/agreement": [(rung.images, rung.value) for rung in task.rungs]}
            self._log_metrics(run, final_metrics(task) | (curves or rungs))
            self._log_folder(run, folder)
            self.client.set_terminated(run, STATUSES[task.state], _last_end([task]))
        note = task_note(task, snapshot)
        tags_at_end = {"reason": task.reason, "feasible": feasible_tag(task, snapshot), NOTE_TAG: note}
        self._mark(task.key, _mark_of(task), {STATE_TAG: task.state, **tags_at_end})

    def _write_study(self, snapshot: StudySnapshot, run: str) -> None:
        # As many seeds or students as a number rests on are its step, so that the newest is the one over most of them.
        numbers = {
            f"{row.name}/{metric}": [(row.num_complete, row.means[metric])]
            for row in snapshot.rows
            for metric in (*TABLE_METRICS, *further_columns(snapshot))
            if metric in row.means
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

        now = 0  # fixed: the same point written twice stays one point
        points: list[Metric] = [
            Metric(name, value, now, step) for name, series in metrics.items() for step, value in series
        ]
        for start in range(0, len(points), BATCH_METRICS):
            self.client.log_batch(run, metrics=points[start : start + BATCH_METRICS])

    def _run(self, key: str, tags: dict[str, str], started: float | None) -> str:
        client = self.client
        if key not in self._runs:
            start = None if started is None else round(1000 * started)
            created = client.create_run(self._experiment, start, tags={**tags, KEY_TAG: key})
            self._runs[key] = created.info.run_id
        return self._runs[key]

    def _each_once(self, client: MlflowClient) -> list[Run]:
        """The study's runs, by key. One that was made twice, for want of an answer, is deleted once."""
        found: dict[str, Run] = {}
        for run in sorted(_all_runs(client, self._experiment), key=_least_written_first):
            key = run.data.tags.get(KEY_TAG)
            if key in found:
                client.delete_run(found[key].info.run_id)
            if key:
                found[key] = run
        return list(found.values())

    @property
    def _database(self) -> Path | None:
        """MLflow's SQLite file; None where a server has its own."""
        path = self.uri.removeprefix("sqlite:///")
        return Path(path).absolute() if path != self.uri else None

    def _artifact_location(self) -> str | None:
        if self._database is None:
            return None  # the server's own
        return (self._database.parent / "mlartifacts" / self.study_name).as_uri()

    def _mark(self, key: str, mark: str, tags: Mapping[str, str | None]) -> None:
        """Sets tags, and last that all of it is written."""
        from mlflow.entities import RunTag

        content = [RunTag(name, value) for name, value in {**tags, WRITTEN_TAG: mark}.items() if value]
        self.client.log_batch(self._runs[key], tags=content)
        self._written[key] = mark


def _make_whole(database: Path) -> None:
    """Makes a new SQLite database of MLflow's elsewhere, and puts it into its place once it is whole.

    A driver that is killed while MLflow migrates one would leave half of it, and MLflow cannot go on from there.
    """
    if database.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".mlflow-") as folder:
        new = Path(folder) / database.name
        made = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            f"sqlite:///{new}", (database.parent / "mlartifacts").as_uri()
        )
        made.engine.dispose()
        with suppress(FileExistsError):  # another study was quicker
            os.link(new, database)


def _all_runs(client: MlflowClient, experiment: str) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _least_written_first(run: Run) -> tuple[bool, int, str]:
    return WRITTEN_TAG in run.data.tags, len(run.data.metrics), run.info.run_id


def reason_of(error: BaseException) -> str:
    """Why MLflow could not be written, in one line and without the password of its address."""
    words = redacted((str(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {words or 'no message'}"


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow and the network raise into one message with what to do; for what cannot go on without MLflow.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError) as error:
        raise TrackingError(
            f"{redacted(uri)}: MLflow cannot be reached, or refuses ({reason_of(error)}); nothing is lost: the "
            f"same command tries again. Another server: storage.tracking=URI, or MLFLOW_TRACKING_URI"
        ) from error


def _mark_of(task: TaskSnapshot) -> str:
    """What of a task is written: a student's run is written once more when its test labels are opened."""
    return f"{task.state}, test" if "test_accuracy" in task.metrics else task.state


def _first_start(tasks: Iterable[TaskSnapshot]) -> float | None:
    return min((attempt.started for task in tasks for attempt in task.attempts), default=None)


def _last_end(tasks: Iterable[TaskSnapshot]) -> int | None:
    """In milliseconds; None, which is now for MLflow, where nothing ran."""
    return round(1000 * max((attempt.ended or 0.0 for task in tasks for attempt in task.attempts), default=0.0)) or None

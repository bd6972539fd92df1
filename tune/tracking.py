"""MLflow as a projection of the study: what a snapshot says, MLflow shows; writing it again changes nothing.

One parent run per study and one child run per piece of work, found again by the work's key, so that a resumed study
goes on in the same runs. Metrics come from the trial folders, in batches. Every child can be filtered by its tags:
`tags."hidfd.state" = 'complete' and tags.kind = 'student'`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidfd.config import TrialConfig
from tune.comparison import TABLE_METRICS
from tune.definition import FRESH
from tune.snapshot import StudySnapshot, WorkSnapshot, WorkState
from tune.space import changed
from tune.work import pieces_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

    from hidfd.store import Store

KEY_TAG, STATE_TAG, STUDY_TAG = "hidfd.key", "hidfd.state", "hidfd.study"
BEST_TAG, MODEL_TAG = "hidfd.best", "hidfd.model"
WRITTEN_TAG = "hidfd.written"
"""What of the study stands in MLflow already."""

QUICK_TO_FAIL = {
    "MLFLOW_DISABLE_TELEMETRY": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # seven retries take four minutes; the next snapshot tries again anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment of the MLflow client, where the user has not set it."""

PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""Has MLflow's pages open with runs and curves, not with those for language models."""

BATCH_METRICS = 900
"""MLflow takes at most 1,000 metrics in one call."""

EXAMPLE_IMAGES = 2
"""Of the logged model: `torch.export` takes a batch of 1 for a constant."""

DESCRIPTION = """A HiDFD study: students distilled from a teacher on collected and synthetic images.

The run named after the study holds its verdict, its report and the means of its comparisons; below it stands a run for
each generator and each student. Tags to filter by: `hidfd.state` (complete, pruned, collapsed, diverged, failed),
`kind` (build, student), `role` (search, finalist, control, variant), `generator`, `group`, `seed`. The tag `hidfd.best`
of the study's run names the best student; its run carries the model, which takes images in [0, 1]."""

STATUSES = {
    WorkState.COMPLETE: "FINISHED",
    WorkState.COLLAPSED: "FINISHED",
    WorkState.PRUNED: "KILLED",
    WorkState.DIVERGED: "FAILED",
    WorkState.FAILED: "FAILED",
}
"""MLflow's own status of what has ended; the tag `hidfd.state` says it in full."""

SHOWN = (
    *("agreement", "agreement_standard_error", "validation_accuracy", "kl_to_teacher", "deployed_parameters"),
    *("generator.effective_classes", "generator.label_agreement", "generator.memorisation"),
)
"""Final numbers that become metrics of a run."""

CURVES = (
    "generation/hinge_d",
    "generation/hinge_g",
    "generation/trans",
    "generation/blend",
    "generation/reg",
    "generation/teacher_agreement",
    "generation/effective_classes",
    "generation/memorisation",
    "distillation/feature",
    "distillation/total",
    "distillation/agreement",
)
"""Curves that MLflow shows; every other one stands in the report. Few, because its comparison page is slow."""


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
            for name, value in QUICK_TO_FAIL.items():
                os.environ.setdefault(name, value)
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            from mlflow.tracking import MlflowClient

            client = MlflowClient(self.uri)
            experiment = client.get_experiment_by_name(self.study_name)
            if experiment is None:
                tags = {NOTE_TAG: DESCRIPTION, KIND_TAG: KIND}
                self._experiment = client.create_experiment(self.study_name, self._artifact_location(), tags)
            else:
                self._experiment = experiment.experiment_id
            for run in _all_runs(client, self._experiment):
                key = run.data.tags.get(KEY_TAG)
                if key:
                    self._runs[key] = run.info.run_id
                    self._written[key] = run.data.tags.get(WRITTEN_TAG, "")
            self._client = client  # last: before its runs are known, every one would be made a second time
        return self._client

    def sync(self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool] = lambda: False) -> None:
        """Bring MLflow up to a snapshot. Pieces of work that ended and were written are not touched again.

        `is_cut_short` is asked between two pieces of work; what is left then is written by the next call.
        """
        tags = {"mlflow.runName": snapshot.name, STUDY_TAG: snapshot.name, "kind": "study"}
        parent = self._run("study", tags, _first_start(snapshot.works))
        for work in snapshot.works:
            if is_cut_short():
                return
            if work.state is not WorkState.WAITING and self._written.get(work.key) != work.state:
                self._write_work(work, parent, snapshot)
        best = best_student(snapshot)
        state = "finished" if snapshot.finished else "running"
        mark = f"{state}, best {best.label if best else None}: {snapshot.verdict}"
        if self._written.get("study") != mark:
            self._write_study(snapshot, parent)
            tags = {"command": snapshot.command, "objective": snapshot.objective, STATE_TAG: state}
            self._mark("study", mark, {**tags, BEST_TAG: best.label if best else None, NOTE_TAG: snapshot.verdict})

    def log_model(self, snapshot: StudySnapshot, store: Store) -> None:
        """Log the best student of a finished study to its own run, once, as a network that loads without this project.

        Args:
            snapshot: finished, and written by `sync`; before that there is nothing to log.
            store: that holds the student and its teacher.

        Raises:
            StoreError: the store does not hold them.
        """
        best, client = best_student(snapshot), self.client
        if best is None or best.key not in self._runs or not snapshot.finished:
            return
        run = self._runs[best.key]
        model = client.get_run(run).data.tags.get(MODEL_TAG)
        if model is None:
            model = self._log_network(run, best, config_of(best, snapshot), store)
            client.set_tag(run, MODEL_TAG, model)
            client.set_tag(self._runs["study"], MODEL_TAG, model)

    def run_id(self, key: str) -> str | None:
        """The MLflow run of a piece of work, if it has one."""
        return self._runs.get(key)

    def _write_work(self, work: WorkSnapshot, parent: str, snapshot: StudySnapshot) -> None:
        tags = {PARENT_TAG: parent, STUDY_TAG: snapshot.name, "mlflow.runName": work.label} | _tags(work, snapshot)
        run = self._run(work.key, tags, _first_start([work]))
        self._log_params(run, work.params)
        if work.state.is_final:
            folder = Path(work.folder)
            curves = _curves(folder / "metrics.jsonl", work.kind)
            rungs = {"distillation/agreement": [(rung.images, rung.value) for rung in work.rungs]}
            self._log_metrics(run, _final_metrics(work) | (curves or rungs))
            self._log_folder(run, folder)
            ended = max((attempt.ended or 0.0 for attempt in work.attempts), default=0.0)
            self.client.set_terminated(run, STATUSES[work.state], round(1000 * ended) or None)
        self._mark(work.key, work.state, {STATE_TAG: work.state, "reason": work.reason})

    def _write_study(self, snapshot: StudySnapshot, run: str) -> None:
        # As many seeds or students as a number rests on are its step, so that the newest is the one over most of them.
        numbers = {
            f"{row.name}/{metric}": [(row.num_complete, row.means[metric])]
            for row in snapshot.rows
            for metric in TABLE_METRICS
            if metric in row.means
        }
        if snapshot.rank_agreement is not None:
            numbers["kendall_tau"] = [(snapshot.rank_agreement_count, snapshot.rank_agreement)]
        self._log_metrics(run, numbers)
        if not snapshot.finished:
            self.client.update_run(run, status="RUNNING")
            return
        report = Path(snapshot.folder) / "report.html"
        if report.is_file():
            self.client.log_artifact(run, str(report))
        self.client.set_terminated(run)

    def _log_network(self, run: str, best: WorkSnapshot, config: TrialConfig, store: Store) -> str:
        """Saved by `torch.export`; through the client alone, which leaves MLflow's global state as it is."""
        import mlflow.pytorch
        import numpy as np
        import torch
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        from hidfd.export import deployed_student

        network, data = deployed_student(config, store), config.data
        image_shape, single = (data.channels, data.image_size_pixels, data.image_size_pixels), np.dtype(np.float32)
        signature = ModelSignature(
            Schema([TensorSpec(single, (-1, *image_shape), "image_unit")]),
            Schema([TensorSpec(single, (-1, data.num_classes), "logits")]),
        )
        logged = self.client.create_logged_model(self._experiment, best.label, run, model_type="student")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)  # of MLflow's own classes
            mlflow.pytorch.save_model(
                network,
                f"{folder}/model",
                mlflow_model=Model(run_id=run, model_id=logged.model_id),
                signature=signature,
                input_example=np.zeros((EXAMPLE_IMAGES, *image_shape), single),
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],  # else MLflow loads it to find out
                serialization_format="pt2",
            )
            self.client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=best.images)])
        return f"models:/{logged.model_id}"

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

    def _log_metrics(self, run: str, metrics: dict[str, list[tuple[int, float]]]) -> None:
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

    def _artifact_location(self) -> str | None:
        if not self.uri.startswith("sqlite:///"):
            return None  # the server's own
        database = Path(self.uri.removeprefix("sqlite:///")).absolute()
        return (database.parent / "mlartifacts" / self.study_name).as_uri()

    def _mark(self, key: str, mark: str, tags: Mapping[str, str | None]) -> None:
        """Sets tags, and last that all of it is written."""
        from mlflow.entities import RunTag

        content = [RunTag(name, value) for name, value in {**tags, WRITTEN_TAG: mark}.items() if value]
        self.client.log_batch(self._runs[key], tags=content)
        self._written[key] = mark


def best_student(snapshot: StudySnapshot) -> WorkSnapshot | None:
    """The best trial's student on the first fresh seed once that is complete, before that the search's; or none."""
    finalists = [snapshot.work(row.keys[0]) for row in snapshot.rows if row.role == "finalist"]
    trials = [snapshot.work(trial.key) for trial in snapshot.trials if trial.key and trial.number == snapshot.best]
    candidates = [work for work in (*finalists, *trials) if work is not None and work.state is WorkState.COMPLETE]
    return candidates[0] if candidates else None


def config_of(work: WorkSnapshot, snapshot: StudySnapshot) -> TrialConfig:
    """The trial that a student belongs to."""
    seeds = {} if work.role == "search" else dict.fromkeys(FRESH, work.seed)
    base = TrialConfig.model_validate(snapshot.config["trial"])
    config = changed(base, {**work.params, **seeds})
    assert pieces_of(config)[-1].key == work.key, work.label
    return config


def _tags(work: WorkSnapshot, snapshot: StudySnapshot) -> dict[str, str]:
    """What a run can be filtered by, its state apart."""
    tags = {"kind": work.kind, "role": work.role, "until": work.until, "seed": str(work.seed)}
    for found in (work, *map(snapshot.work, work.needs)):
        if found is not None and found.until == "synthesis":
            tags["generator"] = found.label
    if work.trial is not None:
        tags |= {"trial": str(work.trial), "group": str(snapshot.trials[work.trial].group)}
    return tags


def _all_runs(client: MlflowClient, experiment: str) -> list[Run]:
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _first_start(works: Iterable[WorkSnapshot]) -> float | None:
    return min((attempt.started for work in works for attempt in work.attempts), default=None)


def _final_metrics(work: WorkSnapshot) -> dict[str, list[tuple[int, float]]]:
    """A pruned student has none: its last rung is no result, and stands in its curve."""
    found = {name: [(work.images, work.metrics[name])] for name in SHOWN if name in work.metrics}
    return {"seconds": [(0, work.seconds)]} | ({} if work.state is WorkState.PRUNED else found)


def _curves(path: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """Curves of a trial folder; a student's run shows the student's own, a build's the generator's."""
    if not path.is_file():
        return {}
    wanted = [name for name in CURVES if name.startswith("distillation/") == (kind == "student")]
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        for name in wanted:
            if row.get(name) is not None:
                curves.setdefault(name, []).append((int(row["images"]), float(row[name])))
    return curves

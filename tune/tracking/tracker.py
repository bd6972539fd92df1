"""Snapshots of a study written to MLflow; writing one twice changes nothing.

A study has a parent run, and each of its tasks a run below it, from its start. Runs are found again by the key of
their task, so a resumed study goes on in the same ones. Metrics come from what tasks tell while they run and, in the
end, from the trial folders. Tags make runs easy to filter:
`tags."hidfd.state" = 'complete' and tags.kind = 'student'`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hidfd.git import commit_of
from hidfd.pipeline.graph import digest_of
from hidfd.pipeline.observer import Row
from hidfd.report.live_metrics import METRICS, readable_rows
from tune.planner.comparison import TABLE_METRICS
from tune.report.champion import Champion, best_student, champion_of, config_of
from tune.report.objectives import constraints_in_words, further_columns, trade_offs_in_words
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.connection import KEY_TAG, LEDGER_TAG, NOTE_TAG, WRITTEN_TAG, is_refusal
from tune.tracking.descriptions import experiment_note, is_own_note, study_note, task_note
from tune.tracking.model_registry import MODEL_TAG, Registration, log_student, register
from tune.tracking.pages import VIEW_TAG, links_of, view_of
from tune.tracking.points import Point
from tune.tracking.run_content import (
    curves_of,
    data_sets_of,
    end_of,
    feasible_tag,
    final_metrics,
    machine_tags,
    origin_tags,
    progress_of,
    rungs_of,
    settings_of,
    tags_of_run,
)
from tune.tracking.study_experiment import INTERRUPTED, RUNNING, STUDY_KEY, KnownRun, StudyExperiment
from tune.tracking.told_rows import ToldRows

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

    from hidfd.store.store import Store

STATE_TAG, STUDY_TAG, REASON_TAG = "hidfd.state", "hidfd.study", "reason"
BEST_TAG, FRONT_TAG, WORTH_TAG = "hidfd.best", "hidfd.front", "hidfd.worth"
NAME_TAG, PARENT_TAG = "mlflow.runName", "mlflow.parentRunId"
WRITTEN_NOTE_TAG = "hidfd.note"
"""Tag of an experiment: the digest of the note that was written last, by which a note of somebody else's is known."""

STATUSES = {
    TaskState.COMPLETE: "FINISHED",
    TaskState.COLLAPSED: "FINISHED",
    TaskState.PRUNED: "FINISHED",  # as it should be: the pages show a red cross for every other end
    TaskState.DIVERGED: "FAILED",
    TaskState.INFEASIBLE: "FAILED",
    TaskState.FAILED: "FAILED",
}
"""MLflow's own status of a task that has ended; the tag `hidfd.state` has more states."""


class Tracker(StudyExperiment):
    """One study in MLflow, brought up to date snapshot by snapshot.

    Args:
        uri, study_name, ledger, place: see `StudyExperiment`.
    """

    def __init__(self, uri: str, study_name: str, ledger: str | None = None, place: str = "") -> None:
        super().__init__(uri, study_name, ledger, place)
        self._told = ToldRows()
        self._origin: dict[str, str] = {}

    def sync(
        self,
        snapshot: StudySnapshot,
        rows: Mapping[str, Iterable[Row]] | None = None,
        *,
        is_cut_short: Callable[[], bool] = lambda: False,
        has_progress: bool = True,
        is_driven: bool = True,
    ) -> None:
        """Bring MLflow up to date with a snapshot. Tasks whose final state is already written are not touched again.

        Args:
            snapshot: of the study.
            rows: key of a task -> the rows of metrics that it has told since the last call.
            is_cut_short: asked before each task; if it returns True, the rest is left to the next call.
            has_progress: whether rows of running tasks are written; if not, they are kept for the next call.
            is_driven: whether a driver goes on with the study; without one, runs of unfinished tasks are ended, until
                they go on.
        """
        for key, told in (rows or {}).items():
            self._told.add(key, told)
        try:
            self._sync(snapshot, is_cut_short, has_progress=has_progress, is_driven=is_driven)
        except Exception as error:
            if not is_refusal(error):
                # The server may have done it although its answer was lost: the next call lists the runs anew.
                self._disconnect()
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

    def _model_of(
        self, student: TaskSnapshot, snapshot: StudySnapshot, store: Store, *, anew: bool = False
    ) -> LoggedModel:
        """Return a student's model, logged if it was not yet, or anew; the study's run names it as well."""
        self._connect()
        run, config = self._runs[student.key].run_id, config_of(student, snapshot)
        model = log_student(self.client, run, student, config, store, anew=anew)
        self.client.set_tag(self._runs[STUDY_KEY].run_id, MODEL_TAG, f"models:/{model.model_id}")
        return model

    def _sync(
        self, snapshot: StudySnapshot, is_cut_short: Callable[[], bool], *, has_progress: bool, is_driven: bool
    ) -> None:
        tasks = [task for task in snapshot.tasks if task.kind is not TaskKind.TEST_EVALUATION]  # which have no runs
        self._claim({task.key for task in snapshot.tasks})
        if not self._origin:
            self._origin = origin_tags(snapshot.command, commit_of(Path(snapshot.file).absolute().parent))
        tags = {NAME_TAG: snapshot.name, STUDY_TAG: snapshot.name, "kind": "study"}
        parent = self._run(STUDY_KEY, tags, _first_start(snapshot.tasks))
        refused: Exception | None = None
        for task in tasks:
            if is_cut_short():
                return
            try:
                self._sync_task(task, parent.run_id, snapshot, has_progress=has_progress, is_driven=is_driven)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refused = refused or error
        self._end_strangers({task.key for task in tasks})
        self._sync_study(snapshot, parent, is_driven=is_driven)
        if refused is not None:
            raise refused

    def _sync_task(
        self, task: TaskSnapshot, parent: str, snapshot: StudySnapshot, *, has_progress: bool, is_driven: bool
    ) -> None:
        known = self._runs.get(task.key)
        if task.state is not TaskState.WAITING and (known is None or known.written != _mark_of(task)):
            known = self._write_task(task, parent, snapshot)
        if known is None or task.state.is_final:
            return
        is_running = task.state is TaskState.RUNNING and is_driven
        if has_progress or not is_running:
            self._write_progress(task, known)
        if known.is_running and not is_running:
            self._interrupt(known)
            self._mark(known, TaskState.WAITING, {STATE_TAG: TaskState.WAITING})

    def _write_task(self, task: TaskSnapshot, parent: str, snapshot: StudySnapshot) -> KnownRun:
        tags = {PARENT_TAG: parent, STUDY_TAG: snapshot.name, NAME_TAG: task.label}
        known = self._run(task.key, tags | tags_of_run(task, snapshot), _first_start([task]))
        run = known.run_id
        self.writer.settings(run, settings_of(task, snapshot))
        self.writer.data_sets(run, data_sets_of(snapshot.trial))
        if task.state.is_final:
            folder = Path(task.folder)
            told = self._told.of(task.key)  # more than the folder has, where that was lost with its node
            curves = curves_of([*readable_rows(folder / METRICS), *told], task)
            self.writer.points(run, curves or rungs_of(task))
            self.writer.points(run, final_metrics(task, time.time()))
            self.writer.trial_folder(run, folder)
            self.client.set_terminated(run, STATUSES[task.state], _milliseconds(end_of([task])))
            known.is_running = False
            self.writer.forget(run)
            self._told.drop(task.key)
        elif not known.is_running:
            self.client.update_run(run, status=RUNNING)
            known.is_running = True
            self.writer.drop_tag(run, REASON_TAG)  # for which it had ended before
        tags_now = {
            STATE_TAG: task.state,
            "feasible": feasible_tag(task, snapshot),
            NOTE_TAG: task_note(task, snapshot),
            **machine_tags(task, Path(task.folder) / "manifest.json"),
            REASON_TAG: task.reason,
        }
        self._mark(known, _mark_of(task), tags_now)
        return known

    def _write_progress(self, task: TaskSnapshot, known: KnownRun) -> None:
        """Write what an unfinished task has told since the last time: points of its curves, and its newest samples."""
        rows = self._told.of(task.key)
        if len(rows) > self._told.num_written(task.key):
            of_stage = [row for row in rows if any(name.startswith(f"{task.stage}/") for name in row)]
            self.writer.points(known.run_id, curves_of(rows, task) | progress_of(of_stage, task.target_images))
            self._told.mark_written(task.key)
        if task.picture is not None:
            self.writer.samples(known.run_id, Path(task.picture))

    def _interrupt(self, known: KnownRun) -> None:
        """End the run of a task that does not run now. It has no end time, which MLflow could not take back."""
        self.client.update_run(known.run_id, status=INTERRUPTED)
        known.is_running = False

    def _end_strangers(self, keys: set[str]) -> None:
        """End runs that a killed driver has left of tasks that the ledger does not know: it was lost, or put back."""
        for key, known in self._runs.items():
            if known.is_running and key != STUDY_KEY and key not in keys:
                self._interrupt(known)

    def _sync_study(self, snapshot: StudySnapshot, parent: KnownRun, *, is_driven: bool) -> None:
        best = best_student(snapshot)
        state = "finished" if snapshot.finished else "running" if is_driven else "stopped"
        worth = snapshot.worth
        answers = [worth.answer] if worth is not None else []  # what marks a study without it stays as it was
        mark = digest_of([state, best.key if best else None, snapshot.verdict, *snapshot.front, *answers])[:12]
        if parent.written == mark:
            return
        self._write_study(snapshot, parent, is_driven=is_driven)
        self._describe_experiment(snapshot)
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
        self._mark(parent, mark, tags_now)

    def _write_study(self, snapshot: StudySnapshot, parent: KnownRun, *, is_driven: bool) -> None:
        # The step is the number of seeds or students behind a value, so that the last point is the one over the most.
        run, ended = parent.run_id, end_of(snapshot.tasks)
        now = ended or time.time()
        numbers = {
            f"{row.name}/{metric}": [Point(row.num_complete, row.means[metric], now)]
            for row in snapshot.comparison_rows
            for metric in (*TABLE_METRICS, *further_columns(snapshot))
            if metric in row.means
        }
        if snapshot.worth is not None:
            numbers |= {
                f"{budget.name}/{snapshot.worth.metric}": [Point(budget.num_complete, budget.mean, now)]
                for budget in snapshot.worth.budgets
                if budget.mean is not None
            }
        if snapshot.rank_agreement is not None:
            numbers["kendall_tau"] = [Point(snapshot.rank_agreement_count, snapshot.rank_agreement, now)]
        self.writer.data_sets(run, data_sets_of(snapshot.trial))
        self.writer.points(run, numbers, updates=True)
        if snapshot.finished:
            self.writer.study_folder(run, Path(snapshot.folder))
            self.client.set_terminated(run, end_time=_milliseconds(ended))
        elif is_driven:
            self.client.update_run(run, status=RUNNING)
        else:
            self._interrupt(parent)

    def _describe_experiment(self, snapshot: StudySnapshot) -> None:
        """Write the view in which the study's runs are opened, and links to what is looked for most."""
        champion = champion_of(snapshot)
        student = None if champion is None else self.run_id(champion.student.key)
        links = links_of(self._experiment, self._runs[STUDY_KEY].run_id, student, has_report=snapshot.finished)
        self.client.set_experiment_tag(self._experiment, VIEW_TAG, view_of(snapshot))
        tags = self.client.get_experiment(self._experiment).tags
        if is_own_note(tags.get(NOTE_TAG, ""), tags.get(WRITTEN_NOTE_TAG)):
            note = experiment_note(links)
            self.client.set_experiment_tag(self._experiment, WRITTEN_NOTE_TAG, digest_of(note))
            self.client.set_experiment_tag(self._experiment, NOTE_TAG, note)

    def _run(self, key: str, tags: dict[str, str], started: float | None) -> KnownRun:
        """Return the run of a task, which is made where there is none."""
        client = self.client
        if key not in self._runs:
            marks = {KEY_TAG: key} | ({LEDGER_TAG: self.ledger} if self.ledger is not None else {})
            created = client.create_run(
                self._experiment, _milliseconds(started), tags={**self._origin, **tags, **marks}
            )
            self._runs[key] = KnownRun(created.info.run_id)
        return self._runs[key]

    def _mark(self, known: KnownRun, mark: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of a run, and with them the mark that its content is written."""
        self.writer.tags(known.run_id, {**tags, WRITTEN_TAG: mark, LEDGER_TAG: self.ledger})
        known.written = mark


def _mark_of(task: TaskSnapshot) -> str:
    """Return a mark of the content to write; a student's changes once more when it was evaluated on the test labels."""
    return f"{task.state}, test" if "test_accuracy" in task.metrics else task.state


def _first_start(tasks: Iterable[TaskSnapshot]) -> float | None:
    return min((attempt.started for task in tasks for attempt in task.attempts), default=None)


def _milliseconds(seconds: float | None) -> int | None:
    """Return a time as MLflow counts it; None, which MLflow takes for now, stays None."""
    return None if seconds is None else round(1000 * seconds)

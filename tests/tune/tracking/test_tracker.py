"""A snapshot in MLflow: complete, and once, however often and from whichever process it is written."""

import getpass
import json
import sqlite3
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from hidfd.config.paths import with_values
from hidfd.distributed.device import resolve_device
from hidfd.export import deployed_student
from hidfd.networks.build import build_backbone
from hidfd.store.store import Store
from tests.tune.ledger.test_locks import WRITE, stopped
from tests.tune.sized import TRADED_OFF, SizedWorld, sized
from tests.tune.snapshots import study_snapshot
from tests.tune.students import keep_student
from tests.tune.world import run
from tune.errors import OtherLedger
from tune.planner.snapshots import snapshot_of
from tune.report.champion import best_student, config_of
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking.connection import KEY_TAG, WRITTEN_TAG, reason_of
from tune.tracking.descriptions import study_note
from tune.tracking.model_registry import MODEL_TAG
from tune.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    snapshot = study_snapshot(tmp_path_factory.mktemp("whole"))
    folder = Path(snapshot.folder)
    (folder / "report.html").write_text("<p>study")
    (folder / "figures.html").write_text("<p>figures")
    (folder / "figures").mkdir()
    (folder / "figures" / "slice.png").write_bytes(b"png")
    return snapshot


@pytest.fixture(scope="module")
def written(uri: str, whole: StudySnapshot) -> Tracker:
    tracker = Tracker(uri, "written")
    tracker.sync(whole)
    return tracker


def runs_of(tracker: Tracker, where: str = "") -> list[Run]:
    experiment = tracker.client.get_experiment_by_name(tracker.study_name)
    assert experiment is not None
    return list(tracker.client.search_runs([experiment.experiment_id], where))


def test_driver_killed_while_mlflow_makes_its_database_leaves_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half(engine: sqlalchemy.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER)"))
        raise Killed

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.db.utils._upgrade_db", half)
        with pytest.raises(Killed):
            _ = Tracker(uri, "killed").client
    assert runs_of(Tracker(uri, "killed")) == []


def content_of(tracker: Tracker) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Run -> metric -> every point that MLflow holds."""
    client: MlflowClient = tracker.client
    return {
        run.info.run_id: {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs_of(tracker)
    }


def test_one_run_for_the_study_and_one_below_it_for_each_task(written: Tracker, whole: StudySnapshot) -> None:
    (parent,) = runs_of(written, "tags.kind = 'study'")
    children = runs_of(written, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.run_name for run in children} == {task.label for task in whole.tasks}
    assert {run.info.run_id for run in children} == {written.run_id(task.key) for task in whole.tasks}
    assert parent.info.run_name == whole.name
    assert parent.info.status == "FINISHED"
    ends = [attempt.ended or 0 for task in whole.tasks for attempt in task.attempts]
    assert parent.info.end_time == pytest.approx(1000 * max(ends), abs=1)
    assert parent.data.tags["mlflow.note.content"] == study_note(whole)
    assert parent.data.tags["hidfd.best"] == f"trial-{whole.best}-seed1001"
    assert parent.data.metrics["kendall_tau"] == whole.rank_agreement
    hybrid = whole.comparison_rows[0]
    assert parent.data.metrics["hybrid/agreement"] == hybrid.means["agreement"]
    assert [path.path for path in written.client.list_artifacts(parent.info.run_id)] == [
        *("figures", "figures.html", "report.html")
    ]
    assert [path.path for path in written.client.list_artifacts(parent.info.run_id, "figures")] == ["figures/slice.png"]
    experiment = written.client.get_experiment_by_name("written")
    assert experiment is not None
    assert "hidfd.state" in experiment.tags["mlflow.note.content"]


def test_children_can_be_filtered(written: Tracker, whole: StudySnapshot) -> None:
    for state in (TaskState.COMPLETE, TaskState.PRUNED):
        found = runs_of(written, f"tags.`hidfd.state` = '{state}' and tags.kind = 'student'")
        labels = {task.label for task in whole.tasks if task.state is state and task.kind is TaskKind.STUDENT}
        assert {run.info.run_name for run in found} == labels
        assert labels
    assert {run.data.tags["group"] for run in runs_of(written, "tags.generator = 'generator-1'")} == {"3"}
    assert len(runs_of(written, "tags.role = 'control'")) == 3
    (pruned, *_) = runs_of(written, "tags.`hidfd.state` = 'pruned'")
    assert pruned.info.status == "FINISHED", "MLflow's pages show a red cross for anything else"
    assert "others did better there" in pruned.data.tags["reason"]


def test_a_run_holds_params_times_numbers_and_curves_of_its_own_kind(written: Tracker, whole: StudySnapshot) -> None:
    content = content_of(written)
    best = whole.task(next(trial.key for trial in whole.trials if trial.number == whole.best) or "")
    assert best is not None
    run = written.client.get_run(written.run_id(best.key))
    assert {path: str(value) for path, value in best.params.items()}.items() <= run.data.params.items()
    assert run.data.params["data.image_size_pixels"] == "28", "it differs from the default"
    assert "distillation.target_images" in run.data.params
    assert not any(path.endswith(".path") for path in run.data.params)
    assert run.info.end_time - run.info.start_time == pytest.approx(1000 * best.seconds, abs=2)
    assert run.data.metrics["agreement"] == best.value
    rows = [json.loads(line) for line in (Path(best.folder) / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["images"], row["distillation/feature"]) for row in rows if "distillation/feature" in row]
    assert all(point.timestamp > 0 for point in written.client.get_metric_history(run.info.run_id, "agreement"))
    assert content[run.info.run_id]["distillation/feature"] == curve
    assert len(curve) > 10
    assert not any(name.startswith("generation/") for name in run.data.metrics)
    build = next(task for task in whole.tasks if task.kind is TaskKind.GENERATOR)
    assert len(content[written.run_id(build.key) or ""]["generation/hinge_d"]) == 10
    assert "generator.memorisation" in content[written.run_id(build.key) or ""]


def test_a_run_says_where_it_comes_from_and_what_it_has_read(written: Tracker, whole: StudySnapshot) -> None:
    build = next(task for task in whole.tasks if task.kind is TaskKind.GENERATOR)
    run = written.client.get_run(written.run_id(build.key) or "")
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.name"] == whole.command
    assert run.data.tags["hidfd.version"] == version("hidfd")
    assert (run.data.tags["host"], run.data.tags["device"]) == ("laptop", "cpu, 1 thread, fp32")
    read = {known.tags[0].value: known.dataset for known in run.inputs.dataset_inputs}
    assert read.keys() == {"candidates", "validation"}
    assert read["candidates"].digest == "a" * 32
    assert "distillation.target_images" not in run.data.params, "no generator depends on it"


def test_a_setting_that_no_digest_depends_on_may_change_and_mlflow_keeps_the_first(
    uri: str, whole: StudySnapshot
) -> None:
    Tracker(uri, "changed-setting").sync(whole)
    other = with_values(whole.trial, {"checkpoint_every_seconds": 7.0})
    again = Tracker(uri, "changed-setting")
    test_again = tuple(replace(task, metrics=task.metrics | {"test_accuracy": 0.5}) for task in whole.tasks)
    again.sync(replace(whole, trial=other, tasks=test_again))
    again.sync(replace(whole, trial=with_values(whole.trial, {"checkpoint_every_seconds": 8.0})))


def test_a_pruned_student_shows_its_rung_and_no_result(written: Tracker, whole: StudySnapshot, tmp_path: Path) -> None:
    task = next(task for task in whole.tasks if task.state is TaskState.PRUNED)
    left = replace(task, key="f" * 64, label="left", folder=str(tmp_path))  # it left no metrics.jsonl
    written.sync(replace(whole, tasks=(*whole.tasks, left)))
    metrics = content_of(written)[written.run_id(left.key) or ""]
    assert metrics["distillation/agreement"] == [(rung.images, rung.value) for rung in task.rungs]
    assert "agreement" not in metrics


def test_test_accuracy_joins_the_run_of_its_student(uri: str, whole: StudySnapshot, tmp_path: Path) -> None:
    tracker = Tracker(uri, "opened")
    tracker.sync(whole)
    (key,) = whole.comparison_rows[0].keys
    student = whole.task(key)
    assert student is not None
    tested = replace(student, metrics=student.metrics | {"test_accuracy": 0.75})
    evaluation = replace(student, key="e" * 64, kind=TaskKind.TEST_EVALUATION, label="x-test", folder=str(tmp_path))
    tasks = (*(tested if task is student else task for task in whole.tasks), evaluation)
    tracker.sync(replace(whole, tasks=tasks))
    assert tracker.client.get_run(tracker.run_id(key)).data.metrics["test_accuracy"] == 0.75
    assert len(runs_of(tracker)) == 1 + len(whole.tasks), "a test evaluation has no run of its own"


def test_the_front_and_who_is_feasible_can_be_filtered(uri: str, tmp_path: Path) -> None:
    asked = TRADED_OFF | {"constraints": {"latency_milliseconds": {"max": 2}}}
    judged = snapshot_of(run(replace(sized(8, **asked), folder=tmp_path), SizedWorld()).state)
    tracker = Tracker(uri, "trade-offs")
    tracker.sync(judged)
    (parent,) = runs_of(tracker, "tags.kind = 'study'")
    assert parent.data.tags["hidfd.front"] == ", ".join(f"trial-{number}" for number in judged.front)
    assert parent.data.tags["constraints"] == "latency at most 2 ms"
    out = {task.label for task in judged.tasks if task.metrics.get("latency_milliseconds", 0) > 2}
    assert {run.info.run_name for run in runs_of(tracker, "tags.feasible = 'false'")} == out != set()
    (best,) = runs_of(tracker, f"tags.`mlflow.runName` = 'trial-{judged.best}'")
    assert best.data.tags["feasible"] == "true"
    assert best.data.metrics["latency_milliseconds"] == 1.75


def test_reports_and_pictures_are_artifacts(written: Tracker, whole: StudySnapshot) -> None:
    build = next(task for task in whole.tasks if task.kind is TaskKind.GENERATOR)
    run = written.run_id(build.key) or ""
    assert {path.path for path in written.client.list_artifacts(run)} >= {"report.html", "config.yaml", "pictures"}
    pictures = {path.path for path in written.client.list_artifacts(run, "pictures")}
    assert "pictures/synthetic.png" in pictures
    assert "pictures/samples.png" in pictures
    grid = Path(written.client.download_artifacts(run, "pictures/samples.png"))
    assert grid.read_bytes() == Path(build.picture or "").read_bytes()
    assert Path(written.uri.removeprefix("sqlite:///")).parent.joinpath("mlartifacts", "written").is_dir()


def test_written_again_nothing_changes(written: Tracker, uri: str, whole: StudySnapshot) -> None:
    before = content_of(written)
    written.sync(whole)
    again = Tracker(uri, "written")
    again.sync(whole)
    assert content_of(again) == before


def test_a_killed_writer_leaves_nothing_twice(written: Tracker, uri: str, whole: StudySnapshot) -> None:
    before = content_of(written)
    for task in whole.tasks[:4]:
        written.client.delete_tag(written.run_id(task.key) or "", WRITTEN_TAG)
    Tracker(uri, "written").sync(whole)
    assert content_of(written) == before


def test_a_listing_of_runs_that_failed_once_makes_none_anew(
    written: Tracker, uri: str, whole: StudySnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {run.info.run_id for run in runs_of(written)}
    again = Tracker(uri, "written")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", unreachable)
        with pytest.raises(ConnectionError):
            again.sync(whole)
    again.sync(whole)
    assert {run.info.run_id for run in runs_of(written)} == before


def test_a_run_whose_answer_was_lost_is_not_there_twice(uri: str, part: StudySnapshot, whole: StudySnapshot) -> None:
    first = Tracker(uri, "lost")
    first.sync(part)
    create = MlflowClient.create_run

    def lose_answer(client: MlflowClient, *arguments: Any, **options: Any) -> Run:
        create(client, *arguments, **options)
        raise ConnectionError("the server was killed after it had made the run")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", lose_answer)
        with pytest.raises(ConnectionError):
            first.sync(whole)
    first.sync(whole)
    assert len(runs_of(first)) == len(whole.tasks) + 1


def test_of_a_run_that_was_made_twice_the_written_one_stays(uri: str, part: StudySnapshot) -> None:
    first = Tracker(uri, "twice")
    first.sync(part)
    written = {run.info.run_id for run in runs_of(first)}
    for key in ("study", part.tasks[0].key):
        client = first.client
        client.create_run(client.get_run(first.run_id(key)).info.experiment_id, tags={KEY_TAG: key})
    Tracker(uri, "twice").sync(part)
    assert {run.info.run_id for run in runs_of(first)} == written


def test_database_that_a_stopped_process_holds_is_said_with_that_process(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    with stopped(WRITE, str(database)) as pid:
        error = sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
        words = reason_of(error, f"sqlite:///{database}")
    assert f"database is locked by process {pid} " in words
    assert "which is stopped" in words


def test_why_mlflow_cannot_be_written_says_no_password() -> None:
    uri = "https://someone:secret@tracking.example:5000"
    words = reason_of(ConnectionError(f"request to {uri}/api/2.0 failed\nmore"))
    assert words == "ConnectionError: request to https://someone:***@tracking.example:5000/api/2.0 failed"


def unreachable(*arguments: object, **options: object) -> None:
    raise ConnectionError("the server is being restarted")


def test_a_resumed_study_goes_on_in_the_same_runs(uri: str, part: StudySnapshot, whole: StudySnapshot) -> None:
    first = Tracker(uri, "resumed")
    first.sync(part)
    (parent,) = runs_of(first, "tags.kind = 'study'")
    assert parent.info.status == "RUNNING"
    running = {run.info.run_name for run in runs_of(first, "tags.`hidfd.state` = 'running' and tags.kind = 'student'")}
    assert running == {task.label for task in part.tasks if task.state is TaskState.RUNNING}
    known = {run.info.run_name: run.info.run_id for run in runs_of(first)}
    second = Tracker(uri, "resumed")
    second.sync(whole)
    after = {run.info.run_name: run.info.run_id for run in runs_of(second)}
    assert known.items() <= after.items()
    assert len(after) == len(whole.tasks) + 1
    assert {run.info.status for run in runs_of(second)} == {"FINISHED"}
    Tracker(uri, "resumed").sync(replace(whole, finished=False))  # more was asked of it
    assert second.client.get_run(parent.info.run_id).info.status == "RUNNING"


@pytest.fixture
def store_with_best(tmp_path: Path, whole: StudySnapshot) -> Store:
    best = best_student(whole)
    assert best is not None
    store = Store.open(tmp_path / "store")
    keep_student(store, config_of(best, whole))
    return store


def test_the_best_model_is_logged_once_and_needs_no_project(
    written: Tracker, whole: StudySnapshot, store_with_best: Store
) -> None:
    best = best_student(whole)
    assert best is not None
    assert (best.role, best.seed) == ("finalist", 1001)
    written.log_model(replace(whole, finished=False), store_with_best)
    run = written.run_id(best.key) or ""
    assert MODEL_TAG not in written.client.get_run(run).data.tags
    for _ in range(2):
        written.log_model(whole, store_with_best)
    experiment = written.client.get_experiment_by_name("written")
    assert experiment is not None
    (model,) = written.client.search_logged_models([experiment.experiment_id])
    assert written.client.get_run(run).data.tags[MODEL_TAG] == model.model_uri
    assert (model.source_run_id, str(model.status)) == (run, "READY")
    folder = Path(model.artifact_location.removeprefix("file://"))
    network = torch.export.load(folder / "data" / "model.pt2").module()
    image_unit = torch.rand(5, 1, 28, 28)
    expected = deployed_student(config_of(best, whole), store_with_best)(image_unit)
    torch.testing.assert_close(network(image_unit), expected)
    assert expected.shape == (5, 10)
    assert "hidfd" not in (folder / "requirements.txt").read_text()


def test_best_is_the_searchs_own_until_the_finalist_is_complete(part: StudySnapshot, whole: StudySnapshot) -> None:
    best = best_student(part)
    assert best is not None
    assert best.label == f"trial-{part.best}"
    assert best_student(replace(whole, comparison_rows=(), best=None)) is None


def test_deployed_student_is_the_student_behind_its_normalisation(whole: StudySnapshot, store_with_best: Store) -> None:
    best = best_student(whole)
    assert best is not None
    network = deployed_student(config_of(best, whole), store_with_best)
    own = build_backbone("resnet8", num_classes=10, channels=1)
    assert sum(p.numel() for p in own.parameters()) - 650 < sum(p.numel() for p in network.parameters())
    image_unit = torch.rand(2, 1, 28, 28)
    direct = network.student((image_unit - 0.3) / 0.3).logits
    torch.testing.assert_close(network(image_unit), direct)
    assert network(torch.rand(1, 1, 28, 28)).shape == (1, 10)
    for wrong in (torch.full((2, 1, 28, 28), 200, dtype=torch.uint8), 2 * image_unit - 1):
        with pytest.raises(RuntimeError, match=r"must be in \[0, 1\]"):
            network(wrong)
    assert resolve_device("cpu", "fp32").torch_device == next(network.parameters()).device


def test_an_experiment_that_was_deleted_on_mlflows_pages_is_restored_and_said_once(
    uri: str, part: StudySnapshot, whole: StudySnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    first = Tracker(uri, "deleted")
    first.sync(part)
    experiment = first.client.get_experiment_by_name("deleted")
    assert experiment is not None
    first.client.delete_experiment(experiment.experiment_id)
    assert Tracker(uri, "deleted").delete_runs([], really=False) == 0
    again = Tracker(uri, "deleted")
    again.sync(part)
    again.sync(whole)
    said = [record.getMessage() for record in caplog.records if "was deleted there" in record.getMessage()]
    assert len(said) == 1
    assert "is restored" in said[0]
    assert "tune forget FILE" in said[0]
    assert {run.info.run_id for run in runs_of(first)} <= {run.info.run_id for run in runs_of(again)}


def test_a_tracker_of_another_ledger_touches_no_run(uri: str, part: StudySnapshot) -> None:
    Tracker(uri, "owned", "anna", "anna's").sync(part)
    before = {run.info.run_id: run.data.tags for run in runs_of(Tracker(uri, "owned", "anna"))}
    assert {tags["hidfd.ledger"] for tags in before.values()} == {"anna"}
    for stranger in (Tracker(uri, "owned", "ben"), Tracker(uri, "owned")):
        with pytest.raises(OtherLedger, match="anna's"):
            stranger.sync(part)
        with pytest.raises(OtherLedger, match="left alone"):
            stranger.delete_runs({task.key for task in part.tasks}, really=True)
    assert {run.info.run_id: run.data.tags for run in runs_of(Tracker(uri, "owned", "anna"))} == before


def test_runs_of_an_older_version_become_the_ledgers_own_by_the_keys_of_its_tasks(
    uri: str, part: StudySnapshot
) -> None:
    older = Tracker(uri, "older")
    older.sync(part)
    stranger = older.client.create_run(older._experiment, tags={"hidfd.key": "of nobody here"})
    tracker = Tracker(uri, "older", "anna")
    tracker.sync(part)
    runs = {run.info.run_id: run.data.tags.get("hidfd.ledger") for run in runs_of(tracker)}
    assert len(runs) == len(older._runs) + 1, "no run was made twice"
    assert tracker.delete_runs({task.key for task in part.tasks}, really=True) == len(older._runs)
    assert [run.info.run_id for run in runs_of(tracker)] == [stranger.info.run_id]


def test_runs_of_an_older_version_are_not_written_twice_though_their_tasks_are_shown_later(
    uri: str, part: StudySnapshot, whole: StudySnapshot
) -> None:
    Tracker(uri, "later").sync(whole)
    before = {run.info.run_id for run in runs_of(Tracker(uri, "later"))}
    tracker = Tracker(uri, "later", "anna")
    tracker.sync(part)
    tracker.sync(whole)
    assert {run.info.run_id for run in runs_of(tracker)} == before

"""Runs in MLflow of tasks that are not finished: their curves grow, and are whole and in order in the end."""

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from hidfd.config.paths import with_values
from tests.tune.snapshots import STARTED, study_snapshot
from tune.report.champion import champion_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskKind, TaskState
from tune.tracking import tracker as tracker_module
from tune.tracking.connection import WRITTEN_TAG
from tune.tracking.points import Point, PointWriter
from tune.tracking.tracker import Tracker

CURVE, AGREEMENT = "distillation/feature", "distillation/agreement"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def running(part: StudySnapshot) -> TaskSnapshot:
    """A student that is being trained."""
    return next(task for task in part.tasks if task.state is TaskState.RUNNING and task.kind is TaskKind.STUDENT)


def told(images: Iterable[int], *, after_seconds: float = 0.0) -> list[dict[str, Any]]:
    """Rows of a student that measures once a second, at 1,000 images each; its loss is a thousandth of its images."""
    return [
        {
            "images": seen,
            "unix_time": STARTED + seen / 1000 + after_seconds,
            "seconds": seen / 1000,
            CURVE: seen / 1000,
        }
        for seen in images
    ]


def run_of(tracker: Tracker, task: TaskSnapshot | str) -> Run:
    key = task if isinstance(task, str) else task.key
    return tracker.client.get_run(tracker.run_id(key) or "")


def history(tracker: Tracker, task: TaskSnapshot, metric: str = CURVE) -> list[Metric]:
    """Return the points of a metric in the order of their steps."""
    found = tracker.client.get_metric_history(run_of(tracker, task).info.run_id, metric)
    return sorted(found, key=lambda point: (point.step, point.timestamp))


def steps(points: Iterable[Metric]) -> list[int]:
    return [point.step for point in points]


def times(points: Iterable[Metric]) -> list[float]:
    return [point.timestamp / 1000 - STARTED for point in points]


def test_a_task_has_a_run_from_its_start_whose_curves_grow(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    tracker = Tracker(uri, "grows")
    tracker.sync(part)
    assert run_of(tracker, running).info.status == "RUNNING"
    tracker.sync(part, {running.key: told([1000, 2000])})
    tracker.sync(part, {running.key: told([3000])})
    assert steps(history(tracker, running)) == [1000, 2000, 3000]
    assert times(history(tracker, running)) == [1.0, 2.0, 3.0]


def test_a_running_task_shows_its_speed_and_the_time_left(uri: str, part: StudySnapshot, running: TaskSnapshot) -> None:
    tracker = Tracker(uri, "speed")
    now = replace(running, stage="distillation", target_images=12_000)
    snapshot = replace(part, tasks=tuple(now if task is running else task for task in part.tasks))
    tracker.sync(snapshot, {running.key: told([1000, 2000])})
    tracker.sync(snapshot, {running.key: told([4000])})
    metrics = run_of(tracker, running).data.metrics
    assert metrics["progress/images_per_second"] == pytest.approx(1000)
    assert metrics["progress/seconds_left"] == pytest.approx(8)
    assert steps(history(tracker, running, "progress/seconds_left")) == [2000, 4000], "across two calls"


def test_a_driver_that_takes_over_writes_no_step_twice_and_keeps_the_order_of_times(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    Tracker(uri, "taken-over").sync(part, {running.key: told([1000, 3000])})
    second = Tracker(uri, "taken-over")  # its worker went on from 1,000 images, a minute later
    second.sync(part, {running.key: told([2000, 3000, 4000], after_seconds=60)})
    points = history(second, running)
    assert steps(points) == [1000, 2000, 3000, 4000]
    assert times(points) == [1.0, 3.0, 3.0, 64.0], "what was measured again lies no later than what was told before"


def ended(snapshot: StudySnapshot, task: TaskSnapshot, folder: Path, rows: Iterable[dict[str, Any]]) -> StudySnapshot:
    """Return a snapshot in which that task is complete and has left these rows in its folder."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    attempt = replace(task.attempts[-1], ended=STARTED + 100, end="finished")
    metrics = {"agreement": 0.9}
    done = replace(task, state=TaskState.COMPLETE, folder=str(folder), attempts=(attempt,), metrics=metrics)
    return replace(snapshot, tasks=tuple(done if other is task else other for other in snapshot.tasks))


def test_the_end_fills_the_gaps_and_nothing_else(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    Tracker(uri, "filled").sync(part, {running.key: told([2000, 4000])})
    again = Tracker(uri, "filled")
    again.sync(ended(part, running, tmp_path / "task", told(range(1000, 6000, 1000), after_seconds=60)))
    points = history(again, running)
    assert steps(points) == [1000, 2000, 3000, 4000, 5000]
    assert times(points) == [2.0, 2.0, 4.0, 4.0, 65.0]
    assert run_of(again, running).info.status == "FINISHED"
    assert times(history(again, running, "agreement")) == [100.0]


def test_what_a_lost_node_had_told_is_there_though_its_folder_is_gone(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    tracker = Tracker(uri, "lost-node")
    snapshot = ended(part, running, tmp_path / "task", [])
    shutil.rmtree(tmp_path / "task")
    tracker.sync(snapshot, {running.key: told([1000, 2000])})
    assert steps(history(tracker, running)) == [1000, 2000]


def test_a_task_that_a_new_ledger_finds_in_the_store_keeps_the_numbers_that_it_ended_with(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    first = ended(part, running, tmp_path / "task", told([1000]))
    Tracker(uri, "lost-ledger").sync(first)
    found = next(task for task in first.tasks if task.key == running.key)
    again = replace(found, seconds=0.5, reused=True, attempts=(replace(found.attempts[-1], ended=STARTED + 900),))
    tracker = Tracker(uri, "lost-ledger")
    tracker.client.delete_tag(tracker.run_id(running.key) or "", WRITTEN_TAG)
    tracker = Tracker(uri, "lost-ledger")
    tracker.sync(replace(first, tasks=tuple(again if task is found else task for task in first.tasks)))
    (point,) = history(tracker, running, "seconds")
    assert point.value == found.seconds


def test_rows_are_kept_while_the_server_is_away(
    uri: str, part: StudySnapshot, running: TaskSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(uri, "away")
    tracker.sync(part, {running.key: told([1000])})
    with monkeypatch.context() as patch:
        patch.setattr(PointWriter, "write", unreachable)
        with pytest.raises(ConnectionError):
            tracker.sync(part, {running.key: told([2000])})
    tracker.sync(part, {running.key: told([3000])})
    assert steps(history(tracker, running)) == [1000, 2000, 3000]


def unreachable(*arguments: object, **options: object) -> None:
    raise ConnectionError("the server is being restarted")


def test_the_newest_sample_grid_takes_the_place_of_the_one_before(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    tracker = Tracker(uri, "grids")
    for content in (b"first", b"second"):
        grid = tmp_path / f"generation-{content.decode()}.png"
        grid.write_bytes(content)
        drawn = replace(running, picture=str(grid))
        tracker.sync(replace(part, tasks=tuple(drawn if task is running else task for task in part.tasks)))
        run = run_of(tracker, running).info.run_id
        assert Path(tracker.client.download_artifacts(run, "pictures/samples.png")).read_bytes() == content
    assert [file.path for file in tracker.client.list_artifacts(run, "pictures")] == ["pictures/samples.png"]


def test_a_stopped_study_leaves_no_run_that_runs_and_goes_on_in_them(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    tracker = Tracker(uri, "stopped")
    tracker.sync(part)
    tracker.sync(part, {running.key: told([1000])}, is_driven=False)
    assert steps(history(tracker, running)) == [1000], "told at the very end"
    assert {status(tracker, task) for task in part.tasks if tracker.run_id(task.key)} == {"FINISHED", "KILLED"}
    assert run_of(tracker, "study").info.status == run_of(tracker, running).info.status == "KILLED"
    assert run_of(tracker, "study").data.tags["hidfd.state"] == "stopped"
    again = Tracker(uri, "stopped")
    again.sync(part)
    assert run_of(again, "study").info.status == run_of(again, running).info.status == "RUNNING"
    assert run_of(again, running).data.tags["hidfd.state"] == "running"


def status(tracker: Tracker, task: TaskSnapshot) -> str:
    return str(run_of(tracker, task).info.status)


def test_runs_of_a_killed_driver_end_when_the_next_one_has_not_yet_come_to_them(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    Tracker(uri, "killed").sync(part)
    waiting = replace(running, state=TaskState.WAITING)
    second = Tracker(uri, "killed")
    second.sync(replace(part, tasks=tuple(waiting if task is running else task for task in part.tasks)))
    assert status(second, running) == "KILLED"
    second.sync(part)
    assert status(second, running) == "RUNNING"


def test_a_task_that_is_tried_again_does_not_say_why_it_had_failed(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    failed = replace(running, state=TaskState.FAILED, reason="the disk was full")
    Tracker(uri, "again").sync(replace(part, tasks=tuple(failed if task is running else task for task in part.tasks)))
    tracker = Tracker(uri, "again")
    assert tracker.client.tracking_uri, "connected, so that it knows the runs"
    assert run_of(tracker, running).data.tags["reason"] == "the disk was full"
    tracker.sync(part)
    assert "reason" not in run_of(tracker, running).data.tags


def test_runs_of_tasks_that_the_ledger_has_lost_do_not_run_for_ever(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    Tracker(uri, "put-back").sync(part)
    second = Tracker(uri, "put-back")
    second.sync(replace(part, tasks=tuple(task for task in part.tasks if task is not running)))
    assert status(second, running) == "KILLED"


def test_a_running_evaluation_on_test_labels_has_no_run_and_holds_nothing_up(
    uri: str, part: StudySnapshot, running: TaskSnapshot
) -> None:
    tracker = Tracker(uri, "evaluates")
    evaluation = replace(running, key="e" * 64, kind=TaskKind.TEST_EVALUATION, label="x-test")
    tracker.sync(replace(part, tasks=(evaluation, *part.tasks)), {running.key: told([1000])})
    assert tracker.run_id(evaluation.key) is None
    assert steps(history(tracker, running)) == [1000]


def test_rows_that_are_damaged_or_no_numbers_are_left_out(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    damaged = [
        *({"images": 2000, CURVE: value} for value in (math.nan, math.inf, "high", None)),
        *({"images": images, CURVE: 1.0} for images in (None, "many")),
        {CURVE: 1.0},
    ]
    tracker = Tracker(uri, "damaged")
    tracker.sync(part, {running.key: [*damaged, *told([3000])]})
    tracker.sync(ended(part, running, tmp_path / "task", [*told([1000]), *damaged]))
    assert steps(history(tracker, running)) == [1000, 3000]


def test_rows_without_times_have_that_of_the_next_one(
    uri: str, part: StudySnapshot, running: TaskSnapshot, tmp_path: Path
) -> None:
    rows = [{"images": 1000, CURVE: 1.0}, *told([2000]), {"images": 3000, CURVE: 3.0}]
    tracker = Tracker(uri, "untimed")
    tracker.sync(ended(part, running, tmp_path / "task", rows))
    assert times(history(tracker, running)) == [2.0, 2.0, 100.0]


def test_one_task_that_cannot_be_written_holds_no_other_up(
    uri: str, part: StudySnapshot, running: TaskSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(task for task in part.tasks if task.state.is_final)
    tracker, settings = Tracker(uri, "refused"), tracker_module.settings_of

    def refused(task: TaskSnapshot, snapshot: StudySnapshot) -> dict[str, str]:
        return settings(task, snapshot) | ({"no, name": "x"} if task is first else {})

    monkeypatch.setattr(tracker_module, "settings_of", refused)
    with pytest.raises(MlflowException, match="no, name"):
        tracker.sync(part, {running.key: told([1000])})
    assert steps(history(tracker, running)) == [1000]
    assert run_of(tracker, "study").data.tags["hidfd.state"] == "running"
    monkeypatch.setattr(tracker_module, "settings_of", settings)
    tracker.sync(part)
    assert run_of(tracker, first).data.tags["hidfd.state"] == first.state


def test_names_of_classes_are_one_setting_whatever_they_are(uri: str, part: StudySnapshot) -> None:
    names = {str(label): name for label, name in enumerate(["bird (crane)", "it's", "a, b", *"defghij"])}
    trial = with_values(part.trial, {"data.class_names": names})
    tracker = Tracker(uri, "odd-names")
    tracker.sync(replace(part, trial=trial))
    task = next(task for task in part.tasks if tracker.run_id(task.key))
    assert json.loads(run_of(tracker, task).data.params["data.class_names"]) == names


def test_the_description_links_to_the_runs_and_one_of_somebody_else_stays(
    uri: str, part: StudySnapshot, whole: StudySnapshot
) -> None:
    tracker = Tracker(uri, "described")

    def note() -> str:
        experiment = tracker.client.get_experiment_by_name("described")
        assert experiment is not None
        return str(experiment.tags["mlflow.note.content"])

    tracker.sync(part)
    assert "viewStateShareKey=hidfd" in note()
    assert "Its samples" not in note()
    tracker.sync(whole)
    champion = champion_of(whole)
    assert champion is not None
    assert f"/runs/{tracker.run_id(champion.student.key)}/artifacts/pictures/samples.png?" in note()
    experiment = tracker.client.get_experiment_by_name("described")
    assert experiment is not None
    tracker.client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", f"Mine.\n\n{note()}")
    Tracker(uri, "described").sync(replace(whole, verdict="another"))
    assert note().startswith("Mine.")


def test_a_mean_that_changes_over_as_many_seeds_is_shown_as_it_is_now(uri: str, whole: StudySnapshot) -> None:
    tracker = Tracker(uri, "means")
    tracker.sync(whole)
    row = whole.comparison_rows[0]
    other = replace(row, means=row.means | {"agreement": 0.125})  # over other seeds, as many of them
    changed = replace(whole, comparison_rows=(other, *whole.comparison_rows[1:]), verdict="another")
    Tracker(uri, "means").sync(changed)
    assert run_of(tracker, "study").data.metrics[f"{row.name}/agreement"] == 0.125


def test_points_of_very_many_rows_come_in_calls_that_mlflow_takes(uri: str, part: StudySnapshot) -> None:
    tracker = Tracker(uri, "many")
    tracker.sync(part)
    run = run_of(tracker, "study").info.run_id
    PointWriter(tracker.client, {}).write(run, {"loss": [Point(step, 0.5, STARTED) for step in range(2500)]})
    assert len(tracker.client.get_metric_history(run, "loss")) == 2500

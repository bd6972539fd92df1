"""The monitor of a running study, without an engine."""

from pathlib import Path

from hidfd.pipeline.graph import kept_digests
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from tests.tune.world import World, definition
from tune.monitor import StudyMonitor
from tune.planner.planner import Planner
from tune.study.messages import TaskFinished
from tune.study.task import Task
from tune.tracking.background import BackgroundTracker
from tune.tracking.tracker import Tracker


def test_remove_spares_what_a_running_study_has_come_to_need(tmp_path: Path) -> None:
    study, store = definition(), Store.open(str(tmp_path / "store"))
    planner = World().planner(study)
    with BackgroundTracker(Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name)) as projection:
        monitor = StudyMonitor(planner, store, "me", projection, Observer(), lambda snapshot: None)
        monitor.write_references()
        assert store.references()[study.name] == kept_digests(study.base), "the study's own, before anything is asked"
        needed = set[str]()
        for _ in range(6):  # a collection, two generators, some students
            needed |= needs_of_next(planner)
            monitor.write_references()
            assert needed <= store.references()[study.name]


def test_remove_spares_a_student_that_ended_within_a_second_of_the_one_before(tmp_path: Path) -> None:
    study, store = definition(), Store.open(str(tmp_path / "store"))
    planner = World().planner(study)
    with BackgroundTracker(Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name)) as projection:
        monitor = StudyMonitor(planner, store, "me", projection, Observer(), lambda snapshot: None)
        for _ in range(6):
            needed = needs_of_next(planner)
            monitor()
            assert needed <= store.references()[study.name]


def needs_of_next(planner: Planner) -> set[str]:
    task = planner.next_task(1)
    assert isinstance(task, Task)
    planner.on_start(task, "here")
    planner.on_end(
        task, TaskFinished({"generator.effective_classes": 9.0, "agreement": 0.5, "validation_accuracy": 0.5})
    )
    return kept_digests(task.spec.config)

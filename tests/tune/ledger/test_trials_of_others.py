"""A ledger into whose Optuna studies somebody else has put trials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage

from tests.tune.ledger.test_mirrored_storage import shaky
from tests.tune.world import World, definition, is_killed, run, summary
from tune.engines.local import run_local
from tune.ledger import ledger as ledger_module
from tune.ledger.opening import copy_ledger, open_ledger
from tune.planner.planner import Planner
from tune.planner.state import StudyState
from tune.study.messages import Channel, TaskEnd
from tune.study.task import Task


def enqueue(storage: BaseStorage | str, name: str = "s") -> None:
    optuna.load_study(study_name=name, storage=storage).enqueue_trial({"distillation.inflation": 9.0})


def add_finished(storage: BaseStorage | str) -> None:
    study = optuna.load_study(study_name="s", storage=storage)
    study.add_trial(optuna.create_trial(value=0.99, user_attrs={"group": "mine", "note": "by hand"}))


def ask(storage: BaseStorage | str) -> None:
    optuna.load_study(study_name="s", storage=storage).ask()


@pytest.fixture(autouse=True)
def silent_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_mentioned", {})


@pytest.mark.parametrize("put", [enqueue, add_finished, ask])
@pytest.mark.parametrize("at", [5, 29])
def test_killed_study_goes_on_as_if_nobody_had_put_a_trial_between(put: Callable[..., None], at: int) -> None:
    world = World()
    assert is_killed(definition(), world, at)
    put(world.storage)
    assert is_killed(definition(), world, 7)
    put(world.storage)
    assert summary(run(definition(), world)) == summary(run(definition(), World()))


def test_trials_that_are_put_in_while_a_driver_writes_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.db"

    class Visited(World):
        def execute(self, task: Task, channel: Channel) -> TaskEnd:
            if task.label in ("generator-0", "trial-2"):
                enqueue(f"sqlite:///{path}")
                enqueue(f"sqlite:///{path}", "s/work")
            return super().execute(task, channel)

    study = definition({"num_students": 4})
    with open_ledger(str(path), "s", "agreement") as ledger:
        planner = Planner(StudyState(study, ledger), lambda: 0.0)
        run_local(planner, Visited().execute)
        ledger.requests()
        found = summary(planner)
    assert found == summary(run(study, World()))
    assert summary_of_copy(str(path)) == found["search_trials"]
    with open_ledger(str(path), "s", "agreement") as ledger:
        assert summary(Planner(StudyState(study, ledger), lambda: 0.0)) == found
    assert [trial.state.name for trial in optuna.load_study(study_name="s", storage=f"sqlite:///{path}").trials].count(
        "WAITING"
    ) == 2
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2, said
    assert all("2 trials that were added from outside" in line and "left alone" in line for line in said)


def summary_of_copy(address: str) -> object:
    state = StudyState(definition({"num_students": 4}), copy_ledger(address, "s", "agreement"), is_driven=True)
    return [(s.number, s.params, s.group, s.state, s.value, s.reason, s.rungs) for s in state.search_trials]


def test_trial_whose_commit_got_no_answer_is_found_behind_one_of_somebody_else(tmp_path: Path) -> None:
    path, study = tmp_path / "ledger.db", definition({"num_students": 4})
    with shaky(path) as (ledger, lock):
        storage = ledger._storage._database  # type: ignore[attr-defined]  # what it was opened with
        create = storage.create_new_trial

        def commit_and_lose(*arguments: object) -> int:
            enqueue(f"sqlite:///{path}")
            created: int = create(*arguments)
            if not lock.lost:
                lock.lost = 1
                lock.check()
            return created

        storage.create_new_trial = commit_and_lose
        planner = Planner(StudyState(study, ledger), lambda: 0.0)
        run_local(planner, World().execute)
        assert summary(planner) == summary(run(study, World()))

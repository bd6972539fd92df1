"""The adapter between Ray Tune and the planner without a cluster; `tests/integration/test_study.py` runs real ones."""

import json
import signal
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune import PlacementGroupFactory

from hidfd.config.study_file import ResourcesConfig
from hidfd.errors import Stopped
from tests.tune.world import World, definition
from tune.engines import ray_cluster as cluster
from tune.engines import ray_engine as engine
from tune.engines.ray_engine import Adapter
from tune.engines.ray_worker import MESSAGE
from tune.engines.worker import WorkerContext
from tune.errors import EngineError, LedgerError
from tune.planner.planner import OBEY_SECONDS, Planner
from tune.study.messages import (
    AttemptStarted,
    Done,
    PlacementGroupReserved,
    ProcessJoined,
    ProgressReport,
    TaskFinished,
    TaskLost,
    WorkerMessage,
    to_json,
)
from tune.study.states import TaskState
from tune.study.task import Task


class Trial:
    """The part of Tune's `Trial` that the adapter needs."""

    made = 0

    def __init__(self, name: str, *, config: dict[str, Any], **more: Any) -> None:
        Trial.made += 1
        self.trial_id, self.config = f"{name}_{Trial.made}", config


class StopRequests:
    """A double of the actor's handle, which keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str]] = []
        self.post = self

    def remote(self, trial_id: str, reason: str) -> None:
        self.posted.append((trial_id, reason))


@pytest.fixture
def planner() -> Planner:
    return World().planner(definition())


@pytest.fixture
def stop_requests() -> StopRequests:
    return StopRequests()


@pytest.fixture
def adapter(planner: Planner, stop_requests: StopRequests, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    monkeypatch.setattr(engine, "Trial", Trial)
    monkeypatch.setattr(engine, "alive_nodes", lambda: [("node-1", "n1")])
    monkeypatch.setattr(engine, "node_answers", lambda node: node == "n1")
    return Adapter(planner, stop_requests, 2, PlacementGroupFactory([{"CPU": 1.0}]), lambda: None)


def start(adapter: Adapter) -> tuple[str, str]:
    """Start the next task; return its trial and its label."""
    trial = adapter.next_trial({"run": "study", "storage": None})
    assert isinstance(trial, Trial)
    return trial.trial_id, json.loads(trial.config["task"])["label"]


def result_of(message: WorkerMessage) -> dict[str, Any]:
    return {MESSAGE: to_json(message)}


def task_of(planner: Planner, label: str) -> Task:
    return next(task for task in planner.state.tasks.values() if task.label == label)


def test_a_trial_that_sends_its_end_ends_so(adapter: Adapter, planner: Planner) -> None:
    trial, label = start(adapter)
    adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    adapter.on_result(trial, result_of(ProgressReport("collection", 5, 10)))
    adapter.on_result(trial, result_of(TaskFinished({}, reused=False, cpu_seconds=2.0)))
    adapter.on_end(trial, "it ended without a message")
    task = task_of(planner, label)
    assert task.outcome is not None
    assert task.outcome.state is TaskState.COMPLETE
    (attempt,) = task.attempts
    assert (attempt.node, attempt.end, attempt.images_to, attempt.cpu_seconds) == ("node-1", "finished", 5, 2.0)


def test_a_trial_whose_process_died_is_lost_and_goes_on(adapter: Adapter, planner: Planner) -> None:
    trial, label = start(adapter)
    adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    adapter.on_end(trial, "its process died")
    adapter.on_end(trial, "told twice")
    task = task_of(planner, label)
    assert [attempt.end for attempt in task.attempts] == ["lost"]
    assert planner.state.state_of(task.key) is TaskState.WAITING
    again, same = start(adapter)
    assert (same, again == trial) == (label, False)


@pytest.mark.parametrize("is_lost", [True, False])
def test_placement_group_of_several_processes_is_freed_where_their_trial_died(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    freed: list[str] = []
    monkeypatch.setattr(engine, "free_placement_group", freed.append)
    trial, _ = start(adapter)
    adapter.on_result(trial, result_of(PlacementGroupReserved("4edfc363")))
    adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    if not is_lost:
        adapter.on_result(trial, result_of(TaskFinished({}, reused=False)))
    adapter.on_end(trial, "its process died")
    assert freed == (["4edfc363"] if is_lost else []), "Ray Train gives back what came to its end"


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_trial_whose_node_is_gone_is_lost_with_it(
    adapter: Adapter, planner: Planner, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """Even while it still imports torch, when only the cluster knows which node it is on."""
    trial, label = start(adapter)
    if has_begun:
        adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    monkeypatch.setattr(engine, "node_answers", lambda node: node != "n1")
    adapter.on_end(trial, "its process died")
    assert [attempt.end for attempt in task_of(planner, label).attempts] == ["node lost"]


def test_a_node_that_accepts_no_connection_is_gone_before_the_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        port = raylet.getsockname()[1]
        node = {"NodeID": "n1", "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        monkeypatch.setattr(cluster, "_nodes", lambda: [node, node | {"NodeID": "n2", "Alive": False}])
        assert cluster.node_answers("n1")
        assert not cluster.node_answers("n2")
        assert not cluster.node_answers("unknown")
    assert not cluster.node_answers("n1")


def test_a_stop_request_is_posted_again_in_case_its_actor_was_restarted(
    adapter: Adapter, planner: Planner, stop_requests: StopRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, _ = start(adapter)
    planner.drain("asked")
    for seconds in (0.0, 1.0, engine.POST_EVERY_SECONDS + 0.1):
        monkeypatch.setattr(engine.time, "monotonic", lambda seconds=seconds: 100.0 + seconds)
        adapter.on_step()
    assert stop_requests.posted == [(trial, "asked")] * 2


def test_a_trial_that_hangs_and_does_not_obey_is_killed_and_lost(
    adapter: Adapter, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    trial = adapter.next_trial({"run": "study", "storage": None})
    assert isinstance(trial, Trial)
    trial.temporary_state = SimpleNamespace(ray_actor="its process")
    adapter.on_result(trial.trial_id, result_of(AttemptStarted("node-1", "n1")))
    adapter.on_step()
    assert killed == []
    (running,) = planner.running.values()
    running.silent_seconds = 60 * 60.0 + OBEY_SECONDS
    adapter.on_step()
    assert killed == ["its process"]
    with pytest.MonkeyPatch.context() as patch:
        said: list[TaskLost] = []
        patch.setattr(planner, "on_end", lambda task, end: said.append(end))
        adapter.on_end(trial.trial_id, "its process died")
    (end,) = said
    assert end.reason == "it was asked to stop (hung: it told nothing for 60 min), did not, and was killed"


def test_a_trial_that_ends_without_a_start_is_lost(adapter: Adapter, planner: Planner) -> None:
    trial, label = start(adapter)
    adapter.on_end(trial, "it never started")
    (attempt,) = task_of(planner, label).attempts
    assert (attempt.node, attempt.end) == ("(never started)", "lost")


def test_an_error_is_kept_and_nothing_more_starts(
    adapter: Adapter, planner: Planner, stop_requests: StopRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, _ = start(adapter)
    lost = LedgerError("the ledger cannot be written")

    def fail(*_: object) -> None:
        raise lost

    with monkeypatch.context() as patch:
        patch.setattr(planner, "on_start", fail)
        assert adapter.safely(lambda: adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))) is None
    assert adapter.error is lost
    assert adapter.next_trial({"run": "study", "storage": None}) is None, "what runs is waited for"
    adapter.on_step()
    adapter.on_step()
    assert stop_requests.posted == [(trial, str(lost))], "it is told to stop, once"
    adapter.safely(lambda: adapter.on_end(trial, "it ended without a message"))
    assert adapter.error is lost, "the first one is what is raised"
    assert isinstance(adapter.next_trial({"run": "study", "storage": None}), Done)


def test_results_of_unknown_trials_and_of_tune_itself_are_ignored(adapter: Adapter) -> None:
    adapter.on_result("stranger", result_of(AttemptStarted("node-1", "n1")))
    trial, _ = start(adapter)
    adapter.on_result(trial, {"training_iteration": 1})


def run_ray(planner: Planner) -> None:
    context = WorkerContext("store", "results", "cpu", 1)
    engine.run_ray(planner, context, concurrency=1, resources=ResourcesConfig(), environment={}, on_change=lambda: None)


def test_cluster_that_does_not_answer_is_one_clear_error(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # nobody listens there
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(EngineError, match=rf"RAY_ADDRESS={address}: no Ray cluster answers .*--engine local"):
            run_ray(planner)


@pytest.mark.parametrize("address", ["auto", "local", "ray://head:10001"])
def test_address_that_only_ray_understands_is_left_to_it(address: str) -> None:
    cluster.check_cluster_answers(address)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (SystemExit(15), Stopped),  # what Ray's own handler of SIGTERM does
        (KeyboardInterrupt(), Stopped),
        (ConnectionError("no cluster"), EngineError),
        (RuntimeError("version mismatch"), EngineError),
        (Exception("the node timed out during startup"), EngineError),  # as on a machine that is very busy
    ],
)
def test_ray_that_does_not_start_is_one_clear_error(
    raised: BaseException, expected: type[Exception], planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray puts handlers of its own in place
        raise raised

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(expected):
        run_ray(planner)
    assert signal.getsignal(signal.SIGTERM) == before


def test_ray_of_its_own_joins_nothing_that_somebody_else_has_started(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def init(**options: object) -> None:
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Stopped):
        run_ray(planner)
    assert asked["address"] == "local"


def test_a_trial_that_loses_the_node_of_any_process_is_lost_with_it(adapter: Adapter, planner: Planner) -> None:
    trial, label = start(adapter)
    adapter.on_result(trial, result_of(ProcessJoined("node-2", "n2")))  # may speak before the first process
    adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    adapter.on_result(trial, result_of(TaskLost("process 1: connection closed")))
    adapter.on_end(trial, "it ended without a message")
    (attempt,) = task_of(planner, label).attempts
    assert (attempt.node, attempt.end) == ("node-1", "node lost")


def test_the_end_that_the_first_process_sent_is_the_one_that_counts(adapter: Adapter, planner: Planner) -> None:
    trial, label = start(adapter)
    adapter.on_result(trial, result_of(AttemptStarted("node-1", "n1")))
    adapter.on_result(trial, result_of(TaskFinished({}, reused=False, cpu_seconds=2.0)))
    adapter.on_result(trial, result_of(TaskLost("process 1: it was slow to leave")))
    adapter.on_end(trial, "it ended without a message")
    assert [attempt.end for attempt in task_of(planner, label).attempts] == ["finished"]


@pytest.mark.parametrize(
    ("num_workers", "each"),
    [
        (5, {"CPU": 1, "GPU": 0.0}),
        (1, {"CPU": 3, "GPU": 0.0}),
        (1, {"CPU": 1, "GPU": 2.0}),
        (11, {"CPU": 0, "GPU": 0.1}),
    ],
)
def test_what_the_cluster_will_never_have_is_refused(
    num_workers: int, each: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}]
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    cluster.check_fits_cluster(4, {"CPU": 1, "GPU": 0.0})
    cluster.check_fits_cluster(10, {"CPU": 0, "GPU": 0.1})
    with pytest.raises(EngineError, match="will never have at once .its nodes: 2 CPUs, 0 GPUs; 2 CPUs, 1 GPU[)]"):
        cluster.check_fits_cluster(num_workers, each)


def test_a_ray_of_its_own_has_the_processors_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    cluster.check_fits_this_machine(4)
    with pytest.raises(EngineError, match="asks for 5 CPUs, and this machine has 4; lower cpus_per_worker"):
        cluster.check_fits_this_machine(5)


def test_a_node_that_is_gone_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"Alive": False, "Resources": {"CPU": 8.0}}])
    with pytest.raises(EngineError):
        cluster.check_fits_cluster(1, {"CPU": 1, "GPU": 0.0})


class ExistsOnNode:
    """A double of `os.path.exists` as a Ray task, where only the node "here" has the driver's disk."""

    def __init__(self, node: str = "") -> None:
        self._node = node

    def options(self, *, scheduling_strategy: Any) -> "ExistsOnNode":
        return ExistsOnNode(scheduling_strategy.node_id)

    def remote(self, path: str) -> bool:
        return self._node == "here" and Path(path).exists()


def test_local_store_that_another_node_does_not_see_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("here", "there")
    nodes = [{"Alive": True, "NodeID": n, "NodeManagerHostname": n, "Resources": {"CPU": 1.0}} for n in names]
    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "NodeAffinitySchedulingStrategy", lambda node, soft: SimpleNamespace(node_id=node))
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: ExistsOnNode())
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    local = WorkerContext(str(tmp_path), str(tmp_path / "results"), "cpu", 1)
    with pytest.raises(EngineError, match=r"is not the same folder on there, .* or on S3"):
        cluster.check_store_is_shared(local)
    assert not list(tmp_path.iterdir())
    cluster.check_store_is_shared(replace(local, store="s3://bucket/prefix"))
    nodes.pop()
    cluster.check_store_is_shared(local)

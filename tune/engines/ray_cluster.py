"""The Ray cluster that a study runs on: checks before the start, and the state of its nodes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import hidfd.errors
from hidfd.formatting import plural
from hidfd.store.disk import store_errors
from tune.engines.worker import WorkerContext
from tune.errors import EngineError

NODE_SECONDS = 2.0
"""Seconds that a node may take to accept a connection before it counts as gone."""

ANSWER_SECONDS = 5.0
"""Seconds that the cluster of RAY_ADDRESS may take to answer."""


def check_cluster_answers(address: str) -> None:
    """Check that the cluster's address accepts a connection: Ray itself would try for minutes.

    Raises:
        EngineError: it does not.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return  # `auto`, `local`, `ray://...`: only Ray knows how to resolve these
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_ray(address, str(error)) from error


def check_fits_this_machine(num_cpus: int) -> None:
    """Check that this machine has the CPUs of one task: a Ray of the study's own does not check them itself.

    Raises:
        EngineError: it has fewer.
    """
    available = os.cpu_count() or 1
    if num_cpus > available:
        raise EngineError(
            f"resources: a task asks for {plural(num_cpus, 'CPU')}, and this machine has {available}; lower "
            f"cpus_per_worker "
            f"or num_workers, or set RAY_ADDRESS to a cluster that has them"
        )


def check_fits_cluster(num_workers: int, each: Mapping[str, float]) -> None:
    """Check that the cluster, with nothing else on it, could run one task.

    Args:
        num_workers: processes of a task.
        each: Ray's name of a resource -> how much of it a process needs.

    Raises:
        EngineError: it could not, so that the task would wait for ever.
    """
    nodes = [node["Resources"] for node in _nodes() if node["Alive"]]
    room = sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items() if amount) for node in nodes)
    if room < num_workers:
        found = "; ".join(f"{plural(node.get('CPU', 0), 'CPU')}, {plural(node.get('GPU', 0), 'GPU')}" for node in nodes)
        raise EngineError(
            f"resources: a task asks for {num_workers} x ({plural(each['CPU'], 'CPU')}, "
            f"{plural(each['GPU'], 'GPU')}), which "
            f"this cluster will never have at once (its nodes: {found}); lower num_workers, cpus_per_worker or "
            f"gpus_per_worker, or set resources.autoscaling=true if the cluster grows by itself"
        )


def num_cluster_cpus() -> float:
    """Return the CPUs of all nodes of the cluster that are alive."""
    return sum(float(node["Resources"].get("CPU", 0.0)) for node in _nodes() if node["Alive"])


def check_store_is_shared(context: WorkerContext) -> None:
    """Check that every node sees the store, where it is a folder.

    Raises:
        EngineError: naming the nodes that do not.
    """
    if "://" in context.store:
        return
    marker = Path(context.store) / f".seen-{secrets.token_hex(8)}"
    with store_errors("writing to the store", marker):
        marker.touch()
    try:
        exists = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
        nodes = [node for node in _nodes() if node["Alive"] and node["Resources"].get("CPU")]
        answers = [
            exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            )
            for node in nodes
        ]
        sees_store = [ray.get(answer, timeout=ANSWER_SECONDS * 6) for answer in answers]
        blind = {node["NodeManagerHostname"] for node, sees in zip(nodes, sees_store, strict=True) if not sees}
    except ray.exceptions.RayError as error:
        raise EngineError(f"a node of the Ray cluster does not answer ({type(error).__name__}); try again") from error
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise EngineError(
            f"storage.store: {context.store} is not the same folder on {', '.join(sorted(blind))}, so its workers "
            f"would not find what others have built; put it on a file system that all nodes share, or on S3 (s3://...)"
        )


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return found


def free_placement_group(group: str) -> None:
    """Free the placement group of several processes whose trial has died, and end the processes that still run in it.

    Ray Train leaves that to the trial; a group that nobody frees would keep its resources from every later task. A
    group that is gone already is no error.

    Args:
        group: Ray's id of the placement group, in hexadecimal digits.
    """
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def alive_nodes() -> list[tuple[str, str]]:
    """Return host name and Ray's id of every node that is alive."""
    return [(node["NodeManagerHostname"], node["NodeID"]) for node in _nodes() if node["Alive"]]


def node_answers(node_id: str) -> bool:
    """Whether a node accepts a connection: the cluster takes up to half a minute to notice that a node is gone."""
    node = next((node for node in _nodes() if node["NodeID"] == node_id and node["Alive"]), None)
    if node is None:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), NODE_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def starting_ray(address: str | None) -> Iterator[None]:
    """Restore the signal handlers that `ray.init` replaces, and turn its errors into those of this project.

    Ray's own handlers would end the process without a message.

    Args:
        address: of the cluster; None for a Ray of the study's own.

    Raises:
        Stopped: a signal came while Ray was starting.
        EngineError: Ray does not start, or does not answer.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise hidfd.errors.Stopped("stopped by a signal while Ray was starting; nothing was under way") from error
    except Exception as error:  # Ray raises a bare one where a node takes more than 30 s to start
        raise _no_ray(address, str(error)) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _no_ray(address: str | None, reason: str) -> EngineError:
    what = "Ray does not start here" if address is None else f"RAY_ADDRESS={address}: no Ray cluster answers there"
    correct = "" if address is None else "correct the variable, unset it to have a Ray of the study's own, or "
    return EngineError(f"{what} ({reason}); {correct}use --engine local, which needs none")

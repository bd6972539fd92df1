"""The Ray cluster that a study runs on: whether it answers, has room, shares the store, and still has a node."""

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
from hidfd.store.disk import store_errors
from tune.engines.worker import WorkerContext
from tune.errors import EngineError

NODE_SECONDS = 2.0
"""How long a node may take to accept a connection before it counts as gone."""

ANSWER_SECONDS = 5.0
"""How long the cluster of RAY_ADDRESS may take to answer at all."""


def check_answers(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return  # `auto`, `local`, `ray://...`: Ray knows what they stand for
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_ray(address, str(error)) from error


def check_fits_here(num_cpus: int) -> None:
    """A Ray of the study's own is told how many processors it has, and believes it.

    Raises:
        EngineError: one task asks for more than this machine has.
    """
    here = os.cpu_count() or 1
    if num_cpus > here:
        raise EngineError(
            f"resources: a task asks for {num_cpus} CPUs, and this machine has {here}; lower cpus_per_worker "
            f"or num_workers, or set RAY_ADDRESS to a cluster that has them"
        )


def check_fits(num_workers: int, each: Mapping[str, float]) -> None:
    """The whole cluster, with nothing else on it, must be able to run one task.

    Args:
        num_workers: processes of a task.
        each: Ray's name of a resource -> how much of it a process needs.

    Raises:
        EngineError: it would wait for ever.
    """
    nodes = [node["Resources"] for node in _nodes() if node["Alive"]]
    room = sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items() if amount) for node in nodes)
    if room < num_workers:
        found = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise EngineError(
            f"resources: a task asks for {num_workers} x ({each['CPU']:g} CPUs, {each['GPU']:g} GPUs), which "
            f"this cluster will never have at once (its nodes: {found}); lower num_workers, cpus_per_worker or "
            f"gpus_per_worker, or set resources.autoscaling=true if the cluster grows by itself"
        )


def check_store_is_shared(place: WorkerContext) -> None:
    """Every node must find what the others have built.

    Raises:
        EngineError: one does not see a local store; names it.
    """
    if "://" in place.store:
        return
    marker = Path(place.store) / f".seen-{secrets.token_hex(8)}"
    with store_errors("writing to the store", marker):
        marker.touch()
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
        nodes = [node for node in _nodes() if node["Alive"] and node["Resources"].get("CPU")]
        asked = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            )
            for node in nodes
        ]
        sees = [ray.get(answer, timeout=ANSWER_SECONDS * 6) for answer in asked]
        blind = {node["NodeManagerHostname"] for node, does in zip(nodes, sees, strict=True) if not does}
    except ray.exceptions.RayError as error:
        raise EngineError(f"a node of the Ray cluster does not answer ({type(error).__name__}); try again") from error
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise EngineError(
            f"storage.store: {place.store} is not the same folder on {', '.join(sorted(blind))}, so its workers would "
            f"not find what others have built; put it on a file system that all nodes share, or on S3 (s3://...)"
        )


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return found


def free(group: str) -> None:
    """Gives back what several processes held whose trial has died: Ray Train leaves that to the trial, and nobody could
    start any more. What still runs in it ends. Of one that is gone already nothing happens.

    Args:
        group: Ray's id of the placement group, in hexadecimal digits.
    """
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def alive() -> list[tuple[str, str]]:
    """Host and Ray's id of every node that the cluster has now."""
    return [(node["NodeManagerHostname"], node["NodeID"]) for node in _nodes() if node["Alive"]]


def answers(node_id: str) -> bool:
    """Whether a node is there: the cluster itself takes up to half a minute to notice that one has gone."""
    node = next((node for node in _nodes() if node["NodeID"] == node_id and node["Alive"]), None)
    if node is None:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), NODE_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def starting(address: str | None) -> Iterator[None]:
    """Around `ray.init`, which puts signal handlers of its own in place, and they end the process without a word."""
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

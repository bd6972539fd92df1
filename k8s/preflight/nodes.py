"""Preflight: whether the nodes have room for the study's pods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s.api_paths import CORE, ApiObject
from k8s.client import Server
from k8s.config import PodConfig, Toleration
from k8s.errors import Forbidden, Refused, Unreachable
from k8s.preflight.capacity import Amounts, Pods, pods_of, shown
from k8s.preflight.check import Check, failed, passed, warned
from k8s.quantity import amount
from k8s.request import Request

AUTOSCALERS = (
    "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status",
    "/apis/karpenter.sh/v1/nodepools",
)
"""What is there where nodes come by themselves."""


def nodes(request: Request, server: Server) -> Iterator[Check]:
    """Every group's pods, then all together, against nodes that they could go to: all of what those have, whoever
    uses it now."""
    try:
        found = server.items(f"{CORE}/nodes")
    except Forbidden:
        yield warned("nodes", "may not be listed, so whether the pods fit anywhere is not known")
        return
    comes = _autoscaler(server)
    groups: dict[str, PodConfig] = {"driver": request.cluster.driver, **request.cluster.workers}
    pods = pods_of(request)
    is_enough = True
    for name, group in groups.items():
        asked, count = pods[name].asked, pods[name].least
        wanted = ", ".join(f"{shown(resource, value)} {resource}" for resource, value in asked.items())
        suitable = [node for node in found if _is_open(node, group)]
        room = sum(_times(_allocatable(node), asked) for node in suitable)
        words = f"room for {room:,} pods of {wanted}"
        is_enough &= room >= max(count, 1)
        if room >= max(count, 1):
            yield passed(f"nodes for {name}", f"{words} on {len(suitable)} nodes")
        elif comes:
            yield warned(f"nodes for {name}", f"{words} now, {count} wanted; {comes} may bring nodes")
        elif room:
            yield warned(
                f"nodes for {name}", f"{words}, {count} wanted", f"the study runs on {room}; ask for less, or add nodes"
            )
        else:
            yield failed(f"nodes for {name}", f"none has {wanted}: {_closest(found, group, asked)}", _what_to_do(name))

    if is_enough:
        yield _side_by_side(pods, groups | {"submitter": request.cluster.driver}, found, comes)


def _side_by_side(
    pods: dict[str, Pods], groups: dict[str, PodConfig], found: Sequence[ApiObject], comes: str | None
) -> Check:
    """Each pod that starts goes to the first node with room; those come first that the fewest nodes can take."""
    free = [_allocatable(node) for node in found]
    places = {
        name: [
            has
            for node, has in zip(found, free, strict=True)
            if _is_open(node, group) and _times(has, pods[name].asked)
        ]
        for name, group in groups.items()
    }
    total, placed = sum(group.least for group in pods.values()), 0
    for name in sorted(places, key=lambda name: len(places[name])):
        left = pods[name].least
        for has in places[name]:
            count = min(left, _times(has, pods[name].asked))
            for resource, asked in pods[name].asked.items():
                has[resource] -= count * asked
            left, placed = left - count, placed + count
    what = "nodes for all"
    if placed == total:
        return passed(what, f"room for all {total:,} pods that start, side by side")
    words = f"room for {placed:,} of the {total:,} pods that start, side by side"
    if comes:
        return warned(what, f"{words} now; {comes} may bring nodes")
    return warned(what, words, "ask for less, or add nodes: the other pods wait until these have ended")


def _is_open(node: ApiObject, group: PodConfig) -> bool:
    """Whether labels and taints let a pod of the group go there."""
    labels = node["metadata"].get("labels") or {}
    spec = node.get("spec") or {}
    if spec.get("unschedulable") or any(labels.get(key) != value for key, value in group.node_selector.items()):
        return False
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return all(any(_tolerates(toleration, taint) for toleration in group.tolerated) for taint in taints)


def _tolerates(toleration: Toleration, taint: ApiObject) -> bool:
    if toleration.effect not in (None, taint["effect"]) or toleration.key not in (None, taint["key"]):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == str(taint.get("value", ""))


def _allocatable(node: ApiObject) -> Amounts:
    has = (node.get("status") or {}).get("allocatable") or {}
    return {resource: amount(quantity) for resource, quantity in has.items()}


def _times(has: Amounts, asked: Amounts) -> int:
    return min(int(has.get(resource, 0.0) // value) for resource, value in asked.items())


def _closest(found: Sequence[ApiObject], group: PodConfig, asked: Amounts) -> str:
    if not found:
        return "there are no nodes"
    suitable = [node for node in found if _is_open(node, group)]
    if not suitable:
        taints = {
            f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
            for node in found
            for taint in (node.get("spec") or {}).get("taints") or []
        }
        return (
            f"of {len(found)} none has the labels of node_selector {group.node_selector or '(none)'} and only "
            f"tolerated taints (their taints: {', '.join(sorted(taints)) or 'none'})"
        )
    largest = {resource: max(_allocatable(node).get(resource, 0.0) for node in suitable) for resource in asked}
    has = ", ".join(f"{shown(resource, value)} {resource}" for resource, value in largest.items())
    return f"of {len(suitable)} suitable ones the largest have {has}"


def _what_to_do(name: str) -> str:
    where = "cluster.driver" if name == "driver" else f"cluster.workers.{name}"
    return f"ask for less under {where}, or mend its node_selector and tolerations; else its pods would wait for ever"


def _autoscaler(server: Server) -> str | None:
    hidden: str | None = None
    for path in AUTOSCALERS:
        try:
            if server.get(path):
                return "karpenter" if "karpenter" in path else "the cluster autoscaler"
        except (Forbidden, Unreachable):
            hidden = "an autoscaler, if there is one (it could not be looked for),"
        except Refused:
            continue
    return hidden

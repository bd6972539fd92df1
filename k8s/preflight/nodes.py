"""Check that the nodes have room for the study's pods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hidfd.formatting import plural
from k8s.api_paths import CORE, ApiObject
from k8s.client import Server
from k8s.config import PodConfig, Toleration
from k8s.errors import Forbidden, Refused, Unreachable
from k8s.preflight.capacity import Amounts, PodGroup, in_words, pod_groups
from k8s.preflight.check import Check, failed, passed, warned
from k8s.quantity import amount
from k8s.request import Request

AUTOSCALERS = (
    "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status",
    "/apis/karpenter.sh/v1/nodepools",
)
"""Objects that exist where an autoscaler adds nodes."""


def nodes(request: Request, server: Server) -> Iterator[Check]:
    """Compare the pods of every group, then all together, with the nodes that they could go to.

    A node counts with all that it has, whoever uses it now.
    """
    try:
        found = server.items(f"{CORE}/nodes")
    except Forbidden:
        yield warned("nodes", "may not be listed, so whether the pods fit anywhere is not known")
        return
    autoscaler = _autoscaler(server)
    groups: dict[str, PodConfig] = {"driver": request.cluster.driver, **request.cluster.workers}
    pods = pod_groups(request)
    is_enough = True
    for name, group in groups.items():
        asked, count = pods[name].requests, pods[name].min_pods
        wanted = ", ".join(f"{in_words(resource, value)} {resource}" for resource, value in asked.items())
        suitable = [node for node in found if _admits(node, group)]
        room = sum(_num_fitting(_allocatable(node), asked) for node in suitable)
        words = f"room for {plural(room, 'pod')} of {wanted}"
        is_enough &= room >= max(count, 1)
        if room >= max(count, 1):
            yield passed(f"nodes for {name}", f"{words} on {plural(len(suitable), 'node')}")
        elif autoscaler:
            yield warned(f"nodes for {name}", f"{words} now, {count} wanted; {autoscaler} may bring nodes")
        elif room:
            yield warned(
                f"nodes for {name}", f"{words}, {count} wanted", f"the study runs on {room}; ask for less, or add nodes"
            )
        else:
            yield failed(f"nodes for {name}", f"none has {wanted}: {_largest(found, group, asked)}", _what_to_do(name))

    if is_enough:
        yield _all_together(pods, groups | {"submitter": request.cluster.driver}, found, autoscaler)


def _all_together(
    pods: dict[str, PodGroup], groups: dict[str, PodConfig], found: Sequence[ApiObject], autoscaler: str | None
) -> Check:
    """Place each pod of the start on the first node with room, beginning with those that the fewest nodes can take."""
    free = [_allocatable(node) for node in found]
    places = {
        name: [
            has
            for node, has in zip(found, free, strict=True)
            if _admits(node, group) and _num_fitting(has, pods[name].requests)
        ]
        for name, group in groups.items()
    }
    total, placed = sum(group.min_pods for group in pods.values()), 0
    for name in sorted(places, key=lambda name: len(places[name])):
        left = pods[name].min_pods
        for has in places[name]:
            count = min(left, _num_fitting(has, pods[name].requests))
            for resource, asked in pods[name].requests.items():
                has[resource] -= count * asked
            left, placed = left - count, placed + count
    what = "nodes for all"
    if placed == total:
        return passed(what, f"room for all {plural(total, 'pod that starts', 'pods that start')}, side by side")
    words = f"room for {placed:,} of the {plural(total, 'pod that starts', 'pods that start')}, side by side"
    if autoscaler:
        return warned(what, f"{words} now; {autoscaler} may bring nodes")
    return warned(what, words, "ask for less, or add nodes: the other pods wait until these have ended")


def _admits(node: ApiObject, group: PodConfig) -> bool:
    """Whether the labels and taints of a node let a pod of the group go there."""
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


def _num_fitting(has: Amounts, asked: Amounts) -> int:
    """Return how many pods of a size fit into what a node has."""
    return min(int(has.get(resource, 0.0) // value) for resource, value in asked.items())


def _largest(found: Sequence[ApiObject], group: PodConfig, asked: Amounts) -> str:
    """Describe the largest nodes that the group may go to, or why there are none."""
    if not found:
        return "there are no nodes"
    suitable = [node for node in found if _admits(node, group)]
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
    has = ", ".join(f"{in_words(resource, value)} {resource}" for resource, value in largest.items())
    return f"of {len(suitable)} suitable ones the largest have {has}"


def _what_to_do(name: str) -> str:
    where = "cluster.driver" if name == "driver" else f"cluster.workers.{name}"
    return (
        f"ask for less under {where}, or correct its node_selector and tolerations; else its pods would wait for ever"
    )


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

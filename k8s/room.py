"""Preflight: whether quota, nodes and groups have room for what is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from k8s.check import Check, Server, failed, passed, warned
from k8s.errors import Forbidden, Refused, Unreachable
from k8s.manifest import ray_pods, render
from k8s.paths import CORE, core
from k8s.quantity import amount
from k8s.request import Request
from k8s.spec import PodConfig, Toleration, WorkerGroup

Object = dict[str, Any]
Amounts = dict[str, float]

AUTOSCALERS = (
    "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status",
    "/apis/karpenter.sh/v1/nodepools",
)
"""What is there where nodes come by themselves."""


def quota(request: Request, server: Server) -> Iterator[Check]:
    """Everything that the study holds at most, against what every ResourceQuota has left."""
    found = server.items(core(request.cluster.namespace, "resourcequotas"))
    if not found:
        yield passed("quota", "none")
        return
    least, most = _held(request, at_most=False), _held(request, at_most=True)
    short: list[str] = []
    for each in found:
        if each.get("spec", {}).get("scopes") or each.get("spec", {}).get("scopeSelector"):
            continue  # of other pods, or of some of these
        status = each.get("status") or {}
        for key, hard in (status.get("hard") or {}).items():
            resource = key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
            left = amount(hard) - amount((status.get("used") or {}).get(key, "0"))
            if most.get(resource, 0.0) > left:
                will = "will" if least[resource] > left else "may"
                needed = least[resource] if will == "will" else most[resource]
                short.append(
                    f"{will} not suffice: {each['metadata']['name']}: {key}: {_amount(resource, left)} of {hard} left, "
                    f"{_amount(resource, needed)} needed"
                )
    if not short:
        yield passed("quota", f"{', '.join(each['metadata']['name'] for each in found)}: enough is left")
    elif any(words.startswith("will") for words in short):
        yield failed("quota", "; ".join(short), "ask for less under cluster.workers, or for a larger quota")
    else:
        yield warned("quota", "; ".join(short), "the groups will grow no further than the quota")


def limit_range(request: Request, server: Server) -> Iterator[Check]:
    """Every container, against the least and the most that one may have."""
    wrong: list[str] = []
    for each in server.items(core(request.cluster.namespace, "limitranges")):
        for limit in each["spec"]["limits"]:
            if limit["type"] not in ("Container", "Pod"):
                continue
            for group, (template, _) in ray_pods(request).items():
                for resource, asked in _requests(template["spec"]).items():
                    low, high = limit.get("min", {}).get(resource), limit.get("max", {}).get(resource)
                    if (low is not None and asked < amount(low)) or (high is not None and asked > amount(high)):
                        wrong.append(
                            f"{group} asks for {_amount(resource, asked)} {resource}, "
                            f"{each['metadata']['name']} allows {low or 'anything'} to {high or 'anything'}"
                        )
    if wrong:
        yield failed(
            "limit range", "; ".join(wrong), "ask for what is allowed under cluster.driver and cluster.workers"
        )
    else:
        yield passed("limit range", "kept")


def nodes(request: Request, server: Server) -> Iterator[Check]:
    """Every group's pods, against nodes that they could go to: all of what those have, whoever uses it now."""
    try:
        found = server.items(f"{CORE}/nodes")
    except Forbidden:
        yield warned("nodes", "may not be listed, so whether the pods fit anywhere is not known")
        return
    comes = _autoscaler(server)
    groups: dict[str, PodConfig] = {"driver": request.cluster.driver, **request.cluster.workers}
    for name, (template, _) in ray_pods(request).items():
        group, asked = groups[name], _requests(template["spec"])
        count = group.count if isinstance(group, WorkerGroup) else 1
        wanted = ", ".join(f"{_amount(resource, value)} {resource}" for resource, value in asked.items())
        suitable = [node for node in found if _is_open(node, group)]
        room = sum(_times(node, asked) for node in suitable)
        words = f"room for {room:,} pods of {wanted}"
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


def pieces_of_work(request: Request, server: Server) -> Iterator[Check]:
    """`resources:`, against what one pod has."""
    name, asked = "a piece of work", request.resources
    words = f"{asked.num_workers} x {asked.cpus_per_worker} CPUs and {asked.gpus_per_worker:g} GPUs"
    groups = list(request.cluster.workers.values())
    processes = sum(_processes(group.cpus, group.gpus, request) * group.most for group in groups)
    if not groups:
        processes = _processes(request.cluster.driver.cpus, 0, request)
    side = processes // asked.num_workers
    if not processes:
        yield failed(name, f"{words}: no pod has as much", "ask for less under resources:, or for larger pods")
    elif not side:
        yield failed(
            name, f"{words}: there is room for {processes} of its processes", "raise the groups' count, or ask for less"
        )
    elif side < request.concurrency:
        yield warned(
            name,
            f"{words}: {side} side by side, study.concurrency is {request.concurrency}",
            "raise the groups' count, or lower study.concurrency",
        )
    else:
        yield passed(name, f"{words}: {side} side by side, study.concurrency is {request.concurrency}")


def _processes(cpus: int, gpus: int, request: Request) -> int:
    asked = request.resources
    by_gpu = math.inf if not asked.gpus_per_worker else math.floor(gpus / asked.gpus_per_worker + 1e-9)
    return int(min(cpus // asked.cpus_per_worker, by_gpu))


def _held(request: Request, *, at_most: bool) -> Amounts:
    """By the whole study: Ray's pods and the one that submits."""
    submitter = render(request).ray_job["spec"]["submitterPodTemplate"]["spec"]
    pods = [(template["spec"], most) for template, most in ray_pods(request).values()]
    if not at_most:
        counts = {"driver": 1} | {name: group.count for name, group in request.cluster.workers.items()}
        pods = [(template["spec"], counts[name]) for name, (template, _) in ray_pods(request).items()]
    total: Amounts = {"pods": 0.0}
    for spec, count in [*pods, (submitter, 1)]:
        total["pods"] += count
        for resource, asked in _requests(spec).items():
            total[resource] = total.get(resource, 0.0) + count * asked
    return total


def _requests(spec: Object) -> Amounts:
    total: Amounts = {}
    for container in spec["containers"]:
        for resource, asked in container["resources"]["requests"].items():
            total[resource] = total.get(resource, 0.0) + amount(asked)
    return total


def _is_open(node: Object, group: PodConfig) -> bool:
    """Whether labels and taints let a pod of the group go there."""
    labels = node["metadata"].get("labels") or {}
    spec = node.get("spec") or {}
    if spec.get("unschedulable") or any(labels.get(key) != value for key, value in group.node_selector.items()):
        return False
    taints = [taint for taint in spec.get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return all(any(_tolerates(toleration, taint) for toleration in group.tolerations) for taint in taints)


def _tolerates(toleration: Toleration, taint: Object) -> bool:
    if toleration.effect not in (None, taint["effect"]) or toleration.key not in (None, taint["key"]):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == str(taint.get("value", ""))


def _times(node: Object, asked: Amounts) -> int:
    has = (node.get("status") or {}).get("allocatable") or {}
    return min(int(amount(has.get(resource, "0")) // value) for resource, value in asked.items())


def _closest(found: Sequence[Object], group: PodConfig, asked: Amounts) -> str:
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
    largest = {
        resource: max(amount(node["status"]["allocatable"].get(resource, "0")) for node in suitable)
        for resource in asked
    }
    has = ", ".join(f"{_amount(resource, value)} {resource}" for resource, value in largest.items())
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


def _amount(resource: str, value: float) -> str:
    return f"{value / 2**30:.3g}Gi" if resource == "memory" else f"{value:g}"

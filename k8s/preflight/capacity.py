"""Check that quotas, limits and the groups of workers have room for the study's pods and tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hidfd.formatting import plural
from k8s.api_paths import ApiObject, core
from k8s.client import Server
from k8s.manifest import ray_pods, render
from k8s.preflight.check import Check, failed, passed, warned
from k8s.quantity import amount
from k8s.request import Request

Amounts = dict[str, float]
"""Resource -> amount in its own unit."""

WAITS_FOR_HEAD: ApiObject = {"name": "wait-gcs-ready", "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}}}
"""An init container that KubeRay adds to every worker's pod."""


@dataclass(frozen=True)
class PodGroup:
    """A group of equal pods.

    Attributes:
        spec: spec of each pod, with the containers that KubeRay adds.
        min_pods: number of pods at the start.
        max_pods: largest number of pods.
    """

    spec: ApiObject
    min_pods: int
    max_pods: int

    @property
    def requests(self) -> Amounts:
        """Requests of one pod: of its containers together, or of an init container where that is more."""
        total: Amounts = {}
        for container in self.spec["containers"]:
            for resource, asked in container_requests(container).items():
                total[resource] = total.get(resource, 0.0) + asked
        for container in self.spec.get("initContainers", []):
            for resource, asked in container_requests(container).items():
                total[resource] = max(total.get(resource, 0.0), asked)
        return total


def pod_groups(request: Request) -> dict[str, PodGroup]:
    """Return all pods of a study by their group: Ray's pods, and the submitter."""
    workers, found = request.cluster.workers, {}
    for name, (template, max_pods) in ray_pods(request).items():
        if name in workers:
            spec = template["spec"] | {"initContainers": [WAITS_FOR_HEAD]}
            found[name] = PodGroup(spec, workers[name].count, max_pods)
        else:
            found[name] = PodGroup(template["spec"], 1, max_pods)
    return found | {"submitter": PodGroup(render(request).ray_job["spec"]["submitterPodTemplate"]["spec"], 1, 1)}


def container_requests(container: ApiObject) -> Amounts:
    """Return the requests of one container, which are its limits as well."""
    return {resource: amount(asked) for resource, asked in container["resources"]["requests"].items()}


def in_words(resource: str, value: float) -> str:
    """Format the amount of a resource for people."""
    return f"{value / 2**30:.3g}Gi" if resource == "memory" else f"{value:g}"


def quota(request: Request, server: Server) -> Iterator[Check]:
    """Compare all that the study holds, at its start and at most, with what every ResourceQuota has left."""
    found = server.items(core(request.cluster.namespace, "resourcequotas"))
    if not found:
        yield passed("quota", "none")
        return
    least, most = _total_requests(request, at_most=False), _total_requests(request, at_most=True)
    short: list[str] = []
    for each in found:
        if each.get("spec", {}).get("scopes") or each.get("spec", {}).get("scopeSelector"):
            continue  # it is for other pods, or for some of these
        status = each.get("status") or {}
        for key, hard in (status.get("hard") or {}).items():
            resource = key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
            left = amount(hard) - amount((status.get("used") or {}).get(key, "0"))
            if resource in most and most[resource] > left:
                will = "will" if least.get(resource, 0.0) > left else "may"
                needed = least[resource] if will == "will" else most[resource]
                short.append(
                    f"{will} not suffice: {each['metadata']['name']}: {key}: "
                    f"{in_words(resource, left)} of {hard} left, {in_words(resource, needed)} needed"
                )
    if not short:
        yield passed("quota", f"{', '.join(each['metadata']['name'] for each in found)}: enough is left")
    elif any(words.startswith("will") for words in short):
        yield failed("quota", "; ".join(short), "ask for less under cluster.workers, or for a larger quota")
    else:
        yield warned("quota", "; ".join(short), "the groups will grow no further than the quota")


def limit_range(request: Request, server: Server) -> Iterator[Check]:
    """Compare every container and every pod with the least and the most that a LimitRange allows."""
    asking: dict[str, list[tuple[str, Amounts]]] = {"Container": [], "Pod": []}
    for group, pods in pod_groups(request).items():
        asking["Pod"].append((group, pods.requests))
        for container in [*pods.spec.get("initContainers", []), *pods.spec["containers"]]:
            asking["Container"].append((f"{container['name']} of {group}", container_requests(container)))
    wrong: list[str] = []
    for each in server.items(core(request.cluster.namespace, "limitranges")):
        for limit in each["spec"]["limits"]:
            for who, amounts in asking.get(limit["type"], []):
                for resource, asked in amounts.items():
                    low, high = limit.get("min", {}).get(resource), limit.get("max", {}).get(resource)
                    if (low is not None and asked < amount(low)) or (high is not None and asked > amount(high)):
                        wrong.append(
                            f"{who} asks for {in_words(resource, asked)} {resource}, "
                            f"{each['metadata']['name']} allows {low or 'anything'} to {high or 'anything'}"
                        )
    if wrong:
        yield failed(
            "limit range",
            "; ".join(wrong),
            "ask for what is allowed under cluster.driver and cluster.workers; autoscaler, wait-gcs-ready and "
            "ray-job-submitter always ask for the same, and need a wider range",
        )
    else:
        yield passed("limit range", "kept")


def task(request: Request, server: Server) -> Iterator[Check]:
    """Compare `resources:`, which a task gets, with what one pod has."""
    name, asked = "a task", request.resources
    words = f"{asked.num_workers} x {plural(asked.cpus_per_worker, 'CPU')} and {plural(asked.gpus_per_worker, 'GPU')}"
    groups = list(request.cluster.workers.values())
    processes = sum(_processes(group.cpus, group.gpus, request) * group.max_pods for group in groups)
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
    idle = [key for key, group in request.cluster.workers.items() if group.gpus and not asked.gpus_per_worker]
    if idle:
        yield warned("GPUs", f"{', '.join(idle)}: no task asks for one", "set resources.gpus_per_worker")


def _processes(cpus: int, gpus: int, request: Request) -> int:
    asked = request.resources
    by_gpu = math.inf if not asked.gpus_per_worker else math.floor(gpus / asked.gpus_per_worker + 1e-9)
    return int(min(cpus // asked.cpus_per_worker, by_gpu))


def _total_requests(request: Request, *, at_most: bool) -> Amounts:
    """Return what all pods of the study request together, at the start or at most."""
    total: Amounts = {"pods": 0.0}
    for pods in pod_groups(request).values():
        count = pods.max_pods if at_most else pods.min_pods
        total["pods"] += count
        for resource, asked in pods.requests.items():
            total[resource] = total.get(resource, 0.0) + count * asked
    return total

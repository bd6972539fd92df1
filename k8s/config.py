"""The `cluster:` section of a study file: where a study runs on Kubernetes, and on what."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hidfd.config.schema import Section
from hidfd.config.study_file import ENVIRONMENT, has_plain_password
from k8s.names import check_label, check_subdomain
from k8s.quantity import amount


def _quantity(text: str) -> str:
    if amount(text) == 0:
        raise ValueError(f"{text!r} is nothing; expected more than 0")
    return text


def _not_the_pods_own(path: str) -> str:
    if path in FOLDERS:
        raise ValueError(f"{path} is the pods' own folder; mount the claim in another one, such as /mnt/hidfd")
    return path


def _not_the_driver(name: str) -> str:
    if name in ("driver", "head", "headgroup"):
        raise ValueError(f"{name!r} is the driver's own group; give this one another name")
    return name


FOLDERS = ("/dev/shm", "/etc/hidfd", "/tmp", "/work")
"""What `k8s.manifest` mounts in pods."""

PLACES = frozenset(ENVIRONMENT.values())
"""Environment variables that say where things are kept."""

SECRET = r"PASSW|PASSWD|PWD$|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_KEY(?!_ID)"
"""Names of environment variables that hold one."""

Label = Annotated[str, AfterValidator(check_label)]
GroupName = Annotated[str, AfterValidator(check_label), AfterValidator(_not_the_driver)]
VolumeKey = Annotated[str, AfterValidator(check_label), Field(max_length=57)]  # `claim-` stands before it
Name = Annotated[str, AfterValidator(check_subdomain)]
Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_quantity)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]


class Toleration(Section):
    """As in a pod."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: Text | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.key is None and self.operator == "Equal":
            raise ValueError("operator: without a key only Exists is possible, which tolerates everything")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: operator Exists takes none")
        return self


class PodConfig(Section):
    """What one pod asks for, and gets exactly."""

    cpus: int = Field(default=2, ge=1)
    """Processors."""

    memory: Quantity = "4Gi"
    """Main memory."""

    shared_memory: Quantity = "1Gi"
    """Of that, at /dev/shm, where Ray keeps its objects; Kubernetes' own 64 MiB are too few."""

    node_selector: dict[str, Text] = Field(default_factory=dict)
    """Labels that its node must have."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that it may go to; where it asks for GPUs, that of their name (gpu_resource) with the effect
    NoSchedule need not be said."""

    @model_validator(mode="after")
    def _shares_its_memory(self) -> Self:
        if amount(self.shared_memory) > amount(self.memory):
            raise ValueError(f"shared_memory: {self.shared_memory} is a part of memory, which is {self.memory}")
        return self

    @property
    def tolerated(self) -> tuple[Toleration, ...]:
        """All taints of nodes that it may go to."""
        return self.tolerations


class WorkerGroup(PodConfig):
    """Pods of one kind, which do the work."""

    cpus: int = Field(default=4, ge=1)
    """Processors."""

    memory: Quantity = "8Gi"
    """Main memory."""

    count: int = Field(default=1, ge=0)
    """Pods; where the group grows, at least so many."""

    max_count: int | None = Field(default=None, ge=1)
    """Pods that it may grow to while work waits for room; null: it does not grow."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of each pod."""

    gpu_resource: str = "nvidia.com/gpu"
    """What the nodes call them."""

    spot: bool = False
    """Its nodes may be taken away at any time: they are left to the autoscaler, and a pod has time to save."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_count is not None and self.max_count < max(self.count, 1):
            raise ValueError(f"max_count: {self.max_count} is below count, which is {self.count}")
        if self.max_count is None and self.count == 0:
            raise ValueError("count: 0 and no max_count would be a group that never has a pod")
        return self

    @property
    def tolerated(self) -> tuple[Toleration, ...]:
        """Pods with GPUs may go to nodes that keep all others off, as the chart's may."""
        gpus = Toleration(key=self.gpu_resource, operator="Exists", effect="NoSchedule")
        return (*self.tolerations, gpus) if self.gpus and gpus not in self.tolerations else self.tolerations

    @property
    def most(self) -> int:
        """Pods at most."""
        return self.count if self.max_count is None else self.max_count


class SecretKey(Section):
    """One value of a Secret in the namespace. Values themselves have no place in a study file."""

    secret: Name
    """The Secret's name."""

    key: str
    """Its key."""


class Volume(Section):
    """A PersistentVolumeClaim in every pod."""

    claim: Name
    """Its name."""

    mount_path: Annotated[str, Field(pattern=r"^/[^:]*[^/:]$"), AfterValidator(_not_the_pods_own)]
    """Where the pods see it."""

    read_only: bool = False
    """Nothing is written there."""


class ClusterConfig(Section):
    """The whole section."""

    namespace: Label
    """Where everything is made. It has to exist."""

    image: str = Field(min_length=1, pattern=r"^\S+$")
    """Of every pod: this project's (see Dockerfile), best by digest, so that a retry runs what the first try ran."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes ask the registry."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets for the registry."""

    driver: PodConfig = Field(default_factory=PodConfig)
    """The pod of Ray's head, in which the study is driven. Without workers it does the work as well."""

    workers: dict[GroupName, WorkerGroup] = Field(default_factory=dict)
    """Groups of pods that do the work, by name."""

    driver_service_account: Name = "default"
    """Of the driver's pod; the chart makes one for it. It has no token, unless groups grow."""

    worker_service_account: Name = "default"
    """Of all others."""

    queue: Name | None = None
    """Kueue's LocalQueue, which decides when the job may start."""

    priority_class: Name | None = None
    """Of all pods."""

    retries: int = Field(default=3, ge=0, le=100)
    """How often the study goes on in a new Ray cluster after the driver or its node has died."""

    deadline_hours: float | None = Field(default=None, gt=0.0)
    """The job fails after so long and is not tried again; what is done is kept. KubeRay counts anew for a retry and
    after a suspension: `study.budget.wall_hours` bounds all tries together. Not with keep_minutes."""

    keep_minutes: float = Field(default=0.0, ge=0.0)
    """How long Ray's pods, with their logs, stay when the job has ended. Not with deadline_hours."""

    drain_seconds: int = Field(default=75, ge=0, le=3600)
    """How long a worker's pod that has to go may work on. It saves every few seconds from then on."""

    token: bool = True
    """Whether Ray asks everyone for a token, which KubeRay makes."""

    environment: dict[Variable, Text] = Field(default_factory=dict)
    """Environment variables of all pods, such as HIDFD_STORE or AWS_ENDPOINT_URL. No secrets."""

    secrets: dict[Variable, SecretKey] = Field(default_factory=dict)
    """Environment variables of all pods from Secrets."""

    volumes: dict[VolumeKey, Volume] = Field(default_factory=dict)
    """Claims, by a name of your own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        twice = sorted(set(self.environment) & set(self.secrets))
        if twice:
            raise ValueError(f"secrets.{twice[0]}: stands in environment as well")
        literal = [name for name in sorted(PLACES) if "${" in self.environment.get(name, "")]
        if literal:
            raise ValueError(f"environment.{literal[0]}: ${{NAME}} is not filled in there, but under `storage:` it is")
        plain = [
            name
            for name, value in self.environment.items()
            if re.search(SECRET, name, re.IGNORECASE) or has_plain_password(value)
        ]
        if plain:
            raise ValueError(
                f"environment.{plain[0]}: looks like a secret, which would be readable for everyone who sees the job; "
                f"put it into a Secret and name that under secrets"
            )
        if self.deadline_hours is not None and self.keep_minutes:
            raise ValueError(
                "keep_minutes: with deadline_hours the study would work on for that time after its deadline, since "
                "KubeRay stops it only as it takes the pods away; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _mounts_each_folder_once(self) -> Self:
        mounted: dict[str, str] = {}
        for name, volume in self.volumes.items():
            other = mounted.setdefault(volume.mount_path, name)
            if other != name:
                raise ValueError(
                    f"volumes.{name}.mount_path: {volume.mount_path} is that of volumes.{other}; a folder can hold one "
                    f"claim only"
                )
        return self

    @property
    def grows(self) -> bool:
        """Whether any group does."""
        return any(group.max_count is not None for group in self.workers.values())

    @property
    def num_pods(self) -> int:
        """Ray's pods at most."""
        return 1 + sum(group.most for group in self.workers.values())

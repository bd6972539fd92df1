"""The `cluster:` section of a study file: where on Kubernetes a study runs, and in which pods."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hidfd.config.section import Section
from hidfd.config.storage import ENVIRONMENT, has_plain_password
from k8s.names import check_label, check_subdomain
from k8s.quantity import amount


def _more_than_nothing(text: str) -> str:
    if amount(text) == 0:
        raise ValueError(f"{text!r} is nothing; expected more than 0")
    return text


def _no_folder_of_every_pod(path: str) -> str:
    if path in POD_FOLDERS:
        raise ValueError(f"{path} is the pods' own folder; mount the claim in another one, such as /mnt/hidfd")
    return path


def _no_name_of_the_driver(name: str) -> str:
    if name in ("driver", "head", "headgroup"):
        raise ValueError(f"{name!r} is the driver's own group; give this one another name")
    return name


POD_FOLDERS = ("/dev/shm", "/etc/hidfd", "/tmp", "/work")
"""Folders that `k8s.manifest` mounts in every pod."""

STORAGE_VARIABLES = frozenset(ENVIRONMENT.values())
"""Environment variables that name the store, the ledger and the tracking server."""

SECRET_PATTERN = r"PASSW|PASSWD|PWD$|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_KEY(?!_ID)"
"""Names of environment variables whose values are secrets."""

Label = Annotated[str, AfterValidator(check_label)]
GroupName = Annotated[str, AfterValidator(check_label), AfterValidator(_no_name_of_the_driver)]
VolumeKey = Annotated[str, AfterValidator(check_label), Field(max_length=57)]  # a volume is called `claim-` and this
Name = Annotated[str, AfterValidator(check_subdomain)]
Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_more_than_nothing)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]


class Toleration(Section):
    """A taint of nodes that a pod may go to, as in a pod's own `tolerations`."""

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
    """The resources of one pod, which are its requests and its limits, and the nodes that it may go to."""

    cpus: int = Field(default=2, ge=1)
    """Processors."""

    memory: Quantity = "4Gi"
    """Main memory."""

    shared_memory: Quantity = "1Gi"
    """The part of the memory that is /dev/shm, where Ray keeps its objects; Kubernetes' own 64 MiB are too few."""

    node_selector: dict[str, Text] = Field(default_factory=dict)
    """Labels that its node must have."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that it may go to. A pod with GPUs tolerates the taint of their name (gpu_resource) with the
    effect NoSchedule without an entry here."""

    @model_validator(mode="after")
    def _shares_its_memory(self) -> Self:
        if amount(self.shared_memory) > amount(self.memory):
            raise ValueError(f"shared_memory: {self.shared_memory} is a part of memory, which is {self.memory}")
        return self

    @property
    def tolerated(self) -> tuple[Toleration, ...]:
        """The taints of nodes that it may go to."""
        return self.tolerations


class WorkerGroup(PodConfig):
    """A group of equal pods that run the study's tasks."""

    cpus: int = Field(default=4, ge=1)
    """Processors."""

    memory: Quantity = "8Gi"
    """Main memory."""

    count: int = Field(default=1, ge=0)
    """Number of pods; the least one where the group grows."""

    max_count: int | None = Field(default=None, ge=1)
    """Number of pods that the group may grow to while tasks wait for room; null: it does not grow."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of each pod."""

    gpu_resource: str = "nvidia.com/gpu"
    """Name of the GPUs as a resource of the nodes."""

    spot: bool = False
    """Whether its nodes may be taken away at any time; the cluster's autoscaler may then evict its pods, which have
    drain_seconds to save."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_count is not None and self.max_count < max(self.count, 1):
            raise ValueError(f"max_count: {self.max_count} is below count, which is {self.count}")
        if self.max_count is None and self.count == 0:
            raise ValueError("count: 0 and no max_count would be a group that never has a pod")
        return self

    @property
    def tolerated(self) -> tuple[Toleration, ...]:
        """The taints of nodes that it may go to, that of its GPUs among them, as for the chart's own workers."""
        gpus = Toleration(key=self.gpu_resource, operator="Exists", effect="NoSchedule")
        return (*self.tolerations, gpus) if self.gpus and gpus not in self.tolerations else self.tolerations

    @property
    def max_pods(self) -> int:
        """The largest number of pods."""
        return self.count if self.max_count is None else self.max_count


class SecretKey(Section):
    """A key of a Secret in the namespace. The values of secrets are never written into a study file."""

    secret: Name
    """Name of the Secret."""

    key: str
    """Key of the value."""


class Volume(Section):
    """A PersistentVolumeClaim that every pod mounts."""

    claim: Name
    """Name of the claim."""

    mount_path: Annotated[str, Field(pattern=r"^/[^:]*[^/:]$"), AfterValidator(_no_folder_of_every_pod)]
    """Folder in which the pods mount it."""

    read_only: bool = False
    """Whether it is mounted for reading only."""


class ClusterConfig(Section):
    """The section `cluster:`."""

    namespace: Label
    """Namespace in which everything is created. It has to exist."""

    image: str = Field(min_length=1, pattern=r"^\S+$")
    """Image of every pod: this project's (see Dockerfile), best by digest, so that a retry runs what the first try
    ran."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image from the registry."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with the registry's credentials."""

    driver: PodConfig = Field(default_factory=PodConfig)
    """The pod of Ray's head, in which the study's driver runs. Without workers it runs the tasks as well."""

    workers: dict[GroupName, WorkerGroup] = Field(default_factory=dict)
    """Name -> a group of pods that run tasks."""

    driver_service_account: Name = "default"
    """Service account of the driver's pod; the chart makes one for it. Its token is mounted only where groups grow."""

    worker_service_account: Name = "default"
    """Service account of all other pods."""

    queue: Name | None = None
    """LocalQueue of Kueue, which decides when the job may start."""

    priority_class: Name | None = None
    """Priority class of all pods."""

    retries: int = Field(default=3, ge=0, le=100)
    """Number of times that the study goes on in a new Ray cluster after the driver or its node has died."""

    deadline_hours: float | None = Field(default=None, gt=0.0)
    """Hours after which the job fails and is not tried again; what is done is kept. KubeRay counts anew for a retry and
    after a suspension: `study.budget.wall_hours` bounds all tries together. Not with keep_minutes."""

    keep_minutes: float = Field(default=0.0, ge=0.0)
    """Minutes that Ray's pods, with their logs, stay after the job has ended. Not with deadline_hours."""

    drain_seconds: int = Field(default=75, ge=0, le=3600)
    """Seconds that a worker's pod may go on after it is told to end. It saves every few seconds from then on."""

    token: bool = True
    """Whether Ray accepts only requests with a token, which KubeRay makes."""

    environment: dict[Variable, Text] = Field(default_factory=dict)
    """Environment variables of all pods, such as HIDFD_STORE or AWS_ENDPOINT_URL. No secrets."""

    secrets: dict[Variable, SecretKey] = Field(default_factory=dict)
    """Environment variables of all pods whose values are in Secrets."""

    volumes: dict[VolumeKey, Volume] = Field(default_factory=dict)
    """Name of your own -> a claim that all pods mount."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        twice = sorted(set(self.environment) & set(self.secrets))
        if twice:
            raise ValueError(f"secrets.{twice[0]}: is given under environment as well; keep one of them")
        literal = [name for name in sorted(STORAGE_VARIABLES) if "${" in self.environment.get(name, "")]
        if literal:
            raise ValueError(f"environment.{literal[0]}: ${{NAME}} is not filled in there, but under `storage:` it is")
        plain = [
            name
            for name, value in self.environment.items()
            if re.search(SECRET_PATTERN, name, re.IGNORECASE) or has_plain_password(value)
        ]
        if plain:
            raise ValueError(
                f"environment.{plain[0]}: looks like a secret, which would be readable for everyone who sees the job; "
                f"put it into a Secret and name that under secrets"
            )
        if self.deadline_hours is not None and self.keep_minutes:
            raise ValueError(
                "keep_minutes: with deadline_hours the study would go on for that time after its deadline, since "
                "KubeRay stops it only when it deletes the pods; leave one of them out"
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
        """Whether any group of workers grows."""
        return any(group.max_count is not None for group in self.workers.values())

    @property
    def num_pods(self) -> int:
        """The largest number of Ray's pods."""
        return 1 + sum(group.max_pods for group in self.workers.values())

"""Tasks: what a task makes, the attempts at it, and how it ended. Torch-free.

A trial is a chain of tasks: a build of the collection, a build of the generator with its images, and the student. A
task is known by the digest of what it makes, so trials that need the same generator share its build, and a real-only
student needs none. The test evaluation of a student is a task of its own, which no trial contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.pipeline.graph import needed, plan, test_evaluation_of
from tune.study.states import Role, TaskKind, TaskState


@dataclass(frozen=True)
class TaskSpec:
    """The specification of a task: what it makes, which follows from a trial's configuration alone.

    Attributes:
        key: digest of its last artifact, 64 hex digits.
        kind: what it builds, which decides its last stage.
        needs: keys of the tasks that must be complete before it.
        makes: digests of all artifacts that it makes unless they are in the store already, without imports.
        trajectory: digest of its generator's training without its length, if it trains one; two lengths of one
            trajectory are never trained side by side.
        generator: digest of that generator.
        target_images: images at which its training loop ends, if it has one.
        operations: estimated floating-point operations of its own stages; 0 where they are not counted.
        config: the trial that it belongs to.
    """

    key: str
    kind: TaskKind
    needs: tuple[str, ...]
    makes: frozenset[str]
    trajectory: str | None
    generator: str | None
    target_images: int | None
    operations: float
    config: TrialConfig = field(repr=False)

    @property
    def costs_like(self) -> tuple[TaskKind, str]:
        """The kind and, of students, the method, which tasks of the same cost per operation share."""
        return self.kind, self.config.method if self.kind is TaskKind.STUDENT else "hidfd"

    @property
    def seed(self) -> int:
        """The seed of its main stage; of a student and its test evaluation that of distillation."""
        seeds = self.config.seeds
        own = {TaskKind.COLLECTION: seeds.collection, TaskKind.GENERATOR: seeds.generation}
        return own.get(self.kind, seeds.distillation)


def task_specs(config: TrialConfig) -> tuple[TaskSpec, ...]:
    """Return the specifications of a trial's tasks in the order in which they can run, the student last.

    Args:
        config: a trial whose materials have their sha256.
    """
    stages = plan(config)
    specs: list[TaskSpec] = []
    for kind in (TaskKind.COLLECTION, TaskKind.GENERATOR, TaskKind.STUDENT):
        if kind is TaskKind.GENERATOR and not config.uses_generator:
            continue
        chain = [stage for stage in needed(stages, kind.last_stage) if stage.name != "import"]
        digests = frozenset(stage.digest for stage in chain)
        targets = {
            TaskKind.GENERATOR: config.generation.target_images,
            TaskKind.STUDENT: config.distillation.target_images,
        }
        trains_generator = kind is TaskKind.GENERATOR
        earlier = {digest for spec in specs for digest in spec.makes}
        specs.append(
            TaskSpec(
                key=chain[-1].digest,
                kind=kind,
                needs=tuple(spec.key for spec in specs if spec.key in digests),
                makes=digests,
                trajectory=stages["generation"].trajectory if trains_generator else None,
                generator=stages["generation"].digest if trains_generator else None,
                target_images=targets.get(kind),
                operations=sum(stage.operations for stage in chain if stage.digest not in earlier),
                config=config,
            )
        )
    return tuple(specs)


def test_evaluation_spec(config: TrialConfig) -> TaskSpec:
    """Return the specification of the test evaluation of a trial's student; the trial must have `data.test`."""
    stage = test_evaluation_of(plan(config))
    student = stage.inputs["evaluation"]
    return TaskSpec(
        stage.digest, TaskKind.TEST_EVALUATION, (student,), frozenset([stage.digest]), None, None, None, 0.0, config
    )


def recorded_trial(record: Mapping[str, Any]) -> TrialConfig:
    """Return the trial that a ledger has as plain JSON; one that says nothing of it had validation images collected.

    Raises:
        ValidationError: this version does not know the settings.
    """
    if record["data"]["validation"] is not None:
        record = {**record, "collection": {"leaves_out_validation": False, **record["collection"]}}
    return TrialConfig.model_validate(record)


def upstream_key(config: TrialConfig) -> str:
    """Return the key of a trial's synthetic images, or of its collection where it has none: what students may share."""
    return task_specs(config)[-2].key


@dataclass
class Attempt:
    """An attempt at a task: one time that an engine ran it. `AttemptSnapshot` describes the other fields.

    `last_seen` and `ended` are `started` plus the seconds that passed by a monotonic clock, so that a jump of the
    machine's clock changes no duration.

    Attributes:
        run: number of the driver that ran it (`Ledger.epoch`); None in older ledgers.
        begun: seconds of that driver's monotonic clock at its start; None in older ledgers.
    """

    node: str
    resources: dict[str, float]
    started: float
    last_seen: float
    ended: float | None = None
    images_from: int = 0
    images_to: int = 0
    end: str | None = None
    cpu_seconds: float | None = None
    stage: str | None = None
    run: int | None = None
    begun: float | None = None

    @property
    def start(self) -> float:
        """Seconds at its start, by a clock that all attempts of one driver share and that never jumps."""
        return self.started if self.begun is None else self.begun

    @property
    def seconds(self) -> float:
        """Seconds for which it ran, until it was last heard of if it has not ended."""
        return (self.ended or self.last_seen) - self.started

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as the ledger keeps it."""
        return asdict(self)


@dataclass
class Outcome:
    """The final outcome of a task.

    Attributes:
        state: one of the final states.
        reason: in words; None for most complete tasks.
        metrics: final measurements; of a pruned student those at the rung that dropped it.
        reused: whether every stage was found in the store.
        build_seconds: time that building what it makes took, without interruptions, now or when it was built; None
            where nothing says it, as in older ledgers.
        answers: measure -> `hidfd.metrics.answers.Answers` as plain JSON; empty for students of the search, of which no
            two are compared image by image, and in older ledgers.
    """

    state: TaskState
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reused: bool = False
    build_seconds: float | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as the ledger keeps it; without answers where there are none, as in older ledgers."""
        return {name: value for name, value in asdict(self).items() if name != "answers" or value}


@dataclass
class Task:
    """A task of a study: its specification, who asked for it, the attempts at it, and how it ended.

    Attributes:
        number: 0, 1, ... in order of creation.
        spec: what it makes.
        role: who asked for it first.
        label: unique in the study, the name of its folder.
        trial: number of the search trial that asked for it first, if one did.
        params: dotted path -> value, where the trial differs from the study's own `trial:`.
        rungs: student images at which it is compared; empty for all but students of the search.
        snapshots_at_images: shorter lengths of its generator that other tasks waited for when it was started last.
        outcome: None until it has ended for good.
        attempts: in order of time.
    """

    number: int
    spec: TaskSpec
    role: Role
    label: str
    trial: int | None
    params: dict[str, Any]
    rungs: tuple[int, ...] = ()
    snapshots_at_images: tuple[int, ...] = ()
    outcome: Outcome | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The digest of its last artifact."""
        return self.spec.key

    @property
    def config(self) -> TrialConfig:
        """The trial that it runs: that of its specification, with the snapshots that other tasks wait for."""
        if not self.snapshots_at_images:
            return self.spec.config
        asked = (*self.spec.config.generation.snapshots_at_images, *self.snapshots_at_images)
        return with_values(self.spec.config, {"generation.snapshots_at_images": tuple(sorted(set(asked)))})

    @property
    def seconds(self) -> float:
        """Seconds for which all its attempts ran, until each was last heard of."""
        return sum(attempt.seconds for attempt in self.attempts)

    def record(self) -> dict[str, Any]:
        """Return plain JSON of all but its attempts, as the ledger keeps it; `restore` is the inverse."""
        return {
            "key": self.key,
            "kind": self.spec.kind.recorded_as,
            "until": self.spec.kind.last_stage,
            "role": self.role,
            "label": self.label,
            "trial": self.trial,
            "params": self.params,
            "needs": list(self.spec.needs),
            "config": self.spec.config.model_dump(mode="json"),
            "target_images": self.spec.target_images,
            "rungs": list(self.rungs),
            "snapshots_at_images": list(self.snapshots_at_images),
            "outcome": self.outcome.to_json() if self.outcome else None,
        }

    @classmethod
    def restore(cls, number: int, record: Mapping[str, Any], attempts: list[Attempt]) -> Task:
        """Return the task that `record` wrote.

        The task keeps its recorded key: where the VERSION of a stage was raised since, the configuration has another
        key now, and the results under the old key are not results of the new one.
        """
        config = recorded_trial(record["config"])
        kind = TaskKind(record["until"])
        if kind is TaskKind.TEST_EVALUATION:
            spec = test_evaluation_spec(config)
        else:
            spec = next(spec for spec in task_specs(config) if spec.kind is kind)
        spec = replace(spec, key=record["key"], needs=tuple(record["needs"]))
        outcome = record["outcome"]
        return cls(
            number=number,
            spec=spec,
            role=record["role"],
            label=record["label"],
            trial=record["trial"],
            params=record["params"],
            rungs=tuple(record["rungs"]),
            snapshots_at_images=tuple(record.get("snapshots_at_images", ())),  # older ledgers know none
            outcome=Outcome(**{**outcome, "state": TaskState(outcome["state"])}) if outcome else None,
            attempts=attempts,
        )

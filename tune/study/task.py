"""A task: a build, a student or an opening, what its run tells, and how it ends. Torch-free.

A trial is a chain of pieces: a build of the collection, a build of the generator with its images, and the student.
Pieces are known by the digest of what they make, so trials that need the same generator share its build, and a
real-only student needs none. Opening the test labels for a student is a piece of its own, which no trial contains.
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
    """What a task makes, from its configuration alone.

    Attributes:
        key: digest of its last artifact, 64 hex digits.
        kind: what it makes, which says its last stage.
        needs: keys of the pieces before it.
        makes: digests of every artifact that it makes unless it is there already, imports apart.
        trajectory: of the generator it trains; two lengths of one trajectory are never trained side by side.
        generator: digest of that generator.
        target_images: of its training loop, if it has one.
        operations: estimated floating-point operations of its own stages; 0 where they are not counted.
        config: the trial it belongs to.
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
    def seed(self) -> int:
        seeds = self.config.seeds
        own = {TaskKind.COLLECTION: seeds.collection, TaskKind.GENERATOR: seeds.generation}
        return own.get(self.kind, seeds.distillation)


def task_specs(config: TrialConfig) -> tuple[TaskSpec, ...]:
    """The pieces of a trial in the order in which they can run, the student last.

    Args:
        config: a trial whose materials carry their sha256.
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
    """Opening the test labels for the student of a trial whose `data.test` is given."""
    stage = test_evaluation_of(plan(config))
    student = stage.inputs["evaluation"]
    return TaskSpec(
        stage.digest, TaskKind.TEST_EVALUATION, (student,), frozenset([stage.digest]), None, None, None, 0.0, config
    )


def upstream_key(config: TrialConfig) -> str:
    """Names the synthetic images of a trial (or its collection, where it has none): what students may share."""
    return task_specs(config)[-2].key


@dataclass
class Attempt:
    """One time that a task ran; see `AttemptSnapshot`."""

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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the ledger keeps it."""
        return asdict(self)


@dataclass
class Outcome:
    """How a task ended for good.

    Attributes:
        state: one of the final states.
        reason: in words, where it is not simply complete.
        metrics: final numbers; of a pruned student those of its last rung.
        reused: every stage was found in the store.
    """

    state: TaskState
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the ledger keeps it."""
        return asdict(self)


@dataclass
class Task:
    """A piece and its story in this study.

    Attributes:
        number: order of creation.
        piece: what it makes.
        role: who asked first.
        label: unique in the study; names its folder.
        trial: the search trial that asked first, if one did.
        params: dotted path -> value, where it differs from the study's own `trial:`.
        rungs: student images at which it is compared; empty for builds, variants, finalists and controls.
        snapshots_at_images: shorter lengths of its generator that others waited for when it started last.
        outcome: None until it has ended for good.
        attempts: in order.
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
        return self.spec.key

    @property
    def config(self) -> TrialConfig:
        """What it runs: its piece's trial, with the snapshots that others wait for."""
        if not self.snapshots_at_images:
            return self.spec.config
        asked = (*self.spec.config.generation.snapshots_at_images, *self.snapshots_at_images)
        return with_values(self.spec.config, {"generation.snapshots_at_images": tuple(sorted(set(asked)))})

    def record(self) -> dict[str, Any]:
        """Plain JSON of all but its attempts, as the ledger keeps it; `restore` is its inverse."""
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
        """The task that `record` was made of.

        It keeps its recorded key: where a stage's VERSION was raised since, the configuration has another key now, and
        what was made under the old one does not answer for it.
        """
        config = TrialConfig.model_validate(record["config"])
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

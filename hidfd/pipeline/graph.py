"""The stage graph: the artifacts that a trial needs, and the digest that names each one.

A digest is the sha256 of canonical JSON of all that the artifact depends on: the stage's own settings (only those that
change its result), the digests of the inputs that it really consumes, its seed, its `VERSION` and the precision. So a
real-only student holds no synthesis digest, and every generator shares it. Torch-free: a plan costs milliseconds.

    import/candidates -------+--> collection --+--> generation --> synthesis --+
    import/validation, test -+        ^        |                               +--> distillation --> evaluation
    (pixel hashes alone)              |        |                               |
    import/teacher_images --> teacher +--------+-------------------------------+                     ^
                                                                        import/judge, synthesis -----+

With another `trial.method` there is no generation and no synthesis, and the method's own code builds `distillation`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, get_args

from hidfd.config.methods import Method
from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from hidfd.pipeline.network_sizes import NetworkRole, description_of, outside_networks
from hidfd.pipeline.stage_specs import STAGE_SPECS, StageSpec

VERSIONS = {
    "import": 1,
    "teacher": 1,
    "collection": 1,
    "generation": 3,
    "synthesis": 1,
    "distillation": 1,
    "evaluation": 1,
    "dafl": 1,
    "cmi": 1,
    "dfnd": 1,
}
"""Version of each stage, and of the stage `distillation` of each method beside HiDFD. Raise it when code changes its
numbers; `tests/hidfd/stages/test_golden.py` asks for it."""

OTHER_METHODS = tuple(method for method in get_args(Method) if method != "hidfd")
"""The methods beside HiDFD, whose students have versions of their own."""

STAGE_NAMES = tuple(name for name in VERSIONS if name not in OTHER_METHODS)
"""The stages of a trial, in their order."""

TEST_EVALUATION = "opening"
"""The stage name of a test evaluation in the store."""

TEACHER_CHECK = "teacher_check"
"""The stage name of a check of the teacher in the store."""


NETWORK_SIZE = "network_size"
"""The stage name of the size of a network from elsewhere in the store."""


_versions_in_use: ContextVar[Mapping[str, int] | None] = ContextVar("versions_in_use", default=None)


def use_versions(versions: Mapping[str, int] | None) -> None:
    """Plan with other versions of stages from here on, in this context: those of an older study that is only read.

    Args:
        versions: stage name -> version; this code's own where it lacks one, and for None.
    """
    _versions_in_use.set(versions)


def versions_in_use() -> Mapping[str, int]:
    """Return the version of each stage that plans are made with."""
    return VERSIONS if (versions := _versions_in_use.get()) is None else versions


@dataclass(frozen=True)
class Stage:
    """One artifact of a trial.

    Attributes:
        name: the stage that builds it, one of `STAGE_NAMES`; also the artifact's folder in the store.
        role: for imports, the purpose of the images (`candidates`, `test`, ...); else the name again.
        digest: the artifact's name in the store, 64 hex digits.
        inputs: role -> digest of every artifact that it reads.
        identity: the content that the digest is taken of.
        operations: estimated floating-point operations of building it, for expected seconds; 0 where data dominates.
        trajectory: for `generation`, the digest without the length: a longer run continues a shorter one.
        target_images: for `generation`, that length.
    """

    name: str
    role: str
    digest: str
    inputs: dict[str, str]
    identity: dict[str, Any] = field(repr=False)
    operations: float = 0.0
    trajectory: str | None = None
    target_images: int | None = None

    @property
    def builder(self) -> str:
        """The key of its VERSION: its name or, for the student of another method, the method."""
        return str(self.identity.get("stage", self.name))

    @property
    def checkpoints(self) -> str:
        """The digest under which its checkpoints are kept: the lengths of one trajectory share them."""
        return self.trajectory or self.digest


def digest_of(content: Any) -> str:
    """Return the sha256 of canonical JSON (sorted keys, no spaces, no NaN), 64 hex digits."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def plan(config: TrialConfig) -> dict[str, Stage]:
    """Return every artifact of a trial by role, in an order in which each can be built.

    Args:
        config: a trial whose materials all have their sha256 (`hidfd.data.identify.identify`).

    Raises:
        ConfigError: a material has no sha256.
    """
    stages: dict[str, Stage] = {}
    for spec in STAGE_SPECS:
        if spec.is_part_of(config):
            roles = spec.inputs + tuple(role for role in spec.optional_inputs if role in stages)
            stages[spec.role] = _stage_of(spec, config, {role: stages[role].digest for role in roles})
    return stages


def _stage_of(spec: StageSpec, config: TrialConfig, inputs: dict[str, str]) -> Stage:
    builder = spec.method or spec.name
    identity = {
        "stage": builder,
        "version": versions_in_use().get(builder, VERSIONS[builder]),
        "settings": spec.settings(config),
        "inputs": inputs,
        "seed": None if spec.seed is None else getattr(config.seeds, spec.seed),
        "precision": config.precision if spec.depends_on_precision else None,
    }
    digest, operations = digest_of(identity), spec.operations(config)
    if spec.target_images is None:
        return Stage(spec.name, spec.role, digest, inputs, identity, operations)
    images = spec.target_images(config)
    length = digest_of({"trajectory": digest, "images": images})
    return Stage(spec.name, spec.role, length, inputs, identity, operations, digest, images)


def snapshots(config: TrialConfig) -> tuple[Stage, ...]:
    """Return the shorter generators that a trial keeps while it trains its own, shortest first.

    Each is the generator of a trial with that `target_images`.
    """
    if not config.uses_generator:
        return ()
    generation, found = config.generation, []
    for images in sorted(set(generation.snapshots_at_images)):
        if images < generation.target_images:
            shorter = generation.model_copy(update={"target_images": images})
            found.append(plan(config.model_copy(update={"generation": shorter}))["generation"])
    return tuple(found)


def kept_digests(config: TrialConfig) -> set[str]:
    """Return the digests of all that a trial needs in the store, with the checkpoints that a longer one continues."""
    planned = plan(config)
    sizes = [network_size_of(config, role) for role in outside_networks(config)]
    stages = (*planned.values(), teacher_check_of(planned), *snapshots(config), *sizes)
    return {digest for stage in stages for digest in (stage.digest, stage.checkpoints)}


def needed(stages: dict[str, Stage], until: str) -> Iterator[Stage]:
    """Yield the stages that `until` needs, itself last, in building order.

    Args:
        until: the name of a stage; `import` means all imports.

    Raises:
        ConfigError: the trial has no such stage.
    """
    if until == "import":
        yield from (stage for stage in stages.values() if stage.name == "import")
        return
    last = next((stage for stage in stages.values() if stage.name == until), None)
    if last is None:
        raise ConfigError(f"this trial has no stage {until!r}; it has: {', '.join(stages)}")
    wanted = {last.digest}
    for stage in reversed(stages.values()):
        if stage.digest in wanted:
            wanted.update(stage.inputs.values())
    yield from (stage for stage in stages.values() if stage.digest in wanted)


def test_evaluation_of(stages: dict[str, Stage]) -> Stage:
    """Return the test evaluation of a trial: a record in the store that no stage reads.

    Raises:
        ConfigError: the study file names no test split.
    """
    if "test" not in stages:
        raise ConfigError("trial.data.test: the study file names no test split")
    inputs = {role: stages[role].digest for role in ("evaluation", "test")}
    return Stage(TEST_EVALUATION, TEST_EVALUATION, digest_of(inputs), inputs, inputs)


def teacher_check_of(stages: dict[str, Stage]) -> Stage:
    """Return the check of a trial's teacher: a record in the store that no stage reads, so no digest depends on it."""
    roles: tuple[str, ...] = ("teacher", "candidates", "validation")
    inputs = {role: stages[role].digest for role in roles if role in stages}
    return Stage(TEACHER_CHECK, TEACHER_CHECK, digest_of({"stage": TEACHER_CHECK, "inputs": inputs}), inputs, inputs)


def network_size_of(config: TrialConfig, role: NetworkRole) -> Stage:
    """Return the size of a network from elsewhere: a record in the store that no stage reads."""
    identity = description_of(config, role)
    inputs: dict[str, str] = {}
    return Stage(
        NETWORK_SIZE, f"{role}_size", digest_of({"stage": NETWORK_SIZE, "version": 1, **identity}), inputs, identity
    )

"""The stage graph: which artifacts a trial needs, and the digest that names each one.

A digest is the sha256 of canonical JSON of all that the artifact depends on: the stage's own settings (only those that
change its result), the digests of the inputs that it really consumes, its seed, its `VERSION` and the precision. So a
real-only student holds no synthesis digest, and every generator shares it. Torch-free: a plan costs milliseconds.

    import/candidates ----+--> collection --+--> generation --> synthesis --+
    import/test (hashes) -+        ^        |                               +--> distillation --> evaluation
    import/teacher_images --> teacher ------+-------------------------------+
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hidfd.config.architectures import ARCHITECTURES
from hidfd.config.schema import Material, TrialConfig
from hidfd.errors import ConfigError

VERSIONS = {
    "import": 1,
    "teacher": 1,
    "collection": 1,
    "generation": 2,
    "synthesis": 1,
    "distillation": 1,
    "evaluation": 1,
}
"""Raise a stage's number when its code changes its numbers; `tests/hidfd/stages/test_golden.py` fails until it is."""

STAGE_NAMES = tuple(VERSIONS)

MATERIAL_SETTINGS = {
    "candidates": "data.candidates",
    "validation": "data.validation",
    "test": "data.test",
    "synthesis": "data.synthetic",
    "teacher_images": "teacher.train.images",
    "teacher": "teacher.checkpoint",
}
"""Role of what is made of a user's material -> where the study file names the material, below `trial`."""


@dataclass(frozen=True)
class Stage:
    """One artifact of a trial.

    Attributes:
        name: the stage, one of `STAGE_NAMES`; also the artifact's folder in the store.
        role: for imports, what the images are for (`candidates`, `test`, ...); else the name again.
        digest: 64 hex digits.
        inputs: role -> digest of every artifact that it reads.
        identity: what the digest was taken of.
        trajectory: for `generation`, the digest without its length: a longer run continues a shorter one.
        target_images: for `generation`, that length.
        operations: estimated floating-point operations of building it, for expected seconds; 0 where data dominates.
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
    def checkpoints(self) -> str:
        """The digest that its checkpoints are kept under: lengths of one trajectory share them."""
        return self.trajectory or self.digest


def digest_of(content: Any) -> str:
    """sha256 of canonical JSON (sorted keys, no spaces, no NaN), 64 hex digits."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def result_settings(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that change a result: all but outcome-neutral fields, materials by content only."""
    settings: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("outcome_neutral"):
            continue
        value = getattr(section, name)
        settings[name] = result_settings(value) if isinstance(value, BaseModel) else value
    return settings


def plan(config: TrialConfig) -> dict[str, Stage]:
    """Every artifact of a trial by role, in an order in which each can be built.

    Args:
        config: a trial whose materials all carry their sha256 (`hidfd.data.identify.identify`).

    Raises:
        ConfigError: a material has no sha256.
    """
    stages: dict[str, Stage] = {}
    data, teacher, seeds = config.data, config.teacher, config.seeds

    def add(
        name: str,
        settings: Any,
        inputs: dict[str, str],
        *,
        role: str | None = None,
        seed: int | None = None,
        precision: bool = False,
        operations: float = 0.0,
        images: int | None = None,
    ) -> str:
        identity: dict[str, Any] = {
            "stage": name,
            "version": VERSIONS[name],
            "settings": settings,
            "inputs": inputs,
            "seed": seed,
            "precision": config.precision if precision else None,
        }
        digest = digest_of(identity)
        trajectory = None
        if images is not None:
            trajectory, digest = digest, digest_of({"trajectory": digest, "images": images})
        role = role or name
        stages[role] = Stage(name, role, digest, inputs, identity, operations, trajectory, images)
        return digest

    def add_import(role: str, material: Material, *, size: int = data.image_size_pixels, labelled: bool) -> str:
        settings = {
            "source": _content(material, role),
            "channels": data.channels,
            "image_size_pixels": size,
            "fit": data.fit,
            "num_classes": data.num_classes if labelled else None,
        }
        return add("import", settings, {}, role=role)

    candidates = add_import("candidates", data.candidates, labelled=False)
    splits: dict[str, str] = {}
    for role in ("validation", "test"):
        material = getattr(data, role)
        if material is not None:
            splits[role] = add_import(role, material, labelled=True)

    teacher_settings = result_settings(teacher) | {"num_classes": data.num_classes, "channels": data.channels}
    teacher_flops = _forward_flops(teacher.architecture, teacher.width, data.image_size_pixels)
    if teacher.train is not None:
        teacher_settings["train"].pop("images")
        images = add_import("teacher_images", teacher.train.images, labelled=True)
        teacher_digest = add(
            "teacher",
            teacher_settings,
            {"teacher_images": images},
            seed=seeds.teacher,
            precision=True,
            operations=3 * teacher_flops * teacher.train.target_images,
        )
    else:
        assert teacher.checkpoint is not None
        teacher_settings["checkpoint"] = _content(teacher.checkpoint, "teacher.checkpoint")
        teacher_digest = add("teacher", teacher_settings, {})

    collection_inputs = {"candidates": candidates, "teacher": teacher_digest}
    if "test" in splits:
        collection_inputs["test"] = splits["test"]
    collection = add(
        "collection", result_settings(config.collection), collection_inputs, seed=seeds.collection, precision=True
    )

    synthetic: str | None = None
    if data.synthetic is not None:
        synthetic = add_import("synthesis", data.synthetic, labelled=False)
    elif config.uses_generator:
        generation_settings = result_settings(config.generation)
        target_images = generation_settings.pop("target_images")
        _drop_inactive(config, generation_settings)
        generation = add(
            "generation",
            generation_settings,
            {"collection": collection, "teacher": teacher_digest},
            seed=seeds.generation,
            precision=True,
            operations=(_gan_step_flops(config) + 4 * teacher_flops) * target_images,
            images=target_images,
        )
        synthetic = add(
            "synthesis",
            result_settings(config.synthesis),
            {"generation": generation, "teacher": teacher_digest},
            seed=seeds.synthesis,
            precision=True,
        )

    student_settings = result_settings(config.distillation)
    # Whatever the student learns from, the hold-out shows the map to imitate, and measures on the way.
    student_inputs = {"teacher": teacher_digest, "collection": collection}
    if synthetic is not None:
        student_inputs["synthesis"] = synthetic
    if not (config.uses_real_images and config.uses_synthetic_images):
        student_settings.pop("inflation")  # with one source there is nothing to mix
    if config.distillation.kl_weight == 0:
        student_settings.pop("kl_temperature")
    if config.distillation.schedule != "steps":
        student_settings.pop("decay_at")
        student_settings.pop("decay_factor")
    student_flops = _forward_flops(config.distillation.architecture, config.distillation.width, data.image_size_pixels)
    distillation = add(
        "distillation",
        student_settings,
        student_inputs,
        seed=seeds.distillation,
        precision=True,
        operations=(teacher_flops + 3 * student_flops) * config.distillation.target_images,
    )

    evaluation_inputs = {"distillation": distillation, "teacher": teacher_digest, "collection": collection}
    if "validation" in splits:
        evaluation_inputs["validation"] = splits["validation"]
    add("evaluation", None, evaluation_inputs, precision=True)
    return stages


def snapshots(config: TrialConfig) -> tuple[Stage, ...]:
    """The shorter generators that training a trial's own leaves on its way, shortest first.

    Each is what a trial of that `target_images` has.
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
    """Names of all in the store that a trial rests on, and of what a longer generator goes on from."""
    stages = (*plan(config).values(), *snapshots(config))
    return {digest for stage in stages for digest in (stage.digest, stage.checkpoints)}


def needed(stages: dict[str, Stage], until: str) -> Iterator[Stage]:
    """The stages that `until` (a stage name) rests on, itself last, in building order."""
    last = next((stage for stage in stages.values() if stage.name == until and until != "import"), None)
    if until == "import":
        yield from (stage for stage in stages.values() if stage.name == "import")
        return
    if last is None:
        raise ConfigError(f"this trial has no stage {until!r}; it has: {', '.join(stages)}")
    wanted = {last.digest}
    for stage in reversed(stages.values()):
        if stage.digest in wanted:
            wanted.update(stage.inputs.values())
    yield from (stage for stage in stages.values() if stage.digest in wanted)


def test_evaluation_of(stages: dict[str, Stage]) -> Stage:
    """The opening of a trial's test labels: a record in the store that no stage rests on.

    Args:
        stages: of the trial.

    Raises:
        ConfigError: the study file names no test split.
    """
    if "test" not in stages:
        raise ConfigError("trial.data.test: the study file names no test split")
    inputs = {role: stages[role].digest for role in ("evaluation", "test")}
    return Stage("opening", "opening", digest_of(inputs), inputs, inputs)


def _drop_inactive(config: TrialConfig, settings: dict[str, Any]) -> None:
    """Takes out of the generation's settings what its other settings have switched off."""
    if not config.smoothing_is_on:
        settings["smoothing"] = None
    elif config.generation.smoothing.mode != "effective":
        settings["smoothing"].pop("beta")
    weights = config.generation.integration
    if weights.blend_weight == 0:
        settings["integration"].pop("pairing")
    if weights.trans_weight == weights.blend_weight == 0:
        settings["integration"].pop("hidden_width")


def _content(material: Material, where: str) -> str:
    if material.sha256 is None:
        raise ConfigError(f"{where}: no sha256 yet; run `python -m hidfd import FILE`, which prints it")
    return material.sha256


def _forward_flops(architecture: str, width: int | None, image_size_pixels: int) -> float:
    return ARCHITECTURES[architecture].forward_flops(image_size_pixels, width)


def _gan_step_flops(config: TrialConfig) -> float:
    """Per real image, forward and backward of both networks: 31 GFLOP for the residual pair at width 256, 32 px."""
    generation = config.generation
    scale = (generation.width / 256) ** 2 * (generation.image_size_pixels / 32) ** 2
    return 31e9 * scale / (4.7 if generation.networks == "light" else 1.0)

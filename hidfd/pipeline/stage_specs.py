"""The table of stages: which artifacts a trial has, and which of its settings, inputs and seeds each depends on.

`hidfd.pipeline.graph.plan` reads it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from hidfd.config.schema import Material, TrialConfig
from hidfd.config.section import ABSENT_IF_DEFAULT, OUTCOME_NEUTRAL, has_mark
from hidfd.errors import ConfigError
from hidfd.pipeline import operations
from hidfd.pipeline.network_sizes import CODE_ROLES, NetworkRole, factory_of, network_of

MATERIAL_SETTINGS = {
    "candidates": "data.candidates",
    "validation": "data.validation",
    "test": "data.test",
    "teacher_images": "teacher.train.images",
    "teacher": "teacher.checkpoint",
    "synthesis": "data.synthetic",
    "judge": "judge.checkpoint",
    "teacher_code": "teacher.code",
    "judge_code": "judge.code",
    "student_code": "distillation.code",
}
"""Role of the artifact that is made of a user's material -> where the study file names the material, below `trial`."""

VIEW_SETTINGS = ("crop_scale_min", "crop_fraction", "flip", "mix", "mix_fraction")
"""Settings of `distillation` that describe a student's views: DAFL's sees images as they were made."""


@dataclass(frozen=True)
class StageSpec:
    """One row of `STAGE_SPECS`: how one artifact of a trial follows from the trial's configuration.

    Attributes:
        role: names the artifact within its trial; of the rows with one role, at most one is part of a trial.
        name: the stage that builds it, one of `hidfd.pipeline.graph.STAGE_NAMES`.
        method: the method whose code builds it, which has a VERSION of its own; empty where the stage has but one.
        settings: returns the settings that change its result, as JSON types.
        inputs: roles of the artifacts that it reads.
        optional_inputs: roles that it reads where the trial has them.
        is_part_of: whether a trial has this artifact.
        seed: the name of its seed in `trial.seeds`; None where nothing is drawn.
        depends_on_precision: whether its numbers depend on `trial.precision`.
        target_images: returns its length, where a longer run continues a shorter one; None where none does.
        operations: returns the estimated floating-point operations of building it; 0 where data dominates.
    """

    role: str
    name: str
    settings: Callable[[TrialConfig], Any]
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    method: str = ""
    is_part_of: Callable[[TrialConfig], bool] = lambda config: True
    seed: str | None = None
    depends_on_precision: bool = False
    target_images: Callable[[TrialConfig], int] | None = None
    operations: Callable[[TrialConfig], float] = lambda config: 0.0


def material_of(config: TrialConfig, role: str) -> Material | None:
    """Return the user's material that the artifact of a role is made of; None where the trial has none."""
    value: Any = config
    for name in MATERIAL_SETTINGS[role].split("."):
        value = None if value is None else getattr(value, name)
    material: Material | None = value
    return material


def result_settings(section: BaseModel) -> dict[str, Any]:
    """Return the settings of a section that change a result: all but those with `OUTCOME_NEUTRAL` or, where they have
    their default, `ABSENT_IF_DEFAULT`."""
    settings: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if has_mark(type(section), name, OUTCOME_NEUTRAL):
            continue
        if has_mark(type(section), name, ABSENT_IF_DEFAULT) and value == info.get_default():
            continue
        settings[name] = result_settings(value) if isinstance(value, BaseModel) else value
    return settings


def _image_import(role: str, *, is_labelled: bool) -> StageSpec:
    def settings(config: TrialConfig) -> dict[str, Any]:
        data, material = config.data, material_of(config, role)
        order = material.label_order if is_labelled and material is not None else None
        columns = {"image_column": data.image_column, "label_column": data.label_column if is_labelled else None}
        added: dict[str, Any] = {} if order is None else {"label_order": list(order)}
        added |= {name: column for name, column in columns.items() if column is not None}
        return added | {
            "source": _content_of(config, role),
            "channels": data.channels,
            "image_size_pixels": data.image_size_pixels,
            "fit": data.fit,
            "num_classes": data.num_classes if is_labelled else None,
        }

    def is_part_of(config: TrialConfig) -> bool:
        return material_of(config, role) is not None and (role != "synthesis" or config.uses_synthetic_images)

    return StageSpec(role, "import", settings, is_part_of=is_part_of)


def _code_import(section: NetworkRole) -> StageSpec:
    role = CODE_ROLES[section]
    return StageSpec(
        role,
        "import",
        lambda config: {"source": _content_of(config, role), "kind": "code"},
        is_part_of=lambda config: material_of(config, role) is not None,
    )


def _network_settings(config: TrialConfig, section: NetworkRole) -> dict[str, Any]:
    """Return the settings of a network's section; the file of a network of one's own is an input."""
    settings = result_settings(network_of(config, section))
    settings.pop("code", None)
    return settings | {"architecture": factory_of(settings["architecture"])}


def _collection(is_part_of: Callable[[TrialConfig], bool], without: tuple[str, ...]) -> StageSpec:
    return StageSpec(
        "collection",
        "collection",
        lambda config: result_settings(config.collection),
        inputs=("candidates", "teacher"),
        optional_inputs=without,
        is_part_of=is_part_of,
        seed="collection",
        depends_on_precision=True,
    )


def _teacher_settings(config: TrialConfig) -> dict[str, Any]:
    settings = _network_settings(config, "teacher")
    settings |= {"num_classes": config.data.num_classes, "channels": config.data.channels}
    if config.teacher.train is None:
        settings["checkpoint"] = _content_of(config, "teacher")
    else:
        settings["train"].pop("images")  # an input
    return settings


def _judge_settings(config: TrialConfig) -> dict[str, Any]:
    assert config.judge is not None
    settings = _network_settings(config, "judge")
    settings |= {"num_classes": config.judge.num_classes or config.data.num_classes, "channels": config.data.channels}
    return settings | {"checkpoint": _content_of(config, "judge")}


def _evaluation(is_part_of: Callable[[TrialConfig], bool], judged_by: tuple[str, ...] = ()) -> StageSpec:
    return StageSpec(
        "evaluation",
        "evaluation",
        lambda config: None,
        inputs=("distillation", "teacher", "collection", *judged_by),
        optional_inputs=("validation",),
        is_part_of=is_part_of,
        depends_on_precision=True,
    )


def _generation_settings(config: TrialConfig) -> dict[str, Any]:
    settings, weights = result_settings(config.generation), config.generation.integration
    settings.pop("target_images")  # in the digest beside the trajectory's
    if not config.generation_asks_teacher:
        settings.pop("teacher_terms_every", None)
    if not config.smoothing_is_on:
        settings["smoothing"] = None
    elif config.generation.smoothing.mode != "effective":
        settings["smoothing"].pop("beta")
    if weights.blend_weight == 0:
        settings["integration"].pop("pairing")
    if weights.trans_weight == weights.blend_weight == 0:
        settings["integration"].pop("hidden_width")
    return settings


def _distillation_settings(config: TrialConfig) -> dict[str, Any]:
    settings = _network_settings(config, "distillation")
    if not (config.uses_real_images and config.uses_synthetic_images):
        settings.pop("inflation")  # with one source there is nothing to mix
    if config.distillation.kl_weight == 0:
        settings.pop("kl_temperature")
    if config.distillation.schedule != "steps":
        settings.pop("decay_at")
        settings.pop("decay_factor")
    if config.distillation.mix == "none":
        settings.pop("mix_fraction", None)
        settings.pop("mix_across", None)
    if not config.uses_synthetic_images:
        settings.pop("crop_fraction_synthetic", None)
    return settings


def _method_settings(config: TrialConfig) -> dict[str, Any]:
    """Return the settings of another method's student, and of what it learns from."""
    student, method = _distillation_settings(config), result_settings(getattr(config, config.method))
    student.pop("mix_across", None)  # they learn from one source
    if config.makes_images:
        student.pop("view_bank", None)
    match config.method:
        case "dafl":
            for name in VIEW_SETTINGS:
                student.pop(name, None)
        case "cmi":
            share = config.distillation.crop_fraction_synthetic
            student["crop_fraction"] = config.distillation.crop_fraction if share is None else share
            if config.cmi.contrastive_weight == 0:
                for name in ("contrastive_temperature", "embedding_width", "negatives"):
                    method.pop(name)
        case "dfnd" if config.dfnd.noisy_weight == 0:
            method.pop("adaptation_diagonal")
    return {"student": student, config.method: method}


def _student(method: str, settings: Callable[[TrialConfig], Any], count: Callable[[TrialConfig], float]) -> StageSpec:
    return StageSpec(
        "distillation",
        "distillation",
        settings,
        # Whatever the student learns from: the hold-out shows the map to imitate, and measures on the way.
        inputs=("teacher", "collection"),
        optional_inputs=("synthesis", "student_code"),
        method=method,
        is_part_of=lambda config: config.method == (method or "hidfd"),
        seed="distillation",
        depends_on_precision=True,
        operations=count,
    )


def _content_of(config: TrialConfig, role: str) -> str:
    material = material_of(config, role)
    if material is None or material.sha256 is None:
        raise ConfigError(
            f"trial.{MATERIAL_SETTINGS[role]}: no sha256 yet; run `python -m hidfd import FILE`, which prints it"
        )
    return material.sha256


STAGE_SPECS = (
    _image_import("candidates", is_labelled=False),
    _image_import("validation", is_labelled=True),
    _image_import("test", is_labelled=True),
    _image_import("teacher_images", is_labelled=True),
    _code_import("teacher"),
    _code_import("judge"),
    _code_import("distillation"),
    StageSpec(
        "teacher",
        "teacher",
        _teacher_settings,
        optional_inputs=("teacher_code",),
        is_part_of=lambda config: config.teacher.train is None,
    ),
    StageSpec(
        "teacher",
        "teacher",
        _teacher_settings,
        inputs=("teacher_images",),
        optional_inputs=("teacher_code",),
        is_part_of=lambda config: config.teacher.train is not None,
        seed="teacher",
        depends_on_precision=True,
        operations=operations.of_teacher,
    ),
    _collection(lambda config: config.collection.leaves_out_validation, without=("validation", "test")),
    _collection(lambda config: not config.collection.leaves_out_validation, without=("test",)),
    _image_import("synthesis", is_labelled=False),
    StageSpec(
        "judge",
        "import",
        _judge_settings,
        optional_inputs=("judge_code",),
        is_part_of=lambda config: config.is_judged,
    ),
    StageSpec(
        "generation",
        "generation",
        _generation_settings,
        inputs=("collection", "teacher"),
        is_part_of=lambda config: config.uses_generator,
        seed="generation",
        depends_on_precision=True,
        target_images=lambda config: config.generation.target_images,
        operations=operations.of_generation,
    ),
    StageSpec(
        "synthesis",
        "synthesis",
        lambda config: result_settings(config.synthesis),
        inputs=("generation", "teacher"),
        is_part_of=lambda config: config.uses_generator,
        seed="synthesis",
        depends_on_precision=True,
    ),
    _student("", _distillation_settings, operations.of_distillation),
    _student("dafl", _method_settings, operations.of_dafl),
    _student("cmi", _method_settings, operations.of_cmi),
    _student("dfnd", _method_settings, operations.of_distillation),
    _evaluation(lambda config: not config.is_judged),
    _evaluation(lambda config: config.is_judged, judged_by=("synthesis", "judge")),
)
"""Every artifact that a trial can have, in an order in which each can be built."""

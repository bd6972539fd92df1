"""The table of stages: which artifacts a trial has, and which of its settings, inputs and seeds each depends on.

`hidfd.pipeline.graph.plan` reads it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from hidfd.config.schema import ABSENT_IF_DEFAULT, OUTCOME_NEUTRAL, Material, TrialConfig, has_mark
from hidfd.errors import ConfigError
from hidfd.pipeline.network_sizes import CODE_ROLES, NetworkRole, factory_of, network_of, network_size

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


@dataclass(frozen=True)
class StageSpec:
    """One row of `STAGE_SPECS`: how one artifact of a trial follows from the trial's configuration.

    Attributes:
        role: names the artifact within its trial; of the rows with one role, at most one is part of a trial.
        name: the stage that builds it, one of `hidfd.pipeline.graph.STAGE_NAMES`.
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

    return StageSpec(role, "import", settings, is_part_of=lambda config: material_of(config, role) is not None)


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


def _content_of(config: TrialConfig, role: str) -> str:
    material = material_of(config, role)
    if material is None or material.sha256 is None:
        raise ConfigError(
            f"trial.{MATERIAL_SETTINGS[role]}: no sha256 yet; run `python -m hidfd import FILE`, which prints it"
        )
    return material.sha256


def _teacher_operations(config: TrialConfig) -> float:
    assert config.teacher.train is not None
    return 3 * _forward_flops(config, "teacher") * config.teacher.train.target_images


def _generation_operations(config: TrialConfig) -> float:
    generation, of_teacher = config.generation, _forward_flops(config, "teacher")
    if not config.generation_asks_teacher:
        return _gan_step_flops(config) * generation.target_images
    if not of_teacher:
        return 0.0
    return (_gan_step_flops(config) + 4 / generation.teacher_terms_every * of_teacher) * generation.target_images


def _distillation_operations(config: TrialConfig) -> float:
    of_teacher, of_student = _forward_flops(config, "teacher"), _forward_flops(config, "distillation")
    if not of_teacher or not of_student:
        return 0.0
    return of_teacher * config.asked_views + 3 * of_student * config.distillation.target_images


def _forward_flops(config: TrialConfig, role: NetworkRole) -> float:
    """Floating-point operations of one image in one forward pass; 0 while those of a network are not known."""
    size = network_size(config, role)
    return 0.0 if size is None else size.forward_flops


def _gan_step_flops(config: TrialConfig) -> float:
    """Floating-point operations per real image, forward and backward of both networks.

    31 GFLOP for the residual networks at width 256 and 32 px. Consistency regularisation shows D twice as many images
    in its own step.
    """
    generation = config.generation
    scale = (generation.width / 256) ** 2 * (generation.image_size_pixels / 32) ** 2
    scale *= 1.4 if generation.consistency_weight > 0 else 1.0
    scale *= 1.4 if (generation.networks, generation.image_size_pixels) == ("light", 64) else 1.0  # wider maps inside
    return 31e9 * scale / (4.7 if generation.networks == "light" else 1.0)


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
        operations=_teacher_operations,
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
        operations=_generation_operations,
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
    StageSpec(
        "distillation",
        "distillation",
        _distillation_settings,
        # Whatever the student learns from: the hold-out shows the map to imitate, and measures on the way.
        inputs=("teacher", "collection"),
        optional_inputs=("synthesis", "student_code"),
        seed="distillation",
        depends_on_precision=True,
        operations=_distillation_operations,
    ),
    _evaluation(lambda config: not config.is_judged),
    _evaluation(lambda config: config.is_judged, judged_by=("synthesis", "judge")),
)
"""Every artifact that a trial can have, in an order in which each can be built."""

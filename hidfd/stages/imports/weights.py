"""The import of the weights of a teacher or a judge from the user's checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hidfd.config.schema import JudgeConfig, TeacherConfig
from hidfd.data.object_path import local_copy
from hidfd.data.sources import located
from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone
from hidfd.networks.fitting import fitted
from hidfd.networks.teacher import build_judge_backbone, build_teacher_backbone
from hidfd.networks.weights import check_finite, read_state_dict
from hidfd.stages.context import StageContext, write_network
from hidfd.store.store import Artifact, ArtifactWriter


def import_teacher(context: StageContext) -> Artifact:
    """Bring the user's checkpoint of the teacher into the store.

    Raises:
        InputError: the file cannot be read, has other content than the stage's digest was taken of, does not fit the
            architecture (the message lists the keys), or holds weights that are not finite; or its mean and std are
            not of images in [0, 1].
    """
    return _import_network(context, context.config.teacher, build_teacher_backbone(context.config), "trial.teacher")


def import_judge(context: StageContext) -> Artifact:
    """Bring the user's checkpoint of the judge into the store.

    Raises:
        InputError: as of `import_teacher`.
    """
    assert context.config.judge is not None
    return _import_network(context, context.config.judge, build_judge_backbone(context.config), "trial.judge")


def _import_network(
    context: StageContext, given: TeacherConfig | JudgeConfig, backbone: Backbone, section: str
) -> Artifact:
    started, material, mean, std = time.monotonic(), given.checkpoint, given.mean, given.std
    assert material is not None
    assert mean is not None
    assert std is not None
    where = f"{section}.checkpoint"
    located(material, context.stage.identity["settings"]["checkpoint"], where)
    assert material.path is not None
    check_normalization(mean, std, section)
    note = context.observer.note
    setting = f"{section}.weights="
    with local_copy(material.path) as path:
        state = read_state_dict(path, note, wanted=given.weights, setting=setting)
    name = f"{where} {material.path} ({given.architecture})"
    state = fitted(state, backbone.published, name, material.path, note, wanted=given.weights, setting=setting)
    backbone.published.load_state_dict(state)
    check_finite(backbone.state_dict(), f"{where} {material.path}")  # as loaded: another precision may overflow

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        return write_network(writer, backbone, mean, std) | {"trained_here": False}

    # No rows, but `metrics.jsonl` all the same: a teacher that was trained elsewhere has an empty curve.
    return context.keep(write, seconds=time.monotonic() - started, rows=(), is_computed=False)


def check_normalization(mean: Sequence[float], std: Sequence[float], section: str = "trial.teacher") -> None:
    """Refuse a mean and standard deviation that no images in [0, 1] can have.

    Args:
        section: that they are in, for messages.

    Raises:
        InputError: says for which images they seem to be, and which values to give instead.
    """
    if all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std):
        return
    found = f"{section}.mean {list(mean)} and std {list(std)}"
    if not all(value > 0 for value in std):
        raise InputError(f"{found}: a standard deviation is above 0; give those that the network was trained with")
    if any(value < 0 for value in mean):
        cause, scaled = "are for images in [-1, 1]", ([(v + 1) / 2 for v in mean], [v / 2 for v in std])
    else:
        cause, scaled = "are for images in 0..255", ([v / 255 for v in mean], [v / 255 for v in std])
    fits = all(0 <= value <= 1 for value in scaled[0]) and all(value <= 1 for value in scaled[1])
    values = [f"{section}.{name}={_rounded(new)}" for name, new in zip(("mean", "std"), scaled, strict=True)]
    likely = f"probably they {cause}: then set {' '.join(values)}" if fits else "no images have such values"
    raise InputError(
        f"{found}: images are in [0, 1] here, so a mean is from 0 to 1 and a std at most 1; else a network gives "
        f"nearly all images one class; {likely}"
    )


def _rounded(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.4g}' for value in values)}]"

"""The import of networks from elsewhere: the file of the user's own, and the size of each as it is when it is built."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hidfd.data.sources import located
from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone, num_parameters
from hidfd.networks.backbones.outside_network import OutsideNetwork
from hidfd.networks.student import build_student_backbone
from hidfd.networks.teacher import build_judge_backbone, build_teacher_backbone
from hidfd.pipeline.known_networks import CODE
from hidfd.pipeline.network_sizes import NetworkRole, NetworkSize, network_of
from hidfd.pipeline.stage_specs import MATERIAL_SETTINGS, material_of
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter

BUILDERS = {"teacher": build_teacher_backbone, "judge": build_judge_backbone, "distillation": build_student_backbone}
"""Section of a trial -> function that builds its network."""


def import_code(context: StageContext) -> Artifact:
    """Bring the file of a network of the user's own into the store.

    Raises:
        InputError: the file cannot be read, is not Python's text, or has other content than the digest was taken of.
    """
    started, stage = time.monotonic(), context.stage
    where = f"trial.{MATERIAL_SETTINGS[stage.role]}"
    material = material_of(context.config, stage.role)
    assert material is not None
    files = located(material, stage.identity["settings"]["source"], where)
    path = files.paths[0]
    if files.kind != "file":
        raise InputError(f"{where}: {path} is not one file; expected the Python file of a network")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != stage.identity["settings"]["source"]:
        raise InputError(f"{where}: {path} was changed while it was read; start again")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {path} is not UTF-8 text ({error.reason} at byte {error.start:,})") from error

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        writer.path(CODE).write_bytes(content)
        return {"name": path.name}

    return context.keep(write, seconds=time.monotonic() - started, is_computed=False)


def measure_network(context: StageContext, role: NetworkRole) -> Artifact:
    """Build a network from elsewhere, find its size and where its features end, and keep that in the store.

    Args:
        context: with the stage that `hidfd.pipeline.graph.network_size_of` returns.

    Raises:
        InputError: it cannot be built, or is no backbone.
    """
    config, name = context.config, network_of(context.config, role).architecture
    backbone = BUILDERS[role](config).eval()
    size = _size_of(backbone, config.data.channels, config.data.image_size_pixels)
    assert isinstance(backbone, OutsideNetwork)
    width, side = size.feature_width, size.feature_side_pixels
    features = f"the last map, {width:,} channels of {side}x{side}"
    if not backbone.is_map:
        features = f"a vector of {width:,} numbers, as its classifier reads no mean of a map"
    context.observer.note(
        f"trial.{role}.architecture {name}: {size.parameters:,} parameters, "
        f"{size.forward_flops / 1e9:.3g} GFLOP for an image; its features: {features}"
    )

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        meta = asdict(size) | {"is_map": backbone.is_map}
        writer.path("network_size.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        return meta

    return context.keep(write, is_computed=False)


def _size_of(backbone: Backbone, channels: int, side: int) -> NetworkSize:
    image = torch.zeros(1, channels, side, side)
    feature_map = backbone.forward_map(image)
    with FlopCounterMode(display=False) as counter:
        backbone(image)  # with gradients: without, torch's attention takes a path that is not counted
    return NetworkSize(
        num_parameters(backbone), backbone.feature_width, feature_map.shape[-1], float(counter.get_total_flops())
    )

"""Write the folder of a trial: resolved configuration, metrics, manifest, result, pictures and report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import open_images
from hidfd.data.pictures import encode_png, tile
from hidfd.data.pixels import resize_uint8, resize_unit, unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.git import commit_of
from hidfd.pipeline.graph import OTHER_METHODS, TEACHER_CHECK, Stage, needed, teacher_check_of
from hidfd.report.class_rows import MAX_ROWS
from hidfd.report.live_metrics import METRICS
from hidfd.stages.inputs import StageInputs
from hidfd.store.disk import store_errors
from hidfd.store.store import Artifact, Store
from hidfd.training.loop import LOOPS, rows_so_far

PICTURE_COLUMNS = 10
"""Number of images of a class in `real.png` and `synthetic.png`."""

MAX_PAIRS = 8
"""Number of nearest pairs in `neighbours.png`."""

MAX_SYNTHETIC_IMAGES = 1000
"""Number of synthetic images that the pictures choose from: the first ones of the set."""


@dataclass(frozen=True)
class Built:
    """The artifacts that a trial has built so far.

    Attributes:
        config: with the sha256 of every material.
        stages: role -> stage, of the whole trial.
        store: that holds the artifacts.
        device: that they were built on.
        seconds: role -> seconds that building took.
        reused: roles that were found in the store.
        inputs: what the stages read, opened at most once.
    """

    config: TrialConfig
    stages: dict[str, Stage]
    store: Store
    device: Device
    seconds: Mapping[str, float]
    reused: Collection[str]
    inputs: StageInputs

    def find(self, role: str) -> Artifact | None:
        """Return a stage's artifact; None if the trial has no such stage, or has not built it."""
        stage = self.stages.get(role)
        return None if stage is None else self.store.find(stage.name, stage.digest)


def prepare(folder: Path, name: str, config: TrialConfig, store: Store) -> Path:
    """Make the folder, write `config.yaml`, and return the folder for sample grids.

    Pictures and rows that another trial has left in the same folder are deleted, or its report would show them.
    """
    samples = folder / "samples"
    left_out: dict[str, Any] = {"preset": True}
    if not config.teacher.accept:
        left_out["teacher"] = {"accept"}  # folders of before have no such line, and their pictures remain
    if config.collection.leaves_out_validation:
        left_out["collection"] = {"leaves_out_validation"}
    if config.judge is None:
        left_out["judge"] = True
    if config.method == "hidfd":
        left_out["method"] = True
    left_out |= dict.fromkeys((method for method in OTHER_METHODS if method != config.method), True)
    resolved = {
        "name": name,
        "storage": {"store": store.uri},
        "trial": config.model_dump(mode="json", exclude=left_out),
    }
    text = yaml.safe_dump(resolved, sort_keys=False)
    with store_errors("writing into the trial's folder", folder):
        samples.mkdir(parents=True, exist_ok=True)
        configuration = folder / "config.yaml"
        if configuration.exists() and configuration.read_bytes() != text.encode():
            for picture in (*samples.glob("generation-*.png"), *(folder / "pictures").glob("*.png")):
                picture.unlink()
            (folder / METRICS).unlink(missing_ok=True)
        configuration.write_text(text, encoding="utf-8")
    return samples


def result_of(built: Built, until: str) -> dict[str, Any]:
    """Return the numbers of `result.json`: None if a stage was not asked for or a measure does not exist."""
    config, store = built.config, built.store
    metas = {}
    for stage in needed(built.stages, until):
        artifact = store.find(stage.name, stage.digest)
        if artifact is not None:
            metas[stage.role] = artifact.meta
    evaluation = metas.get("evaluation", {})
    student, teacher, collection = (metas.get(role, {}) for role in ("distillation", "teacher", "collection"))
    synthesis = metas.get("synthesis", {}) if config.uses_synthetic_images else {}
    keys = (
        *("agreement", "agreement_standard_error", "agreement_classes", "agreement_is_plain_mean"),
        *("agreement_per_class", "agreement_reference"),
        *("kl_to_teacher", "validation_images", "validation_accuracy", "validation_per_class", "validation_confusion"),
        "validation_calibration_error",
        *("judge_images", "judge_fid", "judge_kid", "judge_kid_standard_error", "judge_density", "judge_coverage"),
    )
    teacher_accuracy = evaluation.get("teacher_validation_accuracy")
    if teacher_accuracy is None and "validation" in built.stages:
        # Measured when the teacher was trained; comparable only if that was on the same images.
        same = teacher.get("validation_digest") == built.stages["validation"].digest
        teacher_accuracy = teacher.get("validation_accuracy") if same else None
    if teacher_accuracy is None and (check := store.find(TEACHER_CHECK, teacher_check_of(built.stages).digest)):
        teacher_accuracy = check.meta["accuracy"]
    return {key: evaluation.get(key) for key in keys} | {
        "teacher_validation_accuracy": teacher_accuracy,
        "class_histogram_collection": collection.get("histogram"),
        "class_histogram_synthetic": synthesis.get("histogram"),
        "generator": _generator_numbers(metas.get("generation")) if config.uses_generator else None,
        "student_parameters": student.get("plain_parameters"),
        "deployed_parameters": student.get("deployed_parameters"),
        "teacher_parameters": teacher.get("num_parameters"),
        "num_collected": student.get("num_real"),
        "num_synthetic": student.get("num_synthetic"),
        "real_share": student.get("real_share"),
        "in_domain": config.data.candidates_in_domain,
        "class_names": list(config.data.readable_names) or [str(k) for k in range(config.data.num_classes)],
    }


def _generator_numbers(meta: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a generator's proxies, and the number of classes it was asked to make: those of the collected images."""
    return None if meta is None else {**meta["proxies"], "asked_classes": len(meta["present_classes"])}


def write(folder: Path, name: str, built: Built, until: str) -> Path:
    """Write all other files from the store, so that a reused trial has the same folder as a fresh one."""
    with store_errors("writing into the trial's folder", folder):
        return _write(folder, name, built, until)


def _write(folder: Path, name: str, built: Built, until: str) -> Path:
    rows, stages = [], []
    for role, stage in built.stages.items():
        artifact = built.store.find(stage.name, stage.digest)
        if artifact is None:
            if stage.name in LOOPS:
                checkpoints = built.store.checkpoints(stage.checkpoints)
                rows += [{"stage": role, **row} for row in rows_so_far(checkpoints, stage.target_images)]
            continue
        rows += [{"stage": role, **row} for row in artifact.metrics()]
        stages.append(
            {
                "name": stage.name,
                "role": role,
                "digest": stage.digest,
                "reused": role in built.reused,
                "seconds": built.seconds.get(role),
                "created": artifact.created,
                "meta": artifact.meta,
            }
        )
        for file in artifact.files:
            if file.startswith("grid-"):
                target = folder / "samples" / file.replace("grid-", "generation-")
                target.write_bytes(artifact.path(file).read_bytes())
    manifest = {
        "name": name,
        "stages": stages,
        "device": built.device.description,
        "versions": {package: version(package) for package in ("hidfd", "torch", "torchvision", "numpy")},
        "git_commit": commit_of(Path(__file__).parent),
        "command": _command(),
    }
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result_of(built, until), indent=1), encoding="utf-8")
    _draw_pictures(folder / "pictures", built)
    from hidfd.report.page import write_trial_report  # only here: a trial without a folder needs no matplotlib

    return write_trial_report(folder)


def _command() -> str | None:
    """Return the command as one would type it again; None in a worker of a study or a notebook."""
    program = Path(sys.argv[0])
    if program.name != "__main__.py":
        return None
    return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])


def _draw_pictures(folder: Path, built: Built) -> None:
    """Draw `real.png` and `synthetic.png`, a row per class, and `neighbours.png`, the nearest pairs of the two."""
    folder.mkdir(exist_ok=True)
    if built.find("collection") is None or built.find("candidates") is None:
        return
    collection = built.inputs.collection
    size = built.config.data.image_size_pixels
    num_classes = min(built.config.data.num_classes, MAX_ROWS)
    real = _rows_by_class(collection.images, collection.labels, num_classes)
    (folder / "real.png").write_bytes(encode_png(real))
    synthesis = built.find("synthesis")
    if synthesis is None:
        return
    images = open_images(synthesis)
    pixels = resize_uint8(torch.from_numpy(images.pixels[:MAX_SYNTHETIC_IMAGES]), size)
    if images.labels is None:  # the user's own images: a row per class that the teacher sees in them
        labels = built.inputs.teacher.ask_all(pixels, built.device).logits.argmax(dim=1)
    else:
        labels = torch.from_numpy(images.labels[: len(pixels)])
    (folder / "synthetic.png").write_bytes(encode_png(_rows_by_class(pixels, labels, num_classes)))
    distances = torch.cdist(_flat_pixels(pixels[:500]), _flat_pixels(collection.images))
    nearest = distances.min(dim=1)
    closest = nearest.values.argsort()[:MAX_PAIRS]
    pairs = torch.cat([pixels[closest], collection.images[nearest.indices[closest]]])
    (folder / "neighbours.png").write_bytes(encode_png(tile(pairs, len(closest))))


def _flat_pixels(images: Tensor) -> Tensor:
    """Return flat pixels at no more than 32 px: near copies are near at that size too, and memory stays bounded."""
    side = min(32, images.shape[-1])
    return torch.cat([resize_unit(unit_from_uint8(part), side).flatten(1) for part in torch.split(images, 256)])


def _rows_by_class(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    rows = []
    for k in range(num_classes):
        of_class = images[labels == k][:PICTURE_COLUMNS]
        missing = PICTURE_COLUMNS - len(of_class)
        rows.append(torch.cat([of_class, of_class.new_full((missing, *images.shape[1:]), 255)]))
    return tile(torch.cat(rows), PICTURE_COLUMNS)

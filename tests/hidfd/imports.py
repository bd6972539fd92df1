"""Images, and configurations that import them, for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hidfd.config.schema import TrialConfig
from hidfd.data.identify import identify
from hidfd.distributed.device import resolve_device
from hidfd.pipeline import graph as stages
from hidfd.pipeline.observer import Observer
from hidfd.stages.context import StageContext
from hidfd.stages.imports.images import import_images
from hidfd.store.store import Artifact, Store

SHA256 = "a" * 64


class Listener(Observer):
    """An observer that remembers what was reported, and may ask to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.positions: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self._stop_after = stop_after

    def advanced(self, stage: stages.Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        self.positions.append((images, target_images))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> str | None:
        stop = self._stop_after is not None and len(self.positions) >= self._stop_after
        return "Ctrl-C" if stop else None


def config_of(candidates: Path | str, validation: Path | str | None = None, **data: Any) -> TrialConfig:
    settings: dict[str, Any] = {"num_classes": 3, "channels": 3, "image_size_pixels": 8} | data
    settings["candidates"] = {"path": str(candidates)}
    if validation is not None:
        settings["validation"] = {"path": str(validation)}
    channels = settings["channels"]
    teacher = {"checkpoint": {"sha256": SHA256}, "mean": [0.5] * channels, "std": [0.5] * channels}
    return TrialConfig.model_validate({"data": settings, "teacher": teacher})


def run_import(
    config: TrialConfig, store: Store, role: str = "candidates", observer: Observer | None = None
) -> Artifact:
    config = identify(config, store)
    return import_images(context_of(config, store, role, observer))


def context_of(
    config: TrialConfig, store: Store, role: str = "candidates", observer: Observer | None = None
) -> StageContext:
    """One stage of a trial, to be built on the CPU."""
    return StageContext(stages.plan(config)[role], config, store, resolve_device("cpu", "fp32"), observer or Observer())


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, contents: list[bytes | None], labels: list[Any] | None = None, **columns: Any) -> Path:
    """Write the Hugging Face layout, with three class names."""
    images = [None if content is None else {"bytes": content, "path": "x.png"} for content in contents]
    arrays: dict[str, Any] = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        arrays["label"] = labels
        features["label"] = {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}
    table = pa.table(arrays | columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def class_folders(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(seed).save(root / name / "x.png")
    return root

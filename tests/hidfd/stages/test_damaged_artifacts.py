"""An artifact whose manifest vouches for content that no stage writes ends a trial with a message."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hidfd.config.schema import TrialConfig
from hidfd.errors import StoreError
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.interruptions import Killer
from tests.hidfd.miniature import build_world, miniature

ORDER = ("collection", "generation", "synthesis", "distillation", "evaluation")


def _torch_file(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialConfig, Path]:
    folder = tmp_path_factory.mktemp("built")
    config = miniature(build_world(folder / "world"))
    run_trial(config, Store.open(folder / "store"), device="cpu")
    return config, folder / "store"


def _vouch(manifest: Path, name: str, content: bytes) -> None:
    """Replace a file of an artifact, and have its manifest say that this is what was written."""
    record = json.loads(manifest.read_text())
    (manifest.parent / record["attempt"] / name).write_bytes(content)
    record["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest.write_text(json.dumps(record))


def store_before(stage: str, whole: Path, tmp_path: Path) -> Path:
    """Return a copy of a store without the artifacts of a stage and of those after it."""
    root = Path(shutil.copytree(whole, tmp_path / "store"))
    for later in ORDER[ORDER.index(stage) :]:
        shutil.rmtree(root / later)
    return root


@pytest.mark.parametrize(
    "content", [b"", b"rubbish" * 100, b"PAR1" + bytes(50) + b"PAR1"], ids=["empty", "rubbish", "like Parquet"]
)
@pytest.mark.parametrize(
    ("stage", "file", "rebuilt"),
    [
        ("import", "images.parquet", "collection"),
        ("teacher", "weights.safetensors", "collection"),
        ("collection", "collection.parquet", "generation"),
        ("generation", "generator.safetensors", "synthesis"),
        ("synthesis", "images.parquet", "distillation"),
        ("distillation", "student.safetensors", "evaluation"),
    ],
)
def test_file_that_no_stage_writes_is_said_by_the_stage_that_reads_it(
    built: tuple[TrialConfig, Path], tmp_path: Path, stage: str, file: str, rebuilt: str, content: bytes
) -> None:
    root = store_before(rebuilt, built[1], tmp_path)
    for manifest in (root / stage).glob("*/manifest.json"):
        _vouch(manifest, file, content)
    with pytest.raises(StoreError, match=r"not what a stage.*Delete .*run again|not the Parquet file"):
        run_trial(built[0], Store.open(root), device="cpu")


@pytest.mark.parametrize(
    ("stage", "name", "value", "rebuilt"),
    [
        ("teacher", "mean", None, "collection"),
        ("teacher", "std", "wide", "collection"),
        ("generation", "present_classes", {"0": 1}, "synthesis"),
        ("distillation", "teacher_map_size", "large", "evaluation"),
    ],
)
def test_small_result_of_another_type_is_said(
    built: tuple[TrialConfig, Path], tmp_path: Path, stage: str, name: str, value: Any, rebuilt: str
) -> None:
    root = store_before(rebuilt, built[1], tmp_path)
    [manifest] = (root / stage).glob("*/manifest.json")
    record = json.loads(manifest.read_text())
    record["meta"][name] = value
    manifest.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="not what a stage"):
        run_trial(built[0], Store.open(root), device="cpu")


@pytest.mark.parametrize("make", [lambda: b"rubbish", lambda: _torch_file([1]), lambda: _torch_file({"task": {}})])
def test_checkpoint_that_no_loop_writes_is_said(
    built: tuple[TrialConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    root = shutil.copytree(built[1], tmp_path / "store")
    for later in ("distillation", "evaluation"):
        shutil.rmtree(root / later)
    config = built[0].model_copy(update={"checkpoint_every_seconds": 1.0})
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, Store.open(root), device="cpu", observer=Killer("distillation", 3))
    manifests = list((root / "checkpoints").rglob("manifest.json"))
    assert manifests
    for manifest in manifests:
        _vouch(manifest, "state.pt", make())
    with pytest.raises(StoreError, match=r"state.pt: not what a stage .*Delete .*run again"):
        run_trial(config, Store.open(root), device="cpu")

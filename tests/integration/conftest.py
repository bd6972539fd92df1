"""A folder with a tiny study, as a user would have it, and the real command line over it."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from hidfd.networks.build import build_backbone
from tests.integration.s3 import S3Server, running_s3


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Workplace:
    """A folder with a study file in it, where commands run."""

    folder: Path

    def write(self, tree: dict[str, Any], *, file: str = "study.yaml") -> None:
        (self.folder / file).write_text(yaml.safe_dump(tree, sort_keys=False))

    def run(self, package: str, *arguments: str, **environment: str) -> Outcome:
        """Run `python -m PACKAGE ARGUMENTS` in this process, which saves the seconds of importing torch.

        An exception that the command line does not turn into a message ends the test, as it would end the process.
        """
        out, err = io.StringIO(), io.StringIO()
        main = importlib.import_module(f"{package}.__main__").main
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                returncode = main(list(arguments))
            except SystemExit as exit_:  # argparse's way
                returncode = exit_.code
        return Outcome(returncode, out.getvalue(), err.getvalue())

    def run_process(self, package: str, *arguments: str, **environment: str) -> Outcome:
        """Run `python -m PACKAGE ARGUMENTS` as a process, as a user does."""
        done = subprocess.run(
            [sys.executable, "-m", package, *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def s3_server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server, which AWS's variables name."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def tiny(tmp_path: Path) -> Workplace:
    """The folder of `tiny_workplace`."""
    return tiny_workplace(tmp_path)


def tiny_workplace(folder: Path) -> Workplace:
    """Write `study.yaml`, `photos/` (60 grey images of 3 classes), `held/<class>/` (15) and `teacher.safetensors`."""
    draws = np.random.default_rng(0)
    for part, count in (("photos", 60), ("held", 15)):
        for number in range(count):
            label = number % 3
            image = draws.normal(40, 25, (28, 28))
            image[label * 9 : label * 9 + 9] += 150
            part_folder = folder / part / (f"class{label}" if part == "held" else "")
            part_folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(part_folder / f"{number:03d}.png")
    torch.manual_seed(0)
    teacher = build_backbone("resnet8", num_classes=3, channels=1, width=4)
    safetensors.torch.save_file(teacher.state_dict(), folder / "teacher.safetensors")
    place = Workplace(folder)
    place.write(tiny_study())
    return place


def tiny_study() -> dict[str, Any]:
    """Return a study file whose trial takes seconds: three GAN steps, four student steps."""
    return {
        "name": "tiny",
        "trial": {
            "preset": "quick",
            "data": {
                "num_classes": 3,
                "channels": 1,
                "image_size_pixels": 28,
                "candidates": {"path": "photos"},
                "validation": {"path": "held"},
            },
            "teacher": {
                "architecture": "resnet8",
                "width": 4,
                "checkpoint": {"path": "teacher.safetensors"},
                "mean": [0.3],
                "std": [0.3],
            },
            "collection": {"num_images": 24, "holdout_images": 30, "mode": "random"},
            "generation": {"width": 4, "latent_dim": 8, "target_images": 24, "batch_images": 8},
            "synthesis": {"num_images": 20},
            "distillation": {"width": 4, "target_images": 64, "batch_images": 16},
            "log_every_images": 16,
        },
    }

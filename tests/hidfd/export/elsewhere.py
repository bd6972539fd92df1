"""Another machine: a Python in which this project, and packages that are not needed, cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

HIDDEN: dict[str, tuple[str, ...]] = {
    "onnx": ("hidfd", "tune", "k8s", "torch", "onnx", "onnxscript", "safetensors", "pyarrow"),
    "torch": ("hidfd", "tune", "k8s", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors", "pyarrow"),
}
"""Format -> packages without which its example runs."""


def run_example(bundle: Path, format_: str, *photos: Path, folder: Path) -> list[str]:
    """Return the lines that `classify.py` prints about photos, in another folder where nothing else is.

    Args:
        folder: for what hides the packages.
    """
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    for package in HIDDEN[format_]:
        (hidden / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package} on this machine')\n")
    outcome = subprocess.run(
        [sys.executable, str(bundle / "classify.py"), *map(str, photos)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.splitlines()

"""The formats of an exported student: written by torch, and run by what runs them elsewhere."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hidfd.config.schema import Material
from hidfd.errors import ConfigError, ExportError, InputError

if TYPE_CHECKING:
    from hidfd.export.network import DeployedStudent
    from hidfd.export.weights import StudentShape

Format = Literal["onnx", "torch", "safetensors"]

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Function from images, `b x c x h x h` in [0, 1], to logits, `b x K`."""

NETWORK_FILES: dict[Format, str] = {
    "onnx": "student.onnx",
    "torch": "student.pt2",
    "safetensors": "student.safetensors",
}
"""Format -> name of its file."""

FORMAT_NAMES: dict[Format, str] = {"onnx": "ONNX", "torch": "torch.export", "safetensors": "safetensors"}
"""Format -> its name in texts."""

INPUT, OUTPUT = "images", "logits"
"""Names of the network's input and output in ONNX."""

EXAMPLE_IMAGES = 2
"""Batch of the example that a network is traced with: torch would take a batch of 1 for a constant."""

EXTRA = "pip install 'hidfd[export]'"
"""The command that installs what ONNX needs."""

_WRITING_ONNX, _RUNNING_ONNX = ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)


def check_can_write(format_: Format) -> None:
    """Check that the packages are there that a format is written and checked with.

    Raises:
        ConfigError: some are missing; the message says how to install them.
    """
    missing = _missing(_WRITING_ONNX) if format_ == "onnx" else []
    if missing:
        raise ConfigError(
            f"--format onnx: needs {_and(missing)}, not installed here; {EXTRA} (in a clone of the repository: "
            f"pip install -e '.[export]'), or take --format torch or --format safetensors"
        )


def write_network(network: DeployedStudent, format_: Format, shape: StudentShape, folder: Path) -> None:
    """Write a network into a folder, under the name in `NETWORK_FILES`.

    Raises:
        ExportError: torch cannot convert it.
    """
    path = folder / NETWORK_FILES[format_]
    if format_ == "safetensors":
        from hidfd.export.weights import write_weights

        write_weights(network, shape, path)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own modules
            (_write_onnx if format_ == "onnx" else _write_program)(network, shape, path)
    except OSError:
        raise
    except Exception as error:  # whatever a network from elsewhere makes torch raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"{shape.architecture} cannot be written as {FORMAT_NAMES[format_]}: {first}; try another --format: "
            f"{', '.join(other for other in NETWORK_FILES if other != format_)}"
        ) from error


def open_network(path: Path, format_: Format, code: Material | None = None) -> Run:
    """Return a written network as a function, run on the CPU by what runs it elsewhere.

    Args:
        code: the file of a network of the user's own, which safetensors need.

    Raises:
        ConfigError: it is ONNX, and onnxruntime is not installed.
        InputError: the file is damaged.
    """
    if format_ == "onnx":
        return _open_onnx(path)
    import torch

    module: torch.nn.Module
    if format_ == "torch":
        try:
            module = torch.export.load(path).module()
        except Exception as error:  # whatever a damaged file makes torch raise
            raise _unreadable(path, error) from error
    else:
        from hidfd.export.weights import read_weights

        module = read_weights(path, code)

    def run(image_unit: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = module(torch.from_numpy(image_unit)).numpy()
        return logits

    return run


def _write_onnx(network: DeployedStudent, shape: StudentShape, path: Path) -> None:
    import torch

    program = torch.onnx.export(
        network,
        (_example(shape),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of source with paths of this machine
    program.save(path)  # with a file of weights beside it where one file cannot hold them: 2 GB


def _write_program(network: DeployedStudent, shape: StudentShape, path: Path) -> None:
    import torch

    program = torch.export.export(network, (_example(shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, path)


def _example(shape: StudentShape) -> object:
    import torch

    return torch.full((EXAMPLE_IMAGES, shape.channels, shape.image_size_pixels, shape.image_size_pixels), 0.5)


def _open_onnx(path: Path) -> Run:
    if _missing(_RUNNING_ONNX):
        raise ConfigError(f"{path}: onnxruntime, which runs it, is not installed here; {EXTRA}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common error
        raise _unreadable(path, error) from error

    def run(image_unit: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([OUTPUT], {INPUT: image_unit})[0]
        return logits

    return run


def _unreadable(path: Path, error: Exception) -> InputError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return InputError(f"{path}: cannot be loaded ({first}); it is damaged, or of another version: export it again")


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""Every format gives the student's logits for any batch, and what cannot be written says what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hidfd.data.pixels import Normalization
from hidfd.errors import ConfigError, ExportError, InputError
from hidfd.export.formats import NETWORK_FILES, Format, check_can_write, open_network, write_network
from hidfd.export.network import DeployedStudent, StudentInput
from hidfd.export.weights import StudentShape
from hidfd.networks.build import build_backbone
from hidfd.networks.student import Student
from tests.hidfd.export.conftest import FinishedTrial

FORMATS = [pytest.param("onnx", marks=pytest.mark.slow), "torch", "safetensors"]


def written(trial: FinishedTrial, format_: Format, folder: Path) -> tuple[DeployedStudent, Path]:
    """Write the trial's student, and return it and the file."""
    if format_ == "onnx":
        pytest.importorskip("onnxruntime", reason="installed by `make setup`")
    network = trial.network
    write_network(network, format_, StudentShape.of(trial.config, network), folder)
    return network, folder / NETWORK_FILES[format_]


@pytest.mark.parametrize("format_", FORMATS)
def test_written_network_gives_the_students_logits_for_any_batch(
    format_: Format, finished: FinishedTrial, tmp_path: Path
) -> None:
    network, path = written(finished, format_, tmp_path)
    run = open_network(path, format_)
    for count in (1, 2, 7):
        image_unit = torch.rand(count, 1, 28, 28)
        np.testing.assert_allclose(run(image_unit.numpy()), network(image_unit).numpy(), rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torch", "safetensors"])
def test_network_whose_classifier_is_a_part_of_a_part_is_written(format_: Format, tmp_path: Path) -> None:
    backbone = build_backbone("mobilenetv2-32px", num_classes=3, channels=1)
    student = Student(backbone, head="own", teacher_classifier=backbone.classifier, teacher_map_size=1)
    network = DeployedStudent(student, StudentInput(Normalization((0.3,), (0.2,)), 32))
    shape = StudentShape("mobilenetv2-32px", None, 3, 1, 32, "own", 1, True, (0.3,), (0.2,))
    write_network(network, format_, shape, tmp_path)
    image_unit = torch.rand(3, 1, 32, 32)
    logits = open_network(tmp_path / NETWORK_FILES[format_], format_)(image_unit.numpy())
    np.testing.assert_allclose(logits, network(image_unit).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format_", FORMATS)
def test_written_network_names_no_path_of_this_machine(
    format_: Format, finished: FinishedTrial, tmp_path: Path
) -> None:
    _, path = written(finished, format_, tmp_path)
    content = path.read_bytes()
    for folder in (Path(__file__).parents[3], Path(sys.prefix), Path.home()):
        assert str(folder).encode() + b"/" not in content


@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_network_is_refused(format_: Format, finished: FinishedTrial, tmp_path: Path) -> None:
    _, path = written(finished, format_, tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="export it again"):
        open_network(path, format_)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_one_message_with_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"pip install 'hidfd\[export\]'") as refused:
        check_can_write("onnx")
    assert missing in str(refused.value)
    assert "--format torch" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    check_can_write("torch")
    check_can_write("safetensors")


def test_onnx_without_its_runtime_is_one_message_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"student.onnx: onnxruntime.*pip install 'hidfd\[export\]'"):
        open_network(tmp_path / "student.onnx", "onnx")


def test_network_that_torch_cannot_convert_is_one_message_with_the_other_formats(
    finished: FinishedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("data-dependent expression u0 == 1\n  and much more")

    monkeypatch.setattr(torch.export, "export", fail)
    network = finished.network
    with pytest.raises(ExportError) as refused:
        write_network(network, "torch", StudentShape.of(finished.config, network), tmp_path)
    assert refused.value.exit_code == 17
    assert str(refused.value) == (
        "resnet8 cannot be written as torch.export: data-dependent expression u0 == 1; try another --format: "
        "onnx, safetensors"
    )

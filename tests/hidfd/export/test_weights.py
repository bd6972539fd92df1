"""Weights alone say of which architecture they are, and are built into the same network again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hidfd.errors import InputError
from hidfd.export.network import DeployedStudent
from hidfd.export.weights import SHAPE, StudentShape, read_weights, write_weights
from hidfd.networks.build import build_backbone
from hidfd.networks.student import Student
from hidfd.networks.teacher import Teacher


def network_of(head: str, *, last_relu: bool = True) -> tuple[DeployedStudent, StudentShape]:
    torch.manual_seed(1)
    teacher = Teacher(build_backbone("resnet14", num_classes=5, channels=3, width=6), (0.3,) * 3, (0.2,) * 3, 20)
    backbone = build_backbone("resnet8", num_classes=5, channels=3, width=4)
    classifier = teacher.backbone.classifier
    student = Student(backbone, head=head, teacher_classifier=classifier, teacher_map_size=3, last_relu=last_relu)
    shape = StudentShape("resnet8", 4, 5, 3, 20, head, 3, last_relu, (0.3,) * 3, (0.2,) * 3)
    return DeployedStudent(student, teacher), shape


@pytest.mark.parametrize(("head", "last_relu"), [("own", True), ("shared", True), ("shared", False)])
def test_network_is_built_again_from_its_weights(head: str, last_relu: bool, tmp_path: Path) -> None:
    network, shape = network_of(head, last_relu=last_relu)
    write_weights(network, shape, tmp_path / "student.safetensors")
    image_unit = torch.rand(3, 3, 20, 20)
    again = read_weights(tmp_path / "student.safetensors")
    torch.testing.assert_close(again(image_unit), network(image_unit), rtol=0, atol=0)


def test_file_names_its_architecture(tmp_path: Path) -> None:
    network, shape = network_of("own")
    write_weights(network, shape, tmp_path / "student.safetensors")
    with safe_open(tmp_path / "student.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "resnet8"
    assert StudentShape.from_json(json.loads(metadata[SHAPE])) == shape


def test_weights_of_a_network_of_ones_own_are_not_built_without_its_code(tmp_path: Path) -> None:
    network, shape = network_of("own")
    write_weights(network, replace(shape, architecture="nets.py:make"), tmp_path / "student.safetensors")
    with pytest.raises(InputError, match="nets.py:make, whose code is not with them; export it with --format onnx"):
        read_weights(tmp_path / "student.safetensors")


def test_weights_of_somebody_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="not the weights of an exported student"):
        read_weights(tmp_path / "student.safetensors")
